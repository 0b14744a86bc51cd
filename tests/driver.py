"""Runs ane_bench.py with a first worker that differs: `python3 tests/driver.py MODULE ARGUMENT...`.

Once it was started, the variables in AFTERWARDS (JSON) hold, so that a fault meets that worker
only; FIRST_COMMAND (JSON) takes its place, if not empty. The file WORKERS_SAID gets what workers
write to standard error.
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
        threading.Thread(target=copy, args=(self.stderr, writing)).start()
        self.stderr = os.fdopen(reading, "rb")


def copy(source: Any, sink: int) -> None:
    """Copy all that comes from a source to a file and, if somebody reads there, to a descriptor."""
    path = os.environ["WORKERS_SAID"]
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
