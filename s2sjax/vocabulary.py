"""Special token ids, the same for every tokenizer and every model; and whether source and target share a vocabulary."""

from s2sjax.errors import UserError
from s2sjax.plural import counted

PAD, UNK, BOS, EOS = 0, 1, 2, 3


def check_one_vocabulary(source: int, target: int) -> None:
    """Raise a `UserError` unless a language model's prompts and answers are of one vocabulary (sizes are compared)."""
    if source != target:
        raise UserError(
            f"a language model reads prompt and answer with one vocabulary, but there are two, of {source} and "
            f"{counted(target, 'entry')}; set config.tokenizer.joint=True"
        )


TIED = ("all", "decoder", "none")
"""Which embeddings may share one table: source, target and output projection; target and output projection; none."""


def check_tied(tied: str, source: int, target: int) -> None:
    """Raise a `UserError` if all embeddings are to be one table, and the vocabularies differ in size."""
    if tied == "all" and source != target:
        raise UserError(
            f"config.model.tied is 'all', but the vocabularies have {source} and {counted(target, 'entry')}; set "
            "config.tokenizer.joint=True or config.model.tied=decoder"
        )
