"""The figures of a run, written to the console, metrics.jsonl and TensorBoard."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import tensorboardX

from rrd_jax import errors
from rrd_jax.run_folder import atomic_write
from rrd_jax.terminal import console

_QUIET_SECONDS = 600.0  # between lines of a long epoch where they cannot overwrite each other


class MetricsWriter:
    """Writes the figures of a run to its workdir and to the console.

    A context manager. Rows after `step` are dropped at the start, so that a run that goes on
    from a checkpoint holds each row once.

    Args:
      workdir: receives metrics.jsonl and the folder tensorboard.
      label: of the run, on the console.
      step: the step that the run begins after.
      writes: whether to write to the workdir; without, only the console sees anything.
    """

    def __init__(self, workdir: pathlib.Path, label: str, step: int = 0, *, writes: bool = True):
        self._label = label
        self._path, self._board = workdir / "metrics.jsonl", None
        self._last_line = time.monotonic()
        if not writes:
            return
        rows = _read_rows(self._path)
        kept = [row for row in rows if row["step"] <= step]
        if not step and len(rows) > 1:  # a kill before the first checkpoint leaves one
            before = self._path.with_suffix(".jsonl.before")
            self._path.replace(before)
            console.warn(
                f"{workdir} has figures of {len(rows)} epochs, but no checkpoint: the run begins"
                f" anew, and those figures are kept in {before.name}"
            )
        atomic_write.write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1 if step else None
        )

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        with contextlib.suppress(errors.DiskError, errors.UnreadError):  # said before, or after
            console.clear()
        if not self._board:
            return
        try:
            self._board.close()
        except OSError:
            self._board.file_writer.event_writer._closed = True  # at exit it would fail aloud again
            if kind is None:  # otherwise what broke the run off says more
                raise

    def start(self, description: Sequence[str], step: int, steps_per_epoch: int) -> None:
        """Prints what begins, or goes on, in a few lines."""
        for line in description:
            console.say(f"[{self._label}] {line}")
        if step:
            epoch = step / steps_per_epoch
            console.say(f"[{self._label}] going on after step {step}, epoch {epoch:g}")
        console.progress(self._label, ["the first step is compiled"])

    def progress(
        self,
        epoch: float,
        epochs: int,
        learning_rate: float,
        rate: float,
        left: float,
        losses: dict[str, float],
    ) -> None:
        """Shows where the run is, time left, loss terms, images a second and the learning rate.

        Where lines cannot be overwritten, a line an epoch is enough, and one every ten minutes
        within longer epochs.
        """
        names = {name.removeprefix("loss/"): value for name, value in losses.items()}
        parts = [
            f"epoch {epoch:.2f}/{epochs}",
            f"{duration(left)} left",
            *(f"{name} {value:.4g}" for name, value in names.items() if name == "loss"),
            f"{rate:,.0f} images/s",
            *_rate(learning_rate),
            *(f"{name} {value:.4g}" for name, value in names.items() if name != "loss"),
        ]
        if console.overwrites():
            console.progress(self._label, parts)
        elif time.monotonic() - self._last_line >= _QUIET_SECONDS:
            self._print(parts)

    def row(self, row: dict[str, Any], epochs: int) -> None:
        """Writes the figures of a finished epoch."""
        if self._board:
            self._keep(row)
        tested = _tested(row) if "test/top1" in row else _held_out(row)
        parts = [
            f"epoch {row['epoch']:>3}/{epochs}",
            *tested,
            *(
                f"{name.removeprefix('train/loss/')} {value:.4g}"
                for name, value in row.items()
                if name.startswith("train/loss/")
            ),
            *_rate(row.get("learning_rate", math.nan)),
            f"| {row['images_per_second']:,.0f} images/s",
            f"{row['step_milliseconds']:.3g} ms a step",
            _effort(row),
        ]
        self._print(parts)

    def _print(self, parts: Sequence[str]) -> None:
        console.print_row(self._label, parts)
        self._last_line = time.monotonic()

    def _keep(self, row: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, row["step"])
        self._board.flush()


def _tested(row: dict[str, Any]) -> list[str]:
    return [
        f"test top-1 {row['test/top1']:6.2f}",
        f"best {row['best/top1']:.2f} ({row['best/epoch']})",
        *_agreement(row),
        f"loss {row['test/loss']:.4f}",
        *_proof(row),
        f"| train top-1 {row['train/top1']:6.2f}",
    ]


def _held_out(row: dict[str, Any]) -> list[str]:
    """What there is to say without labels."""
    if "test/loss" not in row:
        return [*_agreement(row), *_proof(row), "| train"]
    loss, lowest = (f"{row[name]:.4f}" for name in ("test/loss", "best/loss"))
    said = f"held-out loss {loss}", f"lowest {lowest} ({row['best/epoch']})"
    return [*said, *_agreement(row), *_proof(row), "| train"]


def _agreement(row: dict[str, Any]) -> list[str]:
    return [f"agreement {row['test/agreement']:6.2f}"] if "test/agreement" in row else []


def speeds(
    rate: float,
    batch_size: int,
    flops: float,
    peak: float,
    waits: float | None = None,
    start: float | None = None,
) -> dict[str, float]:
    """The speed of a run, as entries of a row.

    Args:
      rate: steps a second.
      batch_size: images a step.
      flops: of the networks for an image.
      peak: FLOPs a second that the devices can make; 0 where that is not known.
      waits: the share of the time in which steps waited for images; None where these lie on the
        devices.
      start: seconds from the command to its first step, in the row after that; None in others.
    """
    images = rate * batch_size
    figures = {
        "images_per_second": images,
        "step_milliseconds": 1000 / rate if rate else 0.0,
        "model_teraflops_per_second": images * flops / 1e12,
    }
    if waits is not None:
        figures["input_wait_percent"] = 100 * waits
    if start is not None:
        figures["start_seconds"] = start
    return figures | ({"model_flop_utilisation": images * flops / peak} if peak else {})


def _rate(learning_rate: float) -> list[str]:
    return [] if math.isnan(learning_rate) else [f"lr {learning_rate:.3g}"]


def _proof(row: dict[str, Any]) -> list[str]:
    """What is shown of an epoch's comparison with the teacher on held-out images."""
    shown = {
        "neighbours_10": "10 nearest in common {:.1f} %",
        "cka": "CKA {:.3f}",
        "effective_rank": "effective rank {:.3g}",
        "loss/rrd": "rrd {:.3f}",
        "floor/rrd": "of at least {:.3f}",
        "knn_20": "20-NN {:.2f}",
        "probe": "probe {:.2f}",
    }
    parts = [text.format(row[f"proof/{k}"]) for k, text in shown.items() if f"proof/{k}" in row]
    return ["|", *parts] if parts else []


