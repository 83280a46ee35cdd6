"""Metrics of a run: console, metrics.jsonl and trackers."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from rrd_jax import buckets, errors
from rrd_jax.run_folder import atomic_write
from rrd_jax.run_folder.trackers import writers
from rrd_jax.terminal import console
from rrd_jax.training.choices import ReportChoice

_DEFAULT_REPORT = ReportChoice()


class MetricsWriter:
    """A context manager that writes the metrics of a run to its workdir and to the console.

    Rows after `step` are dropped at the start, so that a resumed run has one row per epoch.

    Args:
      workdir: the run folder, which contains metrics.jsonl.
      label: name of the run on the console.
      step: number of updates before this start; 0 for a new run.
      report: the trackers that receive the metrics.
      writes: whether to write to the workdir and to trackers; if False, metrics only appear on the
        console.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        label: str,
        step: int = 0,
        report: ReportChoice = _DEFAULT_REPORT,
        *,
        writes: bool = True,
    ):
        self._label, self._writes = label, writes
        self._path = workdir / "metrics.jsonl"
        self._trackers: list[writers.Writer] = []
        self._summary: dict[str, Any] | None = None
        if not writes:
            return
        rows = _read_rows(self._path)
        earlier_rows = [row for row in rows if row["step"] <= step]
        # A run that is killed before its first checkpoint leaves one row.
        if not step and len(rows) > 1:
            backup = self._path.with_suffix(".jsonl.before")
            if buckets.is_bucket(self._path):
                buckets.write(backup, self._path.read_bytes())
            else:
                self._path.replace(backup)
            writers.forget(workdir)
            console.warn(
                f"{workdir} has metrics of {len(rows)} epochs but no checkpoint: training restarts"
                f" from step 0; the old metrics are in {backup.name}"
            )
        lines = [json.dumps(row) + "\n" for row in earlier_rows]
        self._text = "".join(lines)
        atomic_write.write_text(self._path, self._text)
        self._trackers = writers.start(report, workdir, label, earlier_rows, step)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        # Another message reports these errors.
        with contextlib.suppress(errors.DiskError, errors.UnreadError):
            console.clear()
        error = exception[0] if kind else None
        # All trackers send their last rows at the same time.
        for tracker in reversed(self._trackers):
            tracker.end(self._summary, error)
        for tracker in self._trackers:
            tracker.close()

    def finish(self, summary: dict[str, Any]) -> None:
        """Passes the result of a finished run, as JSON, to the trackers."""
        self._summary = summary

    def start(self, description: Sequence[str], step: int, steps_per_epoch: int) -> None:
        """Prints the description of the run, and the step from which it resumes, if any."""
        for line in description:
            console.say(f"[{self._label}] {line}")
        if step:
            epoch = step / steps_per_epoch
            console.say(f"[{self._label}] resuming from step {step} (epoch {epoch:g})")
        console.progress(self._label, ["compiling the train step"])

    def progress(
        self,
        step: int,
        steps_per_epoch: int,
        epochs: int,
        learning_rate: float,
        rate: float,
        left: float,
        losses: dict[str, float],
    ) -> None:
        """Shows epoch, step, time left, loss terms, throughput and learning rate.

        Args:
          step: number of updates so far.
          steps_per_epoch: number of updates in each epoch.
          epochs: number of epochs of the run.
          learning_rate: learning rate of the last step.
          rate: images per second.
          left: seconds until the end of the run.
          losses: the mean losses of the current epoch, by metric name.
        """
        names = {name.removeprefix("loss/"): value for name, value in losses.items()}
        parts = [
            f"epoch {step / steps_per_epoch:.2f}/{epochs}",
            f"step {step:,}/{epochs * steps_per_epoch:,}",
            f"{duration(left)} left",
            *(f"{name} {value:.4g}" for name, value in names.items() if name == "loss"),
            f"{rate:,.0f} images/s",
            *_rate(learning_rate),
            *(f"{name} {value:.4g}" for name, value in names.items() if name != "loss"),
        ]
        console.progress(self._label, parts)
        for tracker in self._trackers:
            tracker.poll()

    def row(self, row: dict[str, Any], epochs: int, left: float = 0.0) -> None:
        """Writes the metrics of a finished epoch.

        Args:
          row: the metrics.
          epochs: number of epochs of the run.
          left: seconds until the end of the run, for the console; 0 at the end.
        """
        if self._writes:
            self._store(row)
        evaluation = _test_parts(row) if "test/top1" in row else _held_out_parts(row)
        parts = [
            f"epoch {row['epoch']:>3}/{epochs}",
            *evaluation,
            *(
                f"{name.removeprefix('train/loss/')} {value:.4g}"
                for name, value in row.items()
                if name.startswith("train/loss/")
            ),
            *_rate(row.get("learning_rate", math.nan)),
            f"| {row['images_per_second']:,.0f} images/s",
            f"{row['step_milliseconds']:.3g} ms/step",
            _throughput(row),
            *([f"{duration(left)} left"] if left else []),
        ]
        console.print_row(self._label, parts)

    def _store(self, row: dict[str, Any]) -> None:
        line = json.dumps(row) + "\n"
        if buckets.is_bucket(self._path):
            # A checkpoint of this epoch is written later, so that a resumed run finds the row.
            self._text += line
            buckets.write(self._path, self._text.encode())
        else:
            with self._path.open("a") as file:
                file.write(line)
        for tracker in self._trackers:
            tracker.row(row)


