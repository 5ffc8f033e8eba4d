"""What the program computes, held to the last bit while its files move.

- `steps.json` and `test_steps.py`: the training step of every family as StableHLO, before XLA: the same on every
  processor.
- `integers.json` and `test_integers.py`: batches, tokens and resolved configs.
- `runs/` and `test_runs.py`: run directories of November 2026, which every later version reads.
- `python -m tests.goldens`: everything else, of which bits depend on the processor, compared between two commits on one
  machine. See `__main__.py`.

Where a program's internals have to be named, that is in `inside.py` only.
"""
