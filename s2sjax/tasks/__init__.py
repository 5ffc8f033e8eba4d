"""Tasks. Each module of this folder that begins with no underscore is one: see `s2sjax.task`."""

from s2sjax.data.config import DataConfig
from s2sjax.task import Task
from s2sjax.tasks.language import Language
from s2sjax.tasks.text import Text


def of(data: DataConfig) -> Task:
    """The task that is done with this data."""
    return Text() if data.source else Language()
