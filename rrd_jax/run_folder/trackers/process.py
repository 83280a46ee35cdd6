"""A tracker in a process of its own, which can neither slow a run down nor end it."""

import contextlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors
from rrd_jax.run_folder.trackers.messages import END, NOTE, ROW, START, WARNING, Status
from rrd_jax.terminal import console

# Seconds that a tracker has to send its last rows, after a finished run and after another end.
_PATIENCE, _HURRY = 60.0, 5.0
_MODULE = "rrd_jax.run_folder.trackers"


class Process:
    """A tracker that runs in a process of its own; see `writers.Writer`.

    Messages are JSON lines. No call waits for the process, except `close` for a limited time. If
    this process is killed, the tracker sends the rows that it has received, and ends.

    Args:
      name: the name of the tracker.
      label: name of the run on the console.
      start: the names of the run, its config and its earlier rows.
    """

    def __init__(self, name: str, label: str, start: Mapping[str, Any]):
        self._name, self._label = name, label
        self._outgoing: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        self._has_warned = False
        # Whether the run has finished, and the end of the time that the tracker has left.
        self._is_finished, self._deadline = False, 0.0
        self._process = None
        root = str(pathlib.Path(__file__).absolute().parents[3])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                # Ctrl-C reaches the processes of the terminal's foreground group.
                start_new_session=True,
            )
        except OSError as error:
            self._warn(f"cannot be started ({error.strerror or error})")
            return
        for action in (self._send, self._receive):
            threading.Thread(target=action, name=f"{name} tracker", daemon=True).start()
        self._put(START, {**start, "patience": _PATIENCE})

    def row(self, row: Mapping[str, Any]) -> None:
        """Implements `Writer.row`."""
        self._put(ROW, row)
        self.poll()

    def poll(self) -> None:
        """Implements `Writer.poll`."""
        with contextlib.suppress(queue.Empty):
            while True:
                reply = self._replies.get_nowait()
                if WARNING in reply:
                    self._warn(reply[WARNING])
                else:
                    console.say(f"[{self._label}] {self._name}: {reply[NOTE]}")

    def end(self, summary: Mapping[str, Any] | None, error: BaseException | None) -> None:
        """Implements `Writer.end`."""
        if self._process is None:
            return
        status = Status.FINISHED if error is None else Status.STOPPED
        if isinstance(error, Exception) and not isinstance(error, errors.PreemptedError):
            status = Status.FAILED
        self._put(END, {"status": status.value, "summary": summary})
        self._outgoing.put(None)
        self._is_finished = error is None
        self._deadline = time.monotonic() + (_PATIENCE if self._is_finished else _HURRY)

    def close(self) -> None:
        """Implements `Writer.close`."""
        if self._process is None:
            return
        is_late = self._is_running()
        # Another message describes an error of the console.
        with contextlib.suppress(errors.DiskError, errors.UnreadError):
            self.poll()
            if is_late and self._is_finished:
                self._warn(
                    f"has not accepted the last metrics within {_PATIENCE:g} seconds; all of"
                    " them are in metrics.jsonl"
                )
            elif not is_late and self._process.returncode:
                self._warn(
                    f"ended with code {self._process.returncode}; all metrics are in metrics.jsonl"
                )

    def _is_running(self) -> bool:
        """Waits for the end of the process; returns True if it still runs at the deadline."""
        while (left := self._deadline - time.monotonic()) > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(min(left, 0.5))
                return False
            # Ctrl-C ends the wait.
            console.progress(self._label, [f"waiting for {self._name}"])
        return self._process.poll() is None

    def _warn(self, text: str) -> None:
        """Prints the first warning of the tracker."""
        if not self._has_warned:
            self._has_warned = True
            console.warn(f"[{self._label}] report.to: {self._name} {text}; the run continues")

    def _put(self, kind: str, content: Mapping[str, Any]) -> None:
        self._outgoing.put(json.dumps({kind: content}) + "\n")

    def _send(self) -> None:
        """Writes messages to the process, which may read them late."""
        # The process may have ended.
        with contextlib.suppress(OSError):
            while (line := self._outgoing.get()) is not None:
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _receive(self) -> None:
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                self._replies.put(json.loads(line))