def _effort(row: dict[str, Any]) -> str:
    if "model_flop_utilisation" in row:
        return f"{row['model_flop_utilisation']:.1%} of the devices' bfloat16 peak"
    return f"{row['model_teraflops_per_second']:.3g} TFLOP/s"


class Clock:
    """Wall time of a run, over all its starts, and its speed since a mark.

    Args:
      before: seconds that earlier starts took.
      step: the step that this start begins after.
    """

    def __init__(self, before: float, step: int):
        self._before, self._start = before, time.monotonic()
        self.begin(step)

    def begin(self, step: int) -> None:
        """Says that the steps begin; the time before them counts for `total` alone."""
        self._first = self._mark = time.monotonic(), step
        self._waited = 0.0

    def mark(self, step: int) -> None:
        """Measures `rate` and `waits` from here on."""
        self._mark, self._waited = (time.monotonic(), step), 0.0

    def wait(self, seconds: float) -> None:
        """Says that steps waited for images so long."""
        self._waited += seconds

    def waits(self) -> float:
        """The share of the time since the mark in which steps waited for images, in [0, 1]."""
        return self._waited / max(time.monotonic() - self._mark[0], 1e-9)

    def rate(self, step: int) -> float:
        """Steps a second since the mark; 0 if no step was made."""
        since, first = self._mark
        return (step - first) / max(time.monotonic() - since, 1e-9)

    def left(self, step: int, total: int) -> float:
        """Seconds until step `total`, at the mean speed of this start."""
        since, first = self._first
        return (time.monotonic() - since) / (step - first) * (total - step)

    def total(self) -> float:
        """Seconds of all starts."""
        return self._before + time.monotonic() - self._start


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics file that can be read; those that cannot are counted in a warning.

    A kill can leave half a line at the end, of which nothing is said: it comes again.
    """
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    rows = list(map(_row, lines))
    if lost := sum(
        line.strip() != b"" and row is None for line, row in zip(lines, rows, strict=True)
    ):
        console.warn(
            f"{lost} of {len(lines)} lines of {path} cannot be read, and are left out from here on;"
            " all others are kept"
        )
    return [row for row in [*rows, _row(last)] if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    """A line of a metrics file; None where it is none."""
    try:
        row = json.loads(line)
        step = row["step"]
        return row if type(step) is int and all(map(_is_figure, row.values())) else None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
