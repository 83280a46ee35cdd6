"""A row of the speed benchmark, whose readers are measured in turns."""

import collections
import contextlib
import os
import pathlib
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from experiments.benchmark import rows
from experiments.benchmark.reader import Reader, ReaderError, first_cores
from experiments.benchmark.rows import OURS, Size
from rrd_jax import errors


class Group:
    """The readers for one size of images, one batch size, one precision and a number of cores.

    Args:
      name: name of the size.
      size: the size.
      batch_size: B.
      precision: a name in rows.PRECISIONS.
      steps: minimum number of steps per round, in whole epochs; 0 for the size's default.
      cores: number of cores that all readers share; 0 for all; None on a GPU.
      torch_python: interpreter with PyTorch; "" to omit PyTorch.

    Attributes:
      figures: JSON with the `size`, the `precision`, the `cores` and the `task`; with the reports
        of readers that are `ready` and the errors of readers that `failed`; and, by reader and
        case, with the `seconds` per step of each round and the peak `bytes`.
    """

    def __init__(
        self,
        name: str,
        size: Size,
        batch_size: int,
        precision: str,
        *,
        steps: int,
        cores: int | None,
        torch_python: str,
    ):
        examples = size.examples or size.epoch * batch_size
        self._label = f"{name}, {batch_size}, {precision}"
        if cores:
            self._label += f", {cores} core" + "s" * (cores > 1)
        self._torch_python = torch_python
        self._task = {
            **size._asdict(),
            "examples": examples,
            "batch_size": batch_size,
            "queue_size": rows.QUEUE_SIZE,
            "halves": rows.PRECISIONS[precision],
            "epochs": -(-(steps or size.steps) // (examples // batch_size)),
        }
        self.figures = {
            "size": name,
            "precision": precision,
            "cores": cores,
            "task": self._task,
            "ready": {},
            "failed": {},
            "seconds": collections.defaultdict(list),
            "bytes": {},
        }

    def measure(self, workdir: pathlib.Path, rounds: int, save: Callable[[], None]) -> None:
        """Starts all readers and measures them in turns.

        Args:
          workdir: folder for the standard error output of the readers.
          rounds: number of rounds of each reader.
          save: called after each measurement.

        Raises:
          InputError: the reader of rrd_jax fails; failures of peers are recorded.
        """
        with contextlib.ExitStack() as stack:
            # An empty folder for each row, because kernels compiled earlier would shorten PyTorch's
            # start.
            kernels = tempfile.TemporaryDirectory(prefix="speed-", ignore_cleanup_errors=True)
            readers = self._start(workdir, pathlib.Path(stack.enter_context(kernels)), stack)
            save()
            turns = [(name, case) for name in readers for case in self._readers()[name][2]["cases"]]
            for i in range(rounds):
                # The order alternates, so that it favors no reader.
                for name, case in reversed(turns) if i % 2 else turns:
                    if name not in self.figures["failed"]:
                        self._take_turn(i, name, case, readers[name])
                        save()
            for name, case in turns:
                if name not in self.figures["failed"]:
                    try:
                        self.figures["bytes"][f"{name}: {case}"] = readers[name].request(
                            "bytes", case
                        )
                    except ReaderError as error:
                        self._record_failure(name, error)
            save()

    def _start(
        self, workdir: pathlib.Path, kernels: pathlib.Path, stack: contextlib.ExitStack
    ) -> dict[str, Reader]:
        """Starts the readers one after the other and returns the readers that are ready."""
        readers, cores = {}, first_cores(self.figures["cores"] or 0)
        for name, (python, script, options) in self._readers().items():
            print(f"[{self._label}] compiling {name}", flush=True)
            log = workdir / (re.sub(r"\W+", "-", f"{self._label} {name}") + ".log")
            try:
                reader = Reader(python, script, self._task | options, log, cores, kernels)
            except ReaderError as error:
                self._record_failure(name, error)
                continue
            stack.callback(reader.close)
            readers[name] = reader
            self.figures["ready"][name] = reader.ready
        return readers

    def _take_turn(self, i: int, name: str, case: str, reader: Reader) -> None:
        """Measures round i of a reader's case."""
        try:
            seconds = reader.round(case)
        except ReaderError as error:
            self._record_failure(name, error)
            for key in list(self.figures["seconds"]):
                if key.startswith(f"{name}: "):
                    del self.figures["seconds"][key]
            return
        self.figures["seconds"][f"{name}: {case}"].append(seconds)
        step = f"{1000 * seconds:.4g} ms per step, load {os.getloadavg()[0]:.1f}"
        print(f"[{self._label}, round {i + 1}] {name}, {case}: {step}", flush=True)

    def _readers(self) -> dict[str, tuple[str, str, dict[str, Any]]]:
        """Returns the interpreter, the script and additional options of each reader, by name."""
        crops = self._task["crops"]
        readers = {OURS: (sys.executable, "ours.py", {"cases": rows.cases(crops)})}
        if self._torch_python:
            precision, on_cpu = self.figures["precision"], self.figures["cores"] is not None
            peers = rows.peers(precision, crops=crops, on_cpu=on_cpu)
            for name, options in peers.items():
                readers[name] = (self._torch_python, "torch_peer.py", options)
        return readers

    def _record_failure(self, name: str, error: ReaderError) -> None:
        if name == OURS:
            raise errors.InputError(f"{name} failed: {error}") from error
        self.figures["failed"][name] = str(error)
        print(f"[{self._label}] {name} failed: {error}", flush=True)


def fastest(figures: dict[str, Any], case: str) -> str | None:
    """Returns the name of the peer with the shortest median step of a case; None without peers."""
    medians = {
        key.partition(": ")[0]: statistics.median(seconds)
        for key, seconds in figures["seconds"].items()
        if seconds and key.partition(": ")[2] == case and not key.startswith(f"{OURS}: ")
    }
    return min(medians, key=medians.get, default=None)
