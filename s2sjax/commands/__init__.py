"""The commands: each is a module here whose `run` takes its arguments and returns an exit status.

They are named here, not imported, so that help and a mistyped command are answered before JAX is loaded.
"""

COMMANDS = ("train", "inspect", "decode", "evaluate", "score", "rerank", "average", "align", "tag", "goodput")
ALONE = ("inspect", "average", "goodput")
"""Those of them that are work for one process."""
