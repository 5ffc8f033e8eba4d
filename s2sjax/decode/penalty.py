"""Length penalties: what a hypothesis's log-probability is divided by.

Every penalty here is positive and never falls as a hypothesis grows. Those two properties, and no others, make the
bound by which beam search stops a true one: a log-probability is negative and only falls with more tokens, so no
continuation of a hypothesis can score better than its log-probability now over the penalty at the greatest length.
A new penalty has to keep both (whether its values lie below or above 1 does not matter).
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

LENGTH_PENALTIES = ("none", "power", "gnmt")


def length_penalty(kind: str, alpha: float, lengths: Int[Array, "*any"]) -> Float[Array, "*any"]:
    """The divisor for hypotheses of `lengths` tokens (end-of-sentence counted), float32.

        none    1                       the plain log-probability; alpha is not looked at
        power   n ** alpha              1 at n = 1; fairseq's --lenpen, and alpha = 1 is the mean a token
        gnmt    ((5 + n) / 6) ** alpha  1 at n = 1; Wu et al. 2016, arXiv:1609.08144, equation 14

    Args:
        kind: one of `LENGTH_PENALTIES`.
        alpha: at least 0. With 0, every kind is "none".
        lengths: at least 1.
    """
    n = lengths.astype(jnp.float32)
    match kind:
        case "none":
            return jnp.ones_like(n)
        case "power":
            return n**alpha
        case "gnmt":
            return ((5.0 + n) / 6.0) ** alpha
    raise AssertionError(f"length penalty {kind!r} passed BeamConfig's check but is not one of {LENGTH_PENALTIES}")
