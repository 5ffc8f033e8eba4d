"""Scalars for TensorBoard."""

import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2sjax.reporting.history import Record


class EventFile:
    """A TensorBoard event file of scalars.

    Written here, with the protocol buffers and the checksum of tensorboardX: that package's own writer puts events in a
    queue of ten, and blocks its caller for ever once its thread has died of a full disk.
    """

    def __init__(self, workdir: Path, *, first_step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.record = Record(workdir, f"tensorboard/events.out.tfevents.{time.time_ns()}")
        self._write(Event(file_version="brain.Event:2"))
        # Hides from TensorBoard what an interrupted run recorded of this step and later ones.
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write(Event(step=step, summary=summary))

    def _write(self, event: Any) -> None:
        """One TFRecord: length, its checksum, the event, its checksum, little-endian."""
        from tensorboardX.record_writer import masked_crc32c

        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self.record.append(
            length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
        )
