"""Search: from a step function to hypotheses. Everything here knows a step function, and never a model.

A step function takes the previous tokens `[B, K]` and a cache whose every leaf leads with `[B, K]`, and returns logits
`[B, K, V]` and the new cache. The model, its parameters and its memory are bound in by whoever calls.
"""
