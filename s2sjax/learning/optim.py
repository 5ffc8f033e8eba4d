"""Optimizers and learning-rate schedules: a small choice of optax's, under one config section."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from s2sjax.config import check_choices, one_of
from s2sjax.errors import UserError
from s2sjax.sharding import path_name


@dataclass(frozen=True)
class OptimizerConfig:
    """The `optimizer` section: the optimizer and its learning rate over time.

    Attributes:
      name: The update rule: "sgd" has momentum b1; "em" is for models that learn by counting (the family hmm).
      learning_rate: The peak, reached at the end of warm-up. For em, the share of the newest batch in the average of
        counts.
      schedule: The learning rate after warm-up: "constant"; "inverse_sqrt"; "cosine" to `final_fraction` of the peak;
        or "wsd", which stays at the peak and falls in a line to `final_fraction` over the last `decay_fraction` of the
        steps.
      warmup_steps: Updates in which the learning rate rises in a line from 0 to its peak.
      decay_fraction: Share of all steps in which the schedule "wsd" falls.
      final_fraction: Share of the peak at which the schedules "cosine" and "wsd" end.
      weight_decay: Decoupled weight decay, on matrices only: not on biases and normalisation.
      b1: Decay of the average of gradients (adamw, lion), or momentum (sgd).
      b2: Decay of the average of squared gradients (adamw); for lion, of the average of gradients that is kept.
      epsilon: What adamw adds to the root of the average of squared gradients.
      clip_norm: Global gradient norm at which gradients are scaled down; 0 leaves them alone.
      em_smoothing: For em: share of the uniform distribution in what an update estimates, so that nothing becomes
        impossible.
    """

    name: str = one_of(("adamw", "adafactor", "lion", "sgd", "em"), "adamw")
    learning_rate: float = 1e-3
    schedule: str = one_of(("constant", "inverse_sqrt", "cosine", "wsd"), "inverse_sqrt")
    warmup_steps: int = 1000
    decay_fraction: float = 0.2
    final_fraction: float = 0.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.98
    epsilon: float = 1e-9
    clip_norm: float = 0.0
    em_smoothing: float = 1e-3

    def __post_init__(self):
        check_choices(self, "config.optimizer")
        if not self.learning_rate > 0:
            raise UserError(f"config.optimizer.learning_rate is {self.learning_rate}, but must be above 0")
        if not 0 <= self.decay_fraction <= 1:
            raise UserError(f"config.optimizer.decay_fraction is {self.decay_fraction}, but must be in 0..1")
        if self.warmup_steps < 0:
            raise UserError(f"config.optimizer.warmup_steps is {self.warmup_steps}, but must be 0 or more")
        for name in ("weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise UserError(f"config.optimizer.{name} is {getattr(self, name)}, but must not be negative")
        for name in ("b1", "b2", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"config.optimizer.{name} is {getattr(self, name)}, but must be in 0..1")
        if self.epsilon <= 0:
            raise UserError(f"config.optimizer.epsilon is {self.epsilon}, but must be above 0")
        if not 0 <= self.em_smoothing < 1:
            raise UserError(f"config.optimizer.em_smoothing is {self.em_smoothing}, but must be in 0..1, below 1")
        if self.name == "em":
            if self.learning_rate > 1:
                raise UserError(f"config.optimizer.learning_rate is {self.learning_rate}, but em takes at most 1")
            if self.clip_norm or self.weight_decay:
                raise UserError(
                    "em neither clips nor decays: set config.optimizer.clip_norm=0 and config.optimizer.weight_decay=0"
                )


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Learning rate of the update that makes step `count + 1` out of step `count`.

    Warm-up is a line from 0 that reaches the peak after `warmup_steps` updates, the first of which is not 0.
    "inverse_sqrt": `peak * sqrt(warmup / step)` (Vaswani et al. 2017, section 5.3, with the peak as the constant).
    "wsd": warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395, section 4).
    """
    warmup = max(config.warmup_steps, 1)
    low = config.final_fraction

    def factor(step):
        if config.schedule == "constant":
            return jnp.ones_like(step)
        if config.schedule == "inverse_sqrt":
            return jnp.sqrt(warmup / jnp.maximum(step, warmup))
        if config.schedule == "cosine":
            progress = jnp.clip((step - warmup) / max(total_steps - warmup, 1), 0, 1)
            return low + (1 - low) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        decay = max(round(total_steps * config.decay_fraction), 1)
        progress = jnp.clip((step - (total_steps - decay)) / decay, 0, 1)
        return 1 - (1 - low) * progress

    def schedule(count):
        step = jnp.asarray(count, jnp.float32) + 1
        return config.learning_rate * jnp.minimum(step / warmup, 1.0) * factor(step)

    return schedule


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Clipping, then the optimizer. Its state begins at zero and lives in the train state."""
    schedule = make_schedule(config, total_steps)

    def matrices(params):
        return jax.tree.map_with_path(_is_matrix, params)

    if config.name == "adamw":
        optimizer = optax.adamw(
            schedule, b1=config.b1, b2=config.b2, eps=config.epsilon, weight_decay=config.weight_decay, mask=matrices
        )
    elif config.name == "adafactor":
        # Without a rate adafactor only gives the direction; its own weight decay would not follow the schedule.
        decay = optax.add_decayed_weights(-config.weight_decay, mask=matrices)
        optimizer = optax.chain(optax.adafactor(None), decay, optax.scale_by_schedule(schedule))
    elif config.name == "lion":
        optimizer = optax.lion(schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=matrices)
    elif config.name == "em":
        optimizer = stepwise_em(schedule, smoothing=config.em_smoothing)
    else:
        decay = optax.add_decayed_weights(config.weight_decay, mask=matrices)
        optimizer = optax.chain(optax.trace(config.b1), decay, optax.scale_by_learning_rate(schedule))
    if config.clip_norm > 0:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer


def _is_matrix(path: tuple[Any, ...], leaf: Array) -> bool:
    """Whether a parameter is a matrix in each of its layers: a stack's first dimension numbers them."""
    *above, name = path_name(path).split("/")
    return leaf.ndim - ("layers" in above) > 1 and not name.endswith("bias")


