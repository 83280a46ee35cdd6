"""The readers of a row of the speed benchmark: they start one after the other and take turns."""

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
    """All readers of one size of images, one batch size, one precision and a number of cores.

    Args:
      name: of the size.
      size: the size.
      batch_size: B.
      precision: a name of rows.PRECISIONS.
      steps: the fewest of a round, in whole epochs; 0 for the size's.
      cores: that all readers share; 0 for all; None on a GPU.
      torch_python: an interpreter with PyTorch; "" to leave PyTorch out.

    Attributes:
      figures: all that is known, as JSON: the `size`, `precision`, `cores`, the `task`, what each
        reader says of itself in `ready`, why it `failed`; by reader and case the `seconds` a step
        of each round, and the `bytes` at the peak.
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

    def measure(self, workdir: pathlib.Path, rounds: int, keep: Callable[[], None]) -> None:
        """Starts all readers and lets them take turns.

        Args:
          workdir: receives what the readers write to stderr.
          rounds: turns of each.
          keep: called after each figure.

        Raises:
          InputError: our reader fails; a peer may fail.
        """
        with contextlib.ExitStack() as stack:
            # Anew for each row: what was compiled in a run before would make PyTorch look quick.
            kernels = tempfile.TemporaryDirectory(prefix="speed-", ignore_cleanup_errors=True)
            readers = self._start(workdir, pathlib.Path(stack.enter_context(kernels)), stack)
            keep()
            turns = [(name, case) for name in readers for case in self._readers()[name][2]["cases"]]
            for i in range(rounds):
                # Backwards every second time: who comes after whom is to favour nobody.
                for name, case in reversed(turns) if i % 2 else turns:
                    if name not in self.figures["failed"]:
                        self._take_turn(i, name, case, readers[name])
                        keep()
            for name, case in turns:
                if name not in self.figures["failed"]:
                    try:
                        self.figures["bytes"][f"{name}: {case}"] = readers[name].ask("bytes", case)
                    except ReaderError as error:
                        self._failed(name, error)
            keep()

    def _start(
        self, workdir: pathlib.Path, kernels: pathlib.Path, stack: contextlib.ExitStack
    ) -> dict[str, Reader]:
        """Starts the readers one after the other; returns those that get ready."""
        readers, cores = {}, first_cores(self.figures["cores"] or 0)
        for name, (python, script, options) in self._readers().items():
            print(f"[{self._label}] {name} compiles", flush=True)
            log = workdir / (re.sub(r"\W+", "-", f"{self._label} {name}") + ".log")
            try:
                reader = Reader(python, script, self._task | options, log, cores, kernels)
            except ReaderError as error:
                self._failed(name, error)
                continue
            stack.callback(reader.close)
            readers[name] = reader
            self.figures["ready"][name] = reader.ready
        return readers

    def _take_turn(self, i: int, name: str, case: str, reader: Reader) -> None:
        """Round i of a reader's case."""
        try:
            seconds = reader.round(case)
        except ReaderError as error:
            self._failed(name, error)
            for key in list(self.figures["seconds"]):
                if key.startswith(f"{name}: "):
                    del self.figures["seconds"][key]
            return
        self.figures["seconds"][f"{name}: {case}"].append(seconds)
        step = f"{1000 * seconds:.4g} ms a step, load {os.getloadavg()[0]:.1f}"
        print(f"[{self._label}, round {i + 1}] {name}, {case}: {step}", flush=True)

    def _readers(self) -> dict[str, tuple[str, str, dict[str, Any]]]:
        """By name: interpreter, script, and what it is told beside the task."""
        crops = self._task["crops"]
        readers = {OURS: (sys.executable, "ours.py", {"cases": rows.cases(crops)})}
        if self._torch_python:
            precision, on_cpu = self.figures["precision"], self.figures["cores"] is not None
            peers = rows.peers(precision, crops=crops, on_cpu=on_cpu)
            for name, told in peers.items():
                readers[name] = (self._torch_python, "torch_peer.py", told)
        return readers

    def _failed(self, name: str, error: ReaderError) -> None:
        if name == OURS:
            raise errors.InputError(f"{name} failed: {error}") from error
        self.figures["failed"][name] = str(error)
        print(f"[{self._label}] {name} failed: {error}", flush=True)


def fastest(figures: dict[str, Any], case: str) -> str | None:
    """The name of the peer with the shortest median step of a case; None without peers."""
    medians = {
        key.partition(": ")[0]: statistics.median(seconds)
        for key, seconds in figures["seconds"].items()
        if seconds and key.partition(": ")[2] == case and not key.startswith(f"{OURS}: ")
    }
    return min(medians, key=medians.get, default=None)
