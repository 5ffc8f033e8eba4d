"""Optimizers and learning-rate schedules: a small choice of optax's, under one config section."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from s2sjax.config import choose
from s2sjax.errors import UserError


@dataclass(frozen=True)
class OptimizerConfig:
    name: str = "adamw"
    """"adamw", "adafactor", "lion" or "sgd" (with momentum b1)."""
    learning_rate: float = 1e-3
    """The peak, reached at the end of warm-up."""
    schedule: str = "inverse_sqrt"
    """After warm-up: "constant"; "inverse_sqrt"; "cosine" to `final_fraction` of the peak; or "wsd", which stays at the
    peak and falls in a line to `final_fraction` over the last `decay_fraction` of the steps."""
    warmup_steps: int = 1000
    decay_fraction: float = 0.2
    final_fraction: float = 0.0
    weight_decay: float = 0.0
    """Decoupled, on matrices only: not on biases and normalisation."""
    b1: float = 0.9
    b2: float = 0.98
    epsilon: float = 1e-9
    clip_norm: float = 0.0
    """Global gradient norm at which gradients are scaled down; 0 leaves them alone."""

    def __post_init__(self):
        choose(self.name, ("adamw", "adafactor", "lion", "sgd"), "config.optimizer.name")
        choose(self.schedule, ("constant", "inverse_sqrt", "cosine", "wsd"), "config.optimizer.schedule")
        if not self.learning_rate > 0:
            raise UserError(f"config.optimizer.learning_rate is {self.learning_rate}, but must be above 0")
        if not 0 <= self.decay_fraction <= 1:
            raise UserError(f"config.optimizer.decay_fraction is {self.decay_fraction}, but must be in 0..1")
        if self.warmup_steps < 0:
            raise UserError(f"config.optimizer.warmup_steps is {self.warmup_steps}, but must be 0 or more")


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
        return jax.tree.map(lambda p: p.ndim > 1, params)

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
    else:
        decay = optax.add_decayed_weights(config.weight_decay, mask=matrices)
        optimizer = optax.chain(optax.trace(config.b1), decay, optax.scale_by_learning_rate(schedule))
    if config.clip_norm > 0:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer
