"""Scalars for TensorBoard, written at once and in this process.

torch's SummaryWriter hands them to a thread, whose errors (a full disk) print a traceback that nobody can catch.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from vertinst.errors import VertinstError

__all__ = ["Board"]

FILE_VERSION = "brain.Event:2"


class Board:
    """One event file.

    Args:
        folder: Where it lies, made if need be. A resumed run adds a file.
        first_step: TensorBoard forgets what earlier files say from this step on.

    Raises:
        VertinstError: The file cannot be written (disk full).
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        # The name must hold "tfevents"; TensorBoard reads the files of a folder in the order of their names.
        self.path = folder / f"events.out.tfevents.{time.time_ns() // 1000:017d}.{os.getpid()}"
        start = SessionLog(status=SessionLog.START)
        self._append(Event(file_version=FILE_VERSION), Event(step=first_step, session_log=start))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Append the values of one step, all of them or, on a full disk, none.

        Raises:
            VertinstError: The file cannot be written (disk full).
        """
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._append(Event(step=step, summary=Summary(value=scalars)))

    def _append(self, *events: Event) -> None:
        records = io.BytesIO()
        writer = RecordWriter(records)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write(records.getvalue())
        except OSError as error:
            reason = error.strerror or str(error)
            raise VertinstError(
                f"cannot be written: {reason}", where=self.path, fix="Free space, then go on with --resume."
            ) from error

    def _write(self, content: bytes) -> None:
        with self.path.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                written = file.write(content)
                if written != len(content):
                    raise OSError("disk full")
            except OSError:
                file.truncate(size)
                raise
