"""The Transformer of `s2sjax.models.transformer` and one training step of it, by hand in PyTorch, for two CPU cores.

The same function of the same parameters (`tests/test_torch_twin.py` holds the two together), and the same update: loss,
clipping, AdamW, learning rate, moving average. Only the random numbers of dropout are others. It is what PyTorch does
well: fused query-key-value products, `scaled_dot_product_attention` without a mask wherever none is needed, batches
cut to their longest sentence, logits for real target tokens only, fused AdamW.

Tried with torch 2.13 on one core of an AMD EPYC with AVX-512 and left out, since it was no faster: `torch.compile` (in
float32; more than a minute of compiling), foreach AdamW, logits in chunks (`linear_cross_entropy` does not do that with
label smoothing), the loss from `logsumexp`, `set_float32_matmul_precision("medium")`. Dropout masks of one's own, eight
elements from each 64-bit draw, would save 2 to 9 %.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """What `configs/multi30k/transformer_tiny.py` says, in plain numbers."""

    vocab_size: int
    encoder_layers: int
    decoder_layers: int
    width: int
    hidden: int
    heads: int
    dropout: float
    label_smoothing: float
    learning_rate: float
    warmup_steps: int
    steps: int
    b1: float
    b2: float
    epsilon: float
    clip_norm: float
    ema_decay: float


class TorchBatch(NamedTuple):
    """A batch without empty rows, as wide as its longest sentence."""

    inputs: Tensor
    """[B, S] int64"""
    decoder_inputs: Tensor
    """[B, T] int64"""
    labels: Tensor
    """[M] int64: the real target tokens, row by row."""
    places: Tensor | None
    """[M] int64: where they stand in [B * T]; None if they stand everywhere."""
    mask: Tensor | None
    """[B, 1, 1, S] float32: 0 on source tokens and -inf on padding; None if there is none."""


def to_torch(batch: Mapping[str, np.ndarray]) -> TorchBatch:
    """A bucketed batch (`s2sjax.api`), trimmed. Padding must stand at the end of rows."""
    rows = batch["input_segments"].any(axis=1)
    S, T = (int(np.count_nonzero(batch[name], axis=1).max()) for name in ("input_segments", "target_segments"))
    inputs, decoder_inputs, targets = (
        torch.from_numpy(batch[name][rows, :length].astype(np.int64))
        for name, length in (("inputs", S), ("decoder_inputs", T), ("targets", T))
    )
    source, target = (
        torch.from_numpy(batch[name][rows, :length] > 0)
        for name, length in (("input_segments", S), ("target_segments", T))
    )
    places = None if target.all() else target.flatten().nonzero()[:, 0]
    labels = targets.flatten() if places is None else targets.flatten()[places]
    mask = None if source.all() else torch.zeros(source.shape).masked_fill_(~source, -math.inf)[:, None, None]
    return TorchBatch(inputs, decoder_inputs, labels, places, mask)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.query_key_value(x).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=_like(mask, q), is_causal=causal)
        return self.output(y.transpose(1, 2).reshape(B, T, D))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        B, T, D = x.shape
        q = self.query(x).view(B, T, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(memory).view(B, memory.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=_like(mask, q))
        return self.output(y.transpose(1, 2).reshape(B, T, D))


def _like(mask: Tensor | None, query: Tensor) -> Tensor | None:
    return None if mask is None else mask.to(query.dtype)


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)))


class EncoderLayer(nn.Module):
    def __init__(self, recipe: Recipe):
        super().__init__()
        D = recipe.width
        self.attention, self.mlp = SelfAttention(D, recipe.heads), MLP(D, recipe.hidden)
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(D, eps=1e-6) for _ in range(2))
        self.drop = nn.Dropout(recipe.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.drop(self.attention(self.attention_norm(x), mask, False))
        return x + self.drop(self.mlp(self.mlp_norm(x)))


class DecoderLayer(nn.Module):
    def __init__(self, recipe: Recipe):
        super().__init__()
        D = recipe.width
        self.attention, self.mlp = SelfAttention(D, recipe.heads), MLP(D, recipe.hidden)
        self.cross_attention = CrossAttention(D, recipe.heads)
        self.attention_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(D, eps=1e-6) for _ in range(3))
        self.drop = nn.Dropout(recipe.dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        # Padding stands behind the sentence, so the causal order alone keeps it out of sight of real tokens.
        x = x + self.drop(self.attention(self.attention_norm(x), None, True))
        x = x + self.drop(self.cross_attention(self.cross_norm(x), memory, mask))
        return x + self.drop(self.mlp(self.mlp_norm(x)))


class Transformer(nn.Module):
    """The pre-norm encoder-decoder with one table for source, target and output."""

    positions: Tensor

    def __init__(self, recipe: Recipe, max_length: int = 256):
        super().__init__()
        self.recipe = recipe
        self.embedding = nn.Embedding(recipe.vocab_size, recipe.width)
        nn.init.normal_(self.embedding.weight, std=recipe.width**-0.5)
        self.encoder = nn.ModuleList(EncoderLayer(recipe) for _ in range(recipe.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(recipe) for _ in range(recipe.decoder_layers))
        self.encoder_norm, self.decoder_norm = (nn.LayerNorm(recipe.width, eps=1e-6) for _ in range(2))
        self.drop = nn.Dropout(recipe.dropout)
        half = recipe.width // 2
        angles = torch.arange(max_length)[:, None] * 10_000.0 ** (-torch.arange(half) / (half - 1))
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], dim=-1))

    def embed(self, tokens: Tensor) -> Tensor:
        x = torch.add(self.positions[: tokens.shape[1]], self.embedding(tokens), alpha=self.recipe.width**0.5)
        return self.drop(x)

    def forward(self, batch: TorchBatch) -> Tensor:
        """The mean label-smoothed cross-entropy of the batch's real target tokens, nats."""
        memory = self.embed(batch.inputs)
        for layer in self.encoder:
            memory = layer(memory, batch.mask)
        memory = self.encoder_norm(memory)
        x = self.embed(batch.decoder_inputs)
        for layer in self.decoder:
            x = layer(x, memory, batch.mask)
        x = x.flatten(0, 1) if batch.places is None else x.flatten(0, 1)[batch.places]
        logits = F.linear(self.decoder_norm(x), self.embedding.weight)
        return F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)