def _test_parts(row: dict[str, Any]) -> list[str]:
    validation = [f"val top-1 {row['val/top1']:6.2f}"] if "val/top1" in row else []
    return [
        *validation,
        f"test top-1 {row['test/top1']:6.2f}",
        f"best{' by val' if validation else ''} {row['best/top1']:.2f} ({row['best/epoch']})",
        *_agreement(row),
        f"loss {row['test/loss']:.4f}",
        *_alignment(row),
        f"| train top-1 {row['train/top1']:6.2f}",
    ]


def _held_out_parts(row: dict[str, Any]) -> list[str]:
    losses = [f"held-out loss {row['test/loss']:.4f}"] if "test/loss" in row else []
    return [
        *losses,
        # The best epoch is 0 if no metric chooses it.
        *([f"best epoch {row['best/epoch']}"] if row["best/epoch"] else []),
        *_agreement(row),
        *_alignment(row),
        "| train",
    ]


def _agreement(row: dict[str, Any]) -> list[str]:
    return [f"agreement {row['test/agreement']:6.2f}"] if "test/agreement" in row else []


def speeds(
    rate: float,
    batch_size: int,
    flops: float,
    peak: float,
    wait_share: float | None = None,
    start: float | None = None,
) -> dict[str, float]:
    """Returns the speed of a run, as entries of a row.

    Args:
      rate: steps per second.
      batch_size: images per step.
      flops: FLOPs of the networks per image.
      peak: peak FLOP/s of all devices; 0 if unknown.
      wait_share: the share of time, in [0, 1], that steps waited for images; None if the images
        are on the devices.
      start: seconds from the command to its first step, for the first row after that step; None
        for other rows.
    """
    images = rate * batch_size
    metrics = {
        "images_per_second": images,
        "step_milliseconds": 1000 / rate if rate else 0.0,
        "model_teraflops_per_second": images * flops / 1e12,
    }
    if wait_share is not None:
        metrics["input_wait_percent"] = 100 * wait_share
    if start is not None:
        metrics["start_seconds"] = start
    return metrics | ({"model_flop_utilisation": images * flops / peak} if peak else {})


def _rate(learning_rate: float) -> list[str]:
    return [] if math.isnan(learning_rate) else [f"lr {learning_rate:.3g}"]


def _alignment(row: dict[str, Any]) -> list[str]:
    """Returns the alignment metrics of an epoch that the console shows."""
    formats = {
        "neighbours_10": "shared 10-NN {:.1f} %",
        "cka": "CKA {:.3f}",
        "effective_rank": "effective rank {:.3g}",
        "loss/rrd": "rrd {:.3f}",
        "floor/rrd": "rrd floor {:.3f}",
        "knn_20": "20-NN {:.2f}",
        "probe": "probe {:.2f}",
        "patch_neighbours_10": "shared 10-NN of patches {:.1f} %",
        "miou": "probe mIoU {:.2f}",
    }
    parts = [text.format(row[f"proof/{k}"]) for k, text in formats.items() if f"proof/{k}" in row]
    return ["|", *parts] if parts else []


def _throughput(row: dict[str, Any]) -> str:
    if "model_flop_utilisation" in row:
        return f"{row['model_flop_utilisation']:.1%} of peak bfloat16 FLOP/s"
    return f"{row['model_teraflops_per_second']:.3g} TFLOP/s"


class Clock:
    """Wall time of a run, over all its starts, and its speed since a mark.

    Args:
      before: seconds of earlier starts.
      step: number of updates before this start.
    """

    def __init__(self, before: float, step: int):
        self._before, self._start = before, time.monotonic()
        self.begin(step)

    def begin(self, step: int) -> None:
        """Starts timing steps; time before this call counts toward `total` only."""
        self._first = self._mark = time.monotonic(), step
        self._waited = 0.0

    def mark(self, step: int) -> None:
        """Restarts the measurement of `rate` and `wait_share`."""
        self._mark, self._waited = (time.monotonic(), step), 0.0

    def exclude(self, seconds: float) -> None:
        """Omits time that later steps do not take, such as compilation, from `left`."""
        since, first = self._first
        self._first = since + seconds, first

    def add_wait(self, seconds: float) -> None:
        """Records time in which steps waited for images."""
        self._waited += seconds

    def wait_share(self) -> float:
        """Returns the share of time since the mark, in [0, 1], that steps waited for images."""
        return self._waited / max(time.monotonic() - self._mark[0], 1e-9)

    def rate(self, step: int) -> float:
        """Returns steps per second since the mark; 0 if there were no steps."""
        since, first = self._mark
        return (step - first) / max(time.monotonic() - since, 1e-9)

    def left(self, step: int, total: int) -> float:
        """Returns the seconds until step `total` at the mean speed of this start.

        Returns 0 if this start has made no step.
        """
        since, first = self._first
        if step == first:
            return 0.0
        return (time.monotonic() - since) / (step - first) * (total - step)

    def total(self) -> float:
        """Returns the seconds of all starts."""
        return self._before + time.monotonic() - self._start


def duration(seconds: float) -> str:
    """Formats seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the intact rows of a metrics file; warns about the number of invalid lines.

    An incomplete last line, which a killed run can leave, causes no warning: the resumed run
    writes this row again.
    """
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    rows = list(map(_row, lines))
    if lost := sum(
        line.strip() != b"" and row is None for line, row in zip(lines, rows, strict=True)
    ):
        console.warn(
            f"{lost} of {len(lines)} lines of {path} cannot be read and are dropped; the other"
            " lines are kept"
        )
    return [row for row in [*rows, _row(last)] if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    """Returns the row of a metrics file's line; None if the line is not a row."""
    try:
        row = json.loads(line)
        step = row["step"]
        return row if type(step) is int and all(map(_is_number, row.values())) else None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
