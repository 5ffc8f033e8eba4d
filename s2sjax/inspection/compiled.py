"""What XLA makes of a step: it is compiled, for the mesh that is described, and run nowhere."""

import time
from dataclasses import dataclass

from s2sjax.inspection.collectives import Row, read_collectives, summary
from s2sjax.inspection.subject import Subject


@dataclass(frozen=True)
class Compiled:
    """What XLA says of the step. Bytes are those of one device."""

    arguments: int
    outputs: int
    aliased: int
    """Of the outputs, what takes the place of arguments: the train state."""
    temporaries: int
    seconds: float
    """To lower and compile."""
    collectives: tuple[Row, ...]
    bounded: bool
    """Whether XLA knows the length of every loop with collectives in it."""

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs - self.aliased + self.temporaries


def compile_step(subject: Subject) -> Compiled:
    """Compile the very step that training runs, for the subject's mesh and batch."""
    began = time.monotonic()
    compiled = subject.step.lower(subject.state, subject.batch).compile()
    seconds = time.monotonic() - began
    sizes = compiled.memory_analysis()
    found = read_collectives(compiled.as_text(), dict(subject.mesh.shape))
    return Compiled(
        sizes.argument_size_in_bytes, sizes.output_size_in_bytes, sizes.alias_size_in_bytes, sizes.temp_size_in_bytes,
        seconds, tuple(summary(found)), all(collective.bounded for collective in found),
    )  # fmt: skip
