"""What Transformers choose: one config for the blocks of encoders, decoders and language models."""

from dataclasses import dataclass

from s2sjax.config import check_at_least, check_choices, check_rate, one_of
from s2sjax.errors import UserError
from s2sjax.nn.layers import ACTIVATIONS
from s2sjax.nn.remat import REMAT
from s2sjax.plural import counted

POSITIONS = ("sinusoidal", "learned", "relative", "rotary", "alibi", "none")


@dataclass(frozen=True)
class BlockConfig:
    """What Transformers choose. The defaults are those of 2017, but for pre-norm and smaller.

    Attributes:
      width: Width of embeddings and of every block.
      hidden: Width of the MLP, or of each expert.
      heads: Attention heads.
      kv_heads: Heads of keys and values, shared by groups of queries; 0 is as many as `heads`.
      head_width: Width of a head; 0 is width / heads.
      norm: Where normalisation stands: "pre" (before each sub-layer, and at the end) or "post" (the original).
      norm_kind: Layer normalisation, or "rms": root-mean-square normalisation without mean and bias.
      norm_epsilon: What normalisation adds to the variance.
      positions: Added to embeddings: "sinusoidal" or "learned"; added to scores: "relative" (T5's buckets, one table
        for all layers of a stack) or "alibi" (which its authors define for decoders; in an encoder, or in a prefix,
        what is ahead counts as far as what is behind); turning queries and keys: "rotary"; or "none".
      max_positions: Rows of the table of learned positions. There are no embeddings beyond it: what has more tokens
        becomes NaN.
      relative_buckets: Buckets of distances that relative positions distinguish.
      relative_distance: The distance from which on all keys share a bucket of relative positions.
      rotary_base: Base of the wavelengths of rotary positions.
      rotary_scaling: How rotary positions are stretched to read `rotary_factor` times more than `rotary_length`: see
        `ops.position`.
      rotary_factor: How many times longer the input is that scaled rotary positions read.
      rotary_length: Positions that the model was trained on before its rotary positions were scaled.
      window: Self-attention sees this many positions, itself included; in an encoder as many on the other side. 0 is
        all.
      mlp: Non-linearity of the MLP; "gated_gelu" and "swiglu" are gated.
      biases: Give linear layers and layer normalisation a bias; experts have none.
      qk_norm: RMS normalisation of the queries and keys of every head.
      scale_attention: Divide scores by the root of the head width; T5 does not.
      scale_embeddings: Multiply embeddings, drawn from N(0, 1/width), by the root of the width. T5 draws from N(0, 1)
        and divides before a tied projection, which is the same.
      experts: Experts of each block in place of its MLP; 0 is the MLP.
      experts_per_token: Experts that each token is sent to.
      routing: "dropless" or "capacity": what the latter drops depends, in training, on the batch (`nn.experts`).
      capacity_factor: With routing=capacity: tokens that an expert takes, over those it would get if all got as many.
      balance: Weight of the loss that balances experts (alpha of Fedus et al. 2022, equation 4), for each block.
      dropout: Dropout rate after embeddings and sub-layers.
      hidden_dropout: Dropout rate inside the MLP, after its non-linearity.
      scan: Compile one block and loop over it, with the parameters of all stacked, instead of one after the other.
      remat: What the backward pass computes again: "none", "full" (all but each block's input), "dots" (all but the
        products with parameters).
    """

    width: int = 128
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 0
    head_width: int = 0
    norm: str = one_of(("pre", "post"), "pre")
    norm_kind: str = one_of(("layer", "rms"), "layer")
    norm_epsilon: float = 1e-6
    positions: str = one_of(POSITIONS, "sinusoidal")
    max_positions: int = 512
    relative_buckets: int = 32
    relative_distance: int = 128
    rotary_base: float = 10_000.0
    rotary_scaling: str = one_of(("none", "linear", "llama3"), "none")
    rotary_factor: float = 8.0
    rotary_length: int = 8192
    window: int = 0
    mlp: str = one_of(ACTIVATIONS, "relu")
    biases: bool = True
    qk_norm: bool = False
    scale_attention: bool = True
    scale_embeddings: bool = True
    experts: int = 0
    experts_per_token: int = 2
    routing: str = one_of(("dropless", "capacity"), "dropless")
    capacity_factor: float = 1.25
    balance: float = 0.01
    dropout: float = 0.3
    hidden_dropout: float = 0.0
    scan: bool = False
    remat: str = one_of(REMAT, "none")

    def __post_init__(self):
        check_choices(self, "config.model")
        check_at_least(1, self, "width", "hidden", "heads", "max_positions", "relative_distance", "rotary_length")
        check_at_least(1, self, "experts_per_token", "rotary_factor")
        check_at_least(0, self, "kv_heads", "head_width", "window", "experts", "balance")
        check_rate(self, "dropout", "hidden_dropout")
        for name in ("norm_epsilon", "rotary_base", "capacity_factor"):
            if getattr(self, name) <= 0:
                raise UserError(f"config.model.{name} is {getattr(self, name)}, but must be above 0")
        if not self.head_width and self.width % self.heads:
            raise UserError(
                f"config.model.width {self.width} is not divisible by config.model.heads {self.heads}; "
                "set another number of heads, or config.model.head_width"
            )
        if self.heads % self.key_value_heads:
            raise UserError(
                f"config.model.heads {self.heads} is not divisible by config.model.kv_heads {self.kv_heads}"
            )
        if self.positions == "rotary" and self.query_width % 2:
            raise UserError(f"rotary positions turn pairs, but heads are {self.query_width} wide: use an even width")
        if self.positions == "sinusoidal" and self.width % 2:
            raise UserError(f"sinusoidal positions need an even config.model.width, not {self.width}")
        if self.rotary_scaling != "none" and self.positions != "rotary":
            raise UserError(
                f"config.model.rotary_scaling is '{self.rotary_scaling}', but config.model.positions "
                f"'{self.positions}' turn nothing; set positions=rotary or rotary_scaling=none"
            )
        if self.positions == "relative" and not 4 <= self.relative_buckets <= 2 * self.relative_distance:
            raise UserError(
                f"config.model.relative_buckets is {self.relative_buckets}, but must be between 4 and twice "
                f"config.model.relative_distance, {2 * self.relative_distance}"
            )
        if self.experts and self.experts_per_token > self.experts:
            raise UserError(
                f"config.model.experts_per_token is {self.experts_per_token}, but there are "
                f"{counted(self.experts, 'expert')}"
            )

    @property
    def key_value_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def query_width(self) -> int:
        """Width C of a head."""
        return self.head_width or self.width // self.heads
