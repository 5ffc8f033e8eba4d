"""Search: from a step function to hypotheses. Everything here knows a step function, and never a model.

A step function takes the previous tokens `[B, K]` and a cache (`api.Cache`), and returns logits `[B, K, V]` and the new
cache. The model, its parameters and its memory are bound in by whoever calls.

    beam         the best hypotheses, in one beam or in diverse groups; `beam_config` says how
    sampling     hypotheses drawn at random, each sentence with its own key
    stochastic   hypotheses drawn without replacement, by a beam
    constraints  what hypotheses must obey, for all three
    phrases      what they must contain, and how far they have come with it
    lexical      the division of a beam that makes them contain it
    penalty      length conventions, the coverage penalty, and the bound by which a beam stops
    coverage     the coverage itself, carried along
    truncation   which words sampling may draw
    candidates   from logits to the best continuations
    stepping     the step function, checked, and how a cache follows its hypotheses
    ensemble     several step functions as one
"""
