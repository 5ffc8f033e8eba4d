"""Metrics of a corpus: of decoded text beside references, and of the likelihood of text.

    names       which ones there are, and which way each gets better
    text        those of text, computed together
    bleu        how BLEU cuts text into words
    edits       edit distances and error rates
    rouge       ROUGE
    scripts     which scripts put no spaces between words
    likelihood  perplexities and bits per byte
    measure     all of a set of examples together

A thousand sentences of a dozen words take about 0.1 s for BLEU and 0.2 s for chrF on one core, the import of sacreBLEU
another 0.15 s.
"""
