"""The `batching` section of the config: how the examples of the data are put into batches."""

from dataclasses import dataclass

from s2sjax.config import check_at_least, check_choices, one_of

KINDS = ("bucket", "pack")


@dataclass(frozen=True)
class BatchingConfig:
    """The `batching` section: which examples are trained on by their length, and how they share batches.

    Attributes:
      kind: "bucket" (rows of similar length) or "pack" (several examples a row).
      tokens: padded tokens a batch may hold on its longer side.
      max_source_length, max_target_length: tokens, end-of-sentence counted; longer examples are left out of training.
      row_multiple: every batch has a multiple of this many rows, so that up to as many devices can share it. The plan
        depends on it, not on the devices: the same batches arrive on 1 and on 8.
      length_multiple: lengths of rows are rounded up to a multiple of this.
      buckets: number of bucket shapes.
      pack_length: tokens on the longer side of a packed row.
      shuffle: a new order every epoch.
    """

    kind: str = one_of(KINDS, "bucket")
    tokens: int = 4096
    max_source_length: int = 256
    max_target_length: int = 256
    row_multiple: int = 8
    length_multiple: int = 4
    buckets: int = 6
    pack_length: int = 256
    shuffle: bool = True

    def __post_init__(self) -> None:
        check_choices(self, "config.batching")
        numbers = ("max_source_length", "max_target_length", "length_multiple", "pack_length", "tokens")
        check_at_least(1, self, *numbers, "row_multiple", "buckets", where="config.batching")
