"""Runs ane_bench.py with a first worker that differs: `python3 tests/driver.py MODULE ARGUMENT...`.

It reads three variables. Once the first worker was started, those in AFTERWARDS (JSON) hold, so
that a fault meets that worker only. If FIRST_COMMAND (JSON) is not empty, the first worker is that
command. What workers write to standard error is copied to the file WORKERS_SAID.
"""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from typing import Any


class Worker(subprocess.Popen[bytes]):
    """A worker that is started as the variables say."""

    started = False

    def __init__(self, command: Any, **options: Any) -> None:
        first, Worker.started = not Worker.started, True
        other = json.loads(os.environ["FIRST_COMMAND"])
        try:
            super().__init__(other if first and other else command, **options)
        finally:
            os.environ.update(json.loads(os.environ["AFTERWARDS"]))
        assert self.stderr
        reading, writing = os.pipe()
        given = self.stderr, writing, os.environ["WORKERS_SAID"]
        threading.Thread(target=copy, args=given).start()
        self.stderr = os.fdopen(reading, "rb")


def copy(source: Any, sink: int, path: str) -> None:
    """Copy all that comes from a source to a descriptor, if somebody reads there, and to a file."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))  # signals are for the main thread
    with open(sink, "wb", buffering=0) as target, open(path, "ab", buffering=0) as file, source:
        for data in iter(lambda: os.read(source.fileno(), 1 << 16), b""):
            file.write(data)
            with contextlib.suppress(BrokenPipeError):
                target.write(data)


if __name__ == "__main__":
    subprocess.Popen = Worker  # type: ignore[misc,assignment]
    del sys.argv[0], sys.path[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
