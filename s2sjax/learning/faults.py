"""Steps that go wrong: which updates are taken, decided on the device; and what becomes of a run with too many others.

An update is never taken when the loss, the gradient or the update itself is not finite, so the parameters, the
optimizer's state and the moving average never hold a NaN; nor, if the config says so, when loss or gradient spike. The
step is counted all the same, and the next one has the next batch. The state carries what the rule looks at, so that a
resumed run decides what an uninterrupted one does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from s2sjax.config import check_choices, one_of, up_to
from s2sjax.errors import UserError
from s2sjax.plural import counted

WINDOW = 32
"""Steps that are remembered: the bits of `Health.bad_steps`."""
_SETTLED = 20
"""Updates after which an average is believed: before, norms differ by more than any spike."""
_HORIZON = 50
"""Updates that the running averages reach back."""
_LEAST_SECONDS = 1
"""Of the watchdog: no step is compiled, and nothing is saved, in four times less."""


@dataclass(frozen=True)
class FaultsConfig:
    """The `faults` section: what a run does about bad steps, whose update is not taken, and about steps that stop
    coming.

    Attributes:
      loss_spike: A step is bad if its loss a token is above this many times the average of the last 50 updates; 0:
        whatever it is. A loss or a gradient that is not finite always makes a step bad.
      gradient_spike: A step is bad if the norm of its gradient, before it is clipped, is above this many times the
        average of the last 50 updates; 0: whatever it is.
      max_skips: Bad steps among the last 32 that are only skipped; with 0 the first is one too many.
      beyond_max_skips: What happens after more bad steps than `max_skips`: "rollback" to the newest checkpoint before
        the last 32 steps, to go on without their batches; or "stop".
      max_rollbacks: Roll-backs of a run; the next one stops it.
      watchdog_seconds: Seconds without a step after which the process writes what it was doing and ends itself, for the
        launcher to start it again; compiling, validating, saving and restoring may take four times as long. 0: whatever
        it takes; at least 1 else.
    """

    loss_spike: float = 0.0
    gradient_spike: float = 0.0
    max_skips: int = 10
    beyond_max_skips: str = one_of(("rollback", "stop"), "rollback")
    max_rollbacks: int = 3
    watchdog_seconds: float = up_to(1e9, 1800.0)

    def __post_init__(self) -> None:
        check_choices(self, "config.faults")
        for name in ("loss_spike", "gradient_spike"):
            value = getattr(self, name)
            if value != 0 and not (value > 1 and math.isfinite(value)):
                raise UserError(
                    f"config.faults.{name} is {value}, but must be above 1, a multiple of what is usual, or 0 for none"
                )
        if not 0 <= self.max_skips < WINDOW:
            raise UserError(f"config.faults.max_skips is {self.max_skips}, but must be in 0..{WINDOW - 1}")
        if self.max_rollbacks < 0:
            raise UserError(f"config.faults.max_rollbacks is {self.max_rollbacks}, but must be 0 or more")
        if self.watchdog_seconds != 0 and not _LEAST_SECONDS <= self.watchdog_seconds < math.inf:
            raise UserError(
                f"config.faults.watchdog_seconds is {self.watchdog_seconds}, but must be at least {_LEAST_SECONDS}, or "
                "0 for none: nothing is done in less, so the process would end itself as often as it is started"
            )


class Health(NamedTuple):
    """What the rule remembers, in the train state: scalars all."""

    updates: Array
    """Updates taken so far, int32: the step, less the bad ones."""
    bad_steps: Array
    """A bit for each of the last 32 steps, uint32, the newest the lowest: 1 if its update was not taken."""
    loss: Array
    """Running average over the updates taken, nats a token, float32."""
    gradient_norm: Array
    """Likewise."""


def healthy() -> Health:
    """Before the first step."""
    return Health(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.uint32), jnp.zeros(()), jnp.zeros(()))


def judge(
    config: FaultsConfig, health: Health, *, loss: Array, gradient_norm: Array, update_norm: Array
) -> tuple[Array, Health]:
    """Whether an update is taken (a scalar bool), and what is remembered after it; for use inside jit.

    A finite norm in float32 bounds every element by 2e19: squares of it, which optimizers keep, are finite too.
    """
    taken = jnp.isfinite(loss) & jnp.isfinite(gradient_norm) & jnp.isfinite(update_norm)
    for factor, value, usual in (
        (config.loss_spike, loss, health.loss),
        (config.gradient_spike, gradient_norm, health.gradient_norm),
    ):
        if factor:
            taken &= (health.updates < _SETTLED) | (value <= factor * usual)
    share = 1 / jnp.minimum(health.updates + 1, _HORIZON).astype(jnp.float32)
    return taken, Health(
        health.updates + taken,
        (health.bad_steps << 1) | (~taken).astype(jnp.uint32),
        jnp.where(taken, health.loss + share * (loss - health.loss), health.loss),
        jnp.where(taken, health.gradient_norm + share * (gradient_norm - health.gradient_norm), health.gradient_norm),
    )


def choose_tree(taken: Array, new: Any, old: Any) -> Any:
    """The one tree or the other, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)


class TooManyBadSteps(Exception):
    """More than `max_skips` of the last `WINDOW` steps were bad, `step` the last of them; the message says why."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step = step

    @property
    def before(self) -> int:
        """The step after which the window began."""
        return max(0, self.step - WINDOW)


def reason(metrics: Mapping[str, float]) -> str:
    """Why an update was not taken, from the metrics of its step."""
    loss, norm = metrics["loss"] / metrics["weight"], metrics["gradient_norm"]
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm):
        return f"the gradient's norm is {norm}"
    if not math.isfinite(metrics["update_norm"]):
        return f"the update's norm is {metrics['update_norm']}"
    return (
        f"the loss is {loss:.4g} where {metrics['usual_loss']:.4g} is usual, the gradient's norm {norm:.4g} where "
        f"{metrics['usual_gradient_norm']:.4g} is"
    )


def check_roll_back(config: FaultsConfig, bad: TooManyBadSteps, roll_backs: int, checkpoint: int | None) -> None:
    """Return if the run may go back once more.

    Args:
        roll_backs: how many there were.
        checkpoint: the newest one.

    Raises:
        UserError: it has to stop.
    """
    advice = "lower config.optimizer.learning_rate or set config.optimizer.clip_norm, and use another workdir"
    where = (
        f"{bad} at step {bad.step}, the last of more than {counted(config.max_skips, 'bad step')} "
        "(config.faults.max_skips) among "
        f"{min(bad.step, WINDOW)}; no update of them was taken (last checkpoint: {checkpoint or 'none'})"
    )
    if config.beyond_max_skips == "stop":
        raise UserError(
            f"{where}: {advice}; or set config.faults.beyond_max_skips=rollback to go on without these batches"
        )
    if roll_backs >= config.max_rollbacks:
        raise UserError(
            f"{where}, after {counted(roll_backs, 'roll-back')} (config.faults.max_rollbacks): the data is not to "
            f"blame; {advice}"
        )
