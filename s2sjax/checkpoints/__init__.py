"""What is kept of a run: whole, verified before it is believed, and never at the run's cost.

restore       what a checkpoint holds, and how it is read
checkpointer  the one who writes: in the background, committed by one rename
manifest      checksums of every file, written last
retention     which checkpoints stay; the section `checkpoint` of a config
copies        the second copy, on another disk or in a bucket
lock          one run a directory
quiet         the tracebacks that orbax prints, held back
"""

from s2sjax.processes.root_logger import root_logger_untouched

# Config files import this by way of `experiment`, and orbax speaks while it is imported.
with root_logger_untouched():
    import orbax.checkpoint  # noqa: F401