class EMState(NamedTuple):
    step: Array
    counts: optax.Params
    """Running average of the expected counts a target token, shaped like the parameters."""


def stepwise_em(rate: optax.Schedule, *, smoothing: float) -> optax.GradientTransformation:
    """Expectation maximisation, batch by batch (Cappé and Moulines 2009, "On-line expectation-maximization algorithm
    for latent data models", section 2.2; Liang and Klein 2009, "Online EM for unsupervised models").

    For models whose parameters are log-probabilities, each a distribution over its last axis, and whose loss has minus
    the expected counts as its gradient. An update averages the counts, `s <- (1 - rate) s + rate * batch`, and sets
    each distribution to its counts' shares, mixed with `smoothing` of the uniform distribution. With rate 1, no
    smoothing and all data in one batch it is the algorithm of Baum and Welch. A distribution that no count has reached
    stays as it was.
    """

    def init(params):
        return EMState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(grads, state, params):
        now = rate(state.step)
        # Counts are not negative; what is, is rounding.
        counts = jax.tree.map(lambda s, g: (1 - now) * s + now * jnp.maximum(-g, 0), state.counts, grads)

        def change(count, log_probs):
            total = jnp.sum(count, axis=-1, keepdims=True)
            shares = (1 - smoothing) * count / jnp.maximum(total, 1e-37) + smoothing / count.shape[-1]
            # Bounded, so that old and new logarithms can be subtracted: an update is a difference.
            return jnp.where(total > 0, jnp.log(jnp.maximum(shares, 1e-37)) - log_probs, 0.0)

        return jax.tree.map(change, counts, params), EMState(state.step + 1, counts)

    return optax.GradientTransformation(init, update)