class Trainer:
    """The model with all that a step changes."""

    def __init__(self, recipe: Recipe, *, bfloat16: bool):
        torch.manual_seed(0)
        self.recipe, self.bfloat16, self.step_number = recipe, bfloat16, 0
        self.model = Transformer(recipe)
        self.parameters = list(self.model.parameters())
        self.averages = [p.detach().clone() for p in self.parameters]
        # Fused: one pass over each parameter; foreach makes one for each operation.
        self.optimizer = torch.optim.AdamW(
            self.parameters, betas=(recipe.b1, recipe.b2), eps=recipe.epsilon, weight_decay=0.0, fused=True
        )

    def step(self, batch: TorchBatch) -> float:
        """One update; returns the loss before it."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            loss = self.model(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm, foreach=True)
        self.optimizer.param_groups[0]["lr"] = self._learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.recipe.ema_decay > 0:
            decay = min(self.recipe.ema_decay, (1 + self.step_number) / (10 + self.step_number))
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)
        self.step_number += 1
        return loss.item()

    def _learning_rate(self) -> float:
        """Warm-up, then a cosine to 0: `s2sjax.learning.optim.make_schedule`."""
        step, warmup = self.step_number + 1, self.recipe.warmup_steps
        progress = min(max((step - warmup) / (self.recipe.steps - warmup), 0), 1)
        return self.recipe.learning_rate * min(step / warmup, 1) * 0.5 * (1 + math.cos(math.pi * progress))


def load_parameters(model: Transformer, params: Mapping[str, Any]) -> None:
    """Copy the parameters of the s2sjax Transformer (nested dicts of arrays) into its twin, all of them."""
    model.load_state_dict({**twin_parameters(params), "positions": model.positions})


def twin_parameters(params: Mapping[str, Any]) -> dict[str, Tensor]:
    """A tree of s2sjax parameters, or of their gradients, under the names and in the layout of the twin."""
    flat: dict[str, Tensor] = {"embedding.weight": _tensor(params["target_embedding"]["table"])}

    def dense(name: str, layers: Iterable[Mapping[str, Any]]) -> None:
        layers = list(layers)  # stacked along the outputs; kernels are [in, out] there and [out, in] here
        flat[f"{name}.weight"] = torch.cat([_tensor(layer["kernel"]).T for layer in layers])
        flat[f"{name}.bias"] = torch.cat([_tensor(layer["bias"]) for layer in layers])

    def norm(name: str, layer: Mapping[str, Any]) -> None:
        flat[f"{name}.weight"], flat[f"{name}.bias"] = _tensor(layer["scale"]), _tensor(layer["bias"])

    for side in ("encoder", "decoder"):
        stack = params[side]
        norm(f"{side}_norm", stack["norm"])
        for number in range(sum(key.startswith("layers_") for key in stack)):
            layer, name = stack[f"layers_{number}"], f"{side}.{number}"
            attention = layer["attention"]
            dense(f"{name}.attention.query_key_value", (attention[part] for part in ("query", "key", "value")))
            dense(f"{name}.attention.output", [attention["output"]])
            for part in ("up", "down"):
                dense(f"{name}.mlp.{part}", [layer["mlp"][part]])
            norm(f"{name}.attention_norm", layer["around_attention"]["norm"])
            norm(f"{name}.mlp_norm", layer["around_mlp"]["norm"])
            if side == "decoder":
                cross = layer["cross_attention"]
                dense(f"{name}.cross_attention.query", [cross["query"]])
                dense(f"{name}.cross_attention.key_value", (cross[part] for part in ("key", "value")))
                dense(f"{name}.cross_attention.output", [cross["output"]])
                norm(f"{name}.cross_norm", layer["around_cross"]["norm"])
    return flat


def _tensor(x: Any) -> Tensor:
    return torch.from_numpy(np.array(x, np.float32))
