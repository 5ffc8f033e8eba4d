"""What a Transformer's encoder chooses besides its blocks: how far its tokens see."""

from dataclasses import dataclass

from jax import Array

from s2sjax.api import Batch
from s2sjax.config import check_at_least
from s2sjax.errors import UserError
from s2sjax.nn.block_config import BlockConfig
from s2sjax.ops.attention import segment_mask
from s2sjax.ops.local_attention import Band, make_band


@dataclass(frozen=True)
class EncoderConfig(BlockConfig):
    """A model with an encoder.

    Attributes:
      encoder_window: Self-attention of the encoder sees this many positions on each side, and takes time and memory
        in proportion to the length of a source, not to its square; 0 is all of them. A few hundred suit thousands of
        tokens (Beltagy et al. 2020, arXiv:2004.05150).
      encoder_global_tokens: With encoder_window: the first tokens of each source, so many, see all of it and are seen
        by all of it; at most encoder_window.
    """

    encoder_window: int = 0
    encoder_global_tokens: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_at_least(0, self, "encoder_window", "encoder_global_tokens")
        if self.encoder_window and self.window:
            raise UserError(
                f"config.model.window is {self.window} and bounds the encoder too, but config.model.encoder_window is "
                f"{self.encoder_window}: set one of them to 0"
            )
        if self.encoder_global_tokens > self.encoder_window:
            raise UserError(
                f"config.model.encoder_global_tokens is {self.encoder_global_tokens}, but must be at most "
                f"config.model.encoder_window, {self.encoder_window}: lower the one or raise the other"
            )


def encoder_mask(config: EncoderConfig, batch: Batch) -> Array | Band:
    """What the tokens of a batch's inputs see of each other: [B, S, S], or a band of S positions."""
    segments = batch["input_segments"]
    if config.encoder_window:
        return make_band(segments, batch["input_positions"], config.encoder_window, config.encoder_global_tokens)
    return segment_mask(segments, segments)
