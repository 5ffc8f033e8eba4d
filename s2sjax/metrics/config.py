"""The `evaluate` section of the config: when a run is validated, and what evaluation computes."""

from dataclasses import dataclass

from s2sjax.config import check_choices, one_of
from s2sjax.errors import UserError
from s2sjax.metrics.names import BLEU_TOKENIZERS, METRICS, ROUGE_TOKENIZERS


@dataclass(frozen=True)
class EvaluateConfig:
    """The `evaluate` section: when a run is validated, and what validation does.

    Attributes:
      every_steps: Steps from one validation to the next. The last step is always validated.
      decode: Decode the validation split too, for metrics that compare text. Otherwise only the loss and what else
        follows from it is computed.
      samples: Validation sentences whose translations are shown in the log.
      metrics: What evaluate and validation compute beside the loss. Empty: bleu, chrf, exact_match,
        sequence_error_rate and token_error_rate where there are sources, else perplexity, word_perplexity and
        bits_per_byte.
      bleu_tokenize: How BLEU cuts text into words, by sacreBLEU's names. 13a is what papers report; zh is for Chinese
        and char for any script without spaces; ja-mecab and ko-mecab need packages, and flores200 a model.
      rouge_tokenize: How ROUGE does. ascii is what the package rouge-score does, which drops all but a-z and 0-9;
        unicode is for other languages than English.
    """

    every_steps: int = 1000
    decode: bool = True
    samples: int = 3
    metrics: tuple[str, ...] = one_of(METRICS, ())
    bleu_tokenize: str = one_of(BLEU_TOKENIZERS, "13a")
    rouge_tokenize: str = one_of(ROUGE_TOKENIZERS, "ascii")

    def __post_init__(self):
        check_choices(self, "config.evaluate")
        if self.every_steps < 1 or self.samples < 0:
            raise UserError("config.evaluate.every_steps must be at least 1 and samples at least 0")
