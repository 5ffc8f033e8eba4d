"""The metrics of decoded text beside references, all in percent of a corpus."""

import dataclasses
import importlib.metadata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from s2sjax.config import choose
from s2sjax.errors import UserError
from s2sjax.metrics.bleu import corpus_scores, make_bleu
from s2sjax.metrics.edits import character_error_rate, error_rates, word_error_rate
from s2sjax.metrics.labels import label_metrics, span_f1
from s2sjax.metrics.names import BLEU_TOKENIZERS, PAIRS_DEFAULT, ROUGE, ROUGE_TOKENIZERS
from s2sjax.metrics.rouge import rouge
from s2sjax.metrics.scripts import spaceless_script
from s2sjax.plural import counted


@dataclass(frozen=True)
class TextMetrics:
    """Which metrics of text are computed, and how it is cut into words for them.

    Attributes:
      names: of `METRICS`; here those of text count.
      bleu_tokenize: one of `BLEU_TOKENIZERS`.
      rouge_tokenize: one of `ROUGE_TOKENIZERS`.
    """

    names: tuple[str, ...] = PAIRS_DEFAULT
    bleu_tokenize: str = "13a"
    rouge_tokenize: str = "ascii"

    def __post_init__(self) -> None:
        choose(self.bleu_tokenize, BLEU_TOKENIZERS, "bleu_tokenize")
        choose(self.rouge_tokenize, ROUGE_TOKENIZERS, "rouge_tokenize")

    def any_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that are computed, in their order."""
        return tuple(name for name in names if name in self.names)


def text_metrics(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str | Sequence[str]],
    how: TextMetrics | None = None,
) -> dict[str, float | str]:
    """Score hypotheses against their references. The order of the texts does not matter.

    BLEU, chrF2 and TER are sacreBLEU's (Post 2018, arXiv:1804.08771), of detokenised, cased text. For the error rates
    see `edits`, for ROUGE see `rouge`. Exact match ignores white space at the ends only.

    Args:
        sources: one for each hypothesis: `accuracy`, `sequence_error_rate` and `token_error_rate` count one that stands
            there more than once as one example.
        references: of each text one or more; any of them is right. See each metric for which one counts.
        how: by default the metrics of `PAIRS_DEFAULT`.

    Returns:
        Each metric in percent. Beside BLEU, chrF, TER and ROUGE stand their signatures (`bleu_signature`), which make
        the numbers comparable; beside word and character error rates what they are made of (`word_substitutions`).

    Raises:
        UserError: no sentences, more of one than of the others, a text without a reference, or what the tokenizer of
            BLEU needs is not there.
    """
    how = how or TextMetrics()
    lists = [(reference,) if isinstance(reference, str) else tuple(reference) for reference in references]
    if not len(sources) == len(hypotheses) == len(lists):
        raise UserError(
            f"{counted(len(sources), 'source')} and {counted(len(hypotheses), 'hypothesis')} but "
            f"{counted(len(lists), 'reference')}: one of each per line is needed"
        )
    if not lists:
        raise UserError("no sentences to score: the split is empty")
    if not all(lists):
        raise UserError(f"example {lists.index(()) + 1} has no reference to compare with")
    return {
        **_of_sacrebleu(hypotheses, lists, how),
        **_exact_match(hypotheses, lists, how),
        **_error_rates(sources, hypotheses, lists, how),
        **_rouge(hypotheses, lists, how),
        **_labels(hypotheses, lists, how),
    }


def _of_sacrebleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], how: TextMetrics
) -> dict[str, float | str]:
    if not how.any_of(("bleu", "chrf", "ter")):
        return {}
    from sacrebleu.metrics import CHRF, TER

    makers = {"bleu": lambda: make_bleu(how.bleu_tokenize), "chrf": CHRF, "ter": TER}
    scores: dict[str, float | str] = {}
    signatures: dict[str, float | str] = {}
    for name in how.any_of(makers):
        scores[name], signatures[f"{name}_signature"] = corpus_scores(makers[name](), hypotheses, references)
    return scores | signatures


def _exact_match(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], how: TextMetrics
) -> dict[str, float | str]:
    if "exact_match" not in how.names:
        return {}
    equal = sum(h.strip() in [r.strip() for r in several] for h, several in zip(hypotheses, references, strict=True))
    return {"exact_match": 100.0 * equal / len(references)}


def _error_rates(
    sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[Sequence[str]], how: TextMetrics
) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    if grouped := how.any_of(("accuracy", "sequence_error_rate", "token_error_rate")):
        rates = error_rates(sources, hypotheses, references)
        found |= {name: rates[name] for name in grouped}
    if "word_error_rate" in how.names:
        found |= word_error_rate(hypotheses, references)
    if "character_error_rate" in how.names:
        found |= character_error_rate(hypotheses, references)
    return found


def _rouge(hypotheses: Sequence[str], references: Sequence[Sequence[str]], how: TextMetrics) -> dict[str, float | str]:
    if not (names := how.any_of(ROUGE)):
        return {}
    counts = {len(several) for several in references}
    number = counts.pop() if len(counts) == 1 else "var"
    scores = rouge(hypotheses, references, names, tokenize=how.rouge_tokenize)
    version = importlib.metadata.version("s2sjax")
    signature = f"nrefs:{number}|multi:best|mean:f1|case:lc|stem:no|tok:{how.rouge_tokenize}|version:s2sjax-{version}"
    return {**scores, "rouge_signature": signature}


def _labels(hypotheses: Sequence[str], references: Sequence[Sequence[str]], how: TextMetrics) -> dict[str, float]:
    """Of texts that are labels, or tags between white space. A hypothesis is compared with its equal, or the first."""
    found = {}
    ours = [text.strip() for text in hypotheses]
    theirs = [
        text if text in (right := [each.strip() for each in several]) else right[0]
        for text, several in zip(ours, references, strict=True)
    ]
    if "macro_f1" in how.names:
        found["macro_f1"] = label_metrics(ours, theirs)["macro_f1"]
    if "span_f1" in how.names:
        found["span_f1"] = span_f1([text.split() for text in ours], [text.split() for text in theirs])
    return found


def suited(
    references: Iterable[Sequence[str]],
    how: TextMetrics,
    *,
    bleu_asked: bool = True,
    bleu_key: str = "config.evaluate.bleu_tokenize",
) -> tuple[TextMetrics, list[str]]:
    """What to compute for the language that references are in, and for the user: which of the metrics mean little for
    it, and the way out.

    It goes by scripts: the words of Chinese, Japanese, Thai and others have no spaces between them, so that a sentence
    looks like one word. It is told where a third of the texts are so. Where half of them are, BLEU over such words is
    left out, unless somebody asked for it.

    Args:
        references: or other texts in the same language, a list for each example. Some hundreds are enough.
        bleu_key: what sets the tokenizer of BLEU.
    """
    scripts: Counter[str | None] = Counter()
    letters = beyond_ascii = kana = 0
    for several in references:
        found = Counter(map(spaceless_script, filter(str.isalpha, "".join(several))))
        if count := found.total():
            spaced = found.pop(None, 0)
            scripts[found.most_common(1)[0][0] if 2 * spaced < count else None] += 1
            kana += found["Kana"] > 0
            letters += count
            beyond_ascii += sum(character.isalpha() and not character.isascii() for character in "".join(several))
    remarks = []
    examples, without = scripts.total(), scripts.total() - scripts.pop(None, 0)
    if examples and 3 * without >= examples:
        script = "Kana" if 2 * kana > without else scripts.most_common(1)[0][0]
        share = f"{without / examples:.0%} of the texts are in a script without spaces ({script})"
        splits = how.bleu_tokenize not in ("13a", "intl", "none", *(() if script == "Han" else ("zh",)))
        if "bleu" in how.names and not splits:
            better = {"Han": "zh", "Kana": "ja-mecab (or char)"}.get(script or "", "char (or flores200)")
            left_out = ""
            if not bleu_asked and 2 * without >= examples:
                left_out = ", so there is no BLEU"
                how = dataclasses.replace(how, names=tuple(name for name in how.names if name != "bleu"))
            remarks.append(
                f"{share}, and BLEU's tokenizer '{how.bleu_tokenize}' takes a whole sentence for a word{left_out}: set "
                f"{bleu_key}={better}"
            )
        if names := how.any_of(("ter", "word_error_rate")):
            remarks.append(
                f"{share}, and {', '.join(names)} count{'s' * (len(names) == 1)} what stands between spaces: "
                "character_error_rate in config.evaluate.metrics counts characters"
            )
    if how.rouge_tokenize == "ascii" and how.any_of(ROUGE) and 20 * beyond_ascii > letters:
        remarks.append(
            f"{beyond_ascii / letters:.0%} of the text's letters are not ASCII, and ROUGE drops them: set "
            "config.evaluate.rouge_tokenize=unicode"
        )
    return how, remarks
