"""The process of a tracker: reports the rows that it reads from standard input.

    python -m rrd_jax.run_folder.trackers wandb

Rows that the tracker holds already, from an earlier start of the run, are not reported again. The
process ends with its input, and a while later even if the library of the tracker waits.
"""

import contextlib
import importlib
import json
import os
import pathlib
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any, TextIO

from rrd_jax import errors
from rrd_jax.run_folder.trackers.messages import END, NOTE, ROW, START, WARNING, Status
from rrd_jax.terminal import file_lock

_Messages = queue.SimpleQueue


class _Report:
    """The rows of a run that its tracker lacks.

    Args:
      module: the module of the tracker.
      start: the message that describes the run.
      reply: sends a message to the run.
    """

    def __init__(self, module: Any, start: dict[str, Any], reply: Callable[[str, str], None]):
        self._module, self._start, self._reply = module, start, reply
        self._pending: list[dict[str, Any]] = list(start.pop("rows"))
        self._run: Any = None
        # The last step that the tracker holds.
        self._reported = -1

    def add(self, row: dict[str, Any]) -> None:
        """Adds the row of an epoch."""
        self._pending.append(row)

    def send(self) -> None:
        """Sends all rows that the tracker lacks; after a failure, the next call sends the rest."""
        try:
            if self._run is None:
                self._run = self._module.start(self._start)
                self._reply(NOTE, errors.printable(errors.redacted(str(self._run.location))))
                self._reported = self._run.last_step()
            while self._pending:
                row = self._pending[0]
                # A resumed run repeats the epoch in which it was killed.
                if row["step"] > self._reported:
                    self._run.log(row)
                    self._reported = row["step"]
                self._pending.pop(0)
        # A tracker can raise anything, also SystemExit.
        except BaseException as error:
            self._reply(WARNING, f"fails ({_describe(error)})")

    def end(self, status: Status, summary: dict[str, Any] | None) -> None:
        """Ends the report."""
        if self._run is None:
            return
        try:
            self._run.end(status, summary or {})
        except BaseException as error:
            self._reply(WARNING, f"fails ({_describe(error)})")


def _describe(error: BaseException) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    text = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return errors.printable(errors.redacted(text))[:300]


def _read(file: TextIO, messages: _Messages) -> None:
    """Reads messages; the end of the input limits the time that the tracker has left."""
    patience = 60.0
    for line in file:
        # A killed run can leave an incomplete line.
        with contextlib.suppress(ValueError):
            message = json.loads(line)
            patience = message.get(START, {}).get("patience", patience)
            messages.put(message)
    messages.put({END: {"status": Status.STOPPED.value, "summary": None}})
    watch = threading.Timer(patience, os._exit, [1])
    watch.daemon = True
    watch.start()


def _follow(name: str, messages: _Messages, replies: TextIO) -> None:
    """Reports messages until the end of a run."""

    def reply(kind: str, text: str) -> None:
        # The run may have been killed.
        with contextlib.suppress(OSError):
            replies.write(json.dumps({kind: text}) + "\n")
            replies.flush()

    start = messages.get().get(START)
    if start is None:
        return
    module = importlib.import_module(f"rrd_jax.run_folder.trackers.{name}_run")
    report = _Report(module, start, reply)
    # After a kill, the process of the earlier start may still send its last rows.
    name = f"{name}-{start['id']}"
    lock = pathlib.Path(tempfile.gettempdir(), f"rrd_jax-{os.getuid()}", name)
    with file_lock.exclusive(lock, lambda: None):
        if _is_latest(lock, start["order"]):
            report.send()
            while END not in (message := messages.get()):
                if ROW in message:
                    report.add(message[ROW])
                    report.send()
            report.send()
            report.end(Status(message[END]["status"]), message[END]["summary"])


def _is_latest(lock: pathlib.Path, order: int) -> bool:
    """Returns False if a later start of the run has reported, which had all rows of this start."""
    with contextlib.suppress(OSError, ValueError):
        text = lock.read_text()
        if text and int(text) > order:
            return False
    with contextlib.suppress(OSError):
        lock.write_text(str(order))
    return True


def main() -> None:
    """Runs the tracker that the command line names."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The run, which receives the signal too, ends this process.
        signal.signal(number, signal.SIG_IGN)
    # Libraries print, and ask for passwords.
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    messages: _Messages = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, messages), daemon=True).start()
    _follow(sys.argv[1], messages, replies)


if __name__ == "__main__":
    main()
