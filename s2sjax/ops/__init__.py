"""Pure functions on arrays: no Flax, no parameters, no state. Everything a layer or a loss computes is here."""
