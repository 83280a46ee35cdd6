"""What can be shown, sorted and asked of runs: columns, config fields and metrics, by name."""

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rrd_jax import errors
from rrd_jax.run_folder import flat
from rrd_jax.runs import reading
from rrd_jax.runs.reading import Run
from rrd_jax.terminal import tables

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}
BYTES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


@dataclasses.dataclass(frozen=True)
class Column:
    """One thing that is known of each run.

    Attributes:
      name: as flags have it.
      value: of a run, as files get it: a number, a text, or None where there is none.
      text: of a run, as tables show it; None for the value in few digits.
      units: of numbers in --where, such as 2h, by name.
      choices: all the values there are, in their order; () for any.
    """

    name: str
    value: Callable[[Run], Any]
    text: Callable[[Run], str] | None = None
    units: dict[str, float] = dataclasses.field(default_factory=dict)
    choices: tuple[str, ...] = ()

    def shown(self, run: Run) -> str:
        """The cell of a table."""
        return self.text(run) if self.text else shown(self.value(run))


def shown(value: Any) -> str:
    """A value in a table's cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return errors.printable(str(value))


def _field(path: str) -> Callable[[Run], Any]:
    def value(run: Run) -> Any:
        found = flat.value(run.config, path)
        return None if found is flat.ABSENT else found

    return value


def _teacher(run: Run) -> str | None:
    models = _field("teacher.model")(run)
    models = models if isinstance(models, list) else [models]
    return "+".join(str(model) for model in models if model) or None


def _pair(run: Run) -> str | None:
    """As config strings have it."""
    student = _field("student.model")(run)
    return "-".join(str(name) for name in (_teacher(run), student) if name) or None


def _figure(name: str) -> Callable[[Run], Any]:
    """Of the last row, or of the newest checkpoint, whichever is of the later epoch."""
    in_row = {"top1": "test/top1", "best_top1": "best/top1", "best_epoch": "best/epoch"}[name]

    def value(run: Run) -> Any:
        is_newer = run.row.get("epoch", -1) >= (run.saved or 0)
        found = run.row.get(in_row) if is_newer else run.result.get(name)
        return found if reading.is_number(found) else None

    return value


def _rate(run: Run) -> float | None:
    rate = run.row.get("images_per_second") if run.state == "running" else None
    return rate if reading.is_number(rate) else None


def _left(run: Run) -> float | None:
    """Seconds of steps that are left to a run that is running."""
    if run.state != "running" or not run.seconds_per_epoch or run.epochs is None:
        return None
    return max(0.0, (run.epochs - run.epoch) * run.seconds_per_epoch)


def _state(run: Run) -> str:
    text, rate = run.state, _rate(run)
    if run.holder:
        text += f" on {run.holder.host}" + (f", {rate:,.0f} images/s" if rate else "")
    if run.why:
        text += f"{', ' if run.holder else ': '}{run.why}"
    return errors.printable(text)


def _best(run: Run) -> str:
    top1, epoch = _figure("best_top1")(run), _figure("best_epoch")(run)
    return "-" if top1 is None else f"{top1:.2f} ({shown(epoch)})"


def _percent(name: str) -> Callable[[Run], str]:
    def text(run: Run) -> str:
        value = _figure(name)(run)
        return "-" if value is None else f"{value:.2f}"

    return text


def _age(run: Run) -> float:
    return max(0.0, time.time() - run.changed)


def _duration(seconds: float | None) -> str:
    """In the largest unit of which there are two, such as 90 min."""
    if seconds is None:
        return "-"
    unit = next((u for u in ("w", "d", "h", "min") if seconds >= 2 * SECONDS[u]), "s")
    return f"{seconds / SECONDS[unit]:.0f} {unit}"


def _started(run: Run) -> str | None:
    date = flat.value(run.starts, "first.date")
    return date if isinstance(date, str) else None


_ALL = (
    Column("name", lambda run: run.place.name),
    Column(
        "role",
        lambda run: run.place.role,
        choices=("student", "teacher", "alone", "scratch", "stage"),
    ),
    Column("pair", _pair),
    Column("teacher", _teacher),
    Column("student", _field("student.model")),
    Column("method", _field("method")),
    Column("data", _field("data.name")),
    Column("seed", _field("seed")),
    Column("epoch", lambda run: run.epoch, lambda run: f"{run.epoch}/{run.epochs or '?'}"),
    Column("epochs", lambda run: run.epochs),
    Column("top1", _figure("top1"), _percent("top1")),
    Column("best", _figure("best_top1"), _best),
    Column("best_epoch", _figure("best_epoch")),
    Column("state", lambda run: run.state, _state, choices=reading.STATES),
    Column("why", lambda run: run.why or None),
    Column("host", lambda run: run.holder and run.holder.host),
    Column("process", lambda run: run.holder and run.holder.process),
    Column("rate", _rate),
    Column("left", _left, lambda run: _duration(_left(run)), SECONDS),
    Column("age", _age, lambda run: _duration(_age(run)), SECONDS),
    Column("size", lambda run: run.size, lambda run: tables.bytes_shown(run.size), BYTES),
    Column("started", _started),
    Column("path", lambda run: run.place.path),
)
KNOWN = {column.name: column for column in _ALL}
USUAL = (
    *("name", "pair", "method", "data", "seed", "epoch", "top1", "best", "state", "age", "size"),
)


class Names:
    """Finds columns by name among those of some runs.

    A name is that of a column, else a config field, such as optimizer.learning_rate, else a
    metric, such as test/loss, whose value is that of the last epoch. `config.name` is the config's
    field where a column has the same name.
    """

    def __init__(self, runs: Sequence[Run]):
        self._runs = runs

    def column(self, name: str) -> Column:
        """The column of a name; raises an InputError where no run has it."""
        if name in KNOWN:
            return KNOWN[name]
        path = name.removeprefix("config.")
        if any(flat.value(run.config, path) is not flat.ABSENT for run in self._runs):
            return Column(name, _field(path))
        if any(name in run.row for run in self._runs):
            return Column(name, lambda run: run.row.get(name))
        if not self._runs:
            return Column(name, lambda run: None)
        raise errors.InputError(
            f"no run has '{name}'; {errors.hint(name, self._all())}known: {', '.join(KNOWN)}, and"
            " config fields and metrics, such as optimizer.learning_rate and test/loss"
        )

    def columns(self, names: Iterable[str]) -> list[Column]:
        """The columns of --columns, which begins with + to add to the usual ones."""
        listed = [name.strip() for name in names]
        if listed and listed[0].startswith("+"):
            listed = [*USUAL, listed[0][1:], *listed[1:]]
        return [self.column(name) for name in dict.fromkeys(listed)]

    def _all(self) -> list[str]:
        names = dict.fromkeys(KNOWN)
        for run in self._runs:
            names |= dict.fromkeys([*flat.flatten(run.config), *run.row])
        return list(names)


def ordered(runs: Sequence[Run], names: Sequence[str], known: Names) -> list[Run]:
    """The runs by the columns named, the first counting most, -NAME for the largest first.

    Runs that lack a value come last.
    """
    runs = list(runs)
    for name in reversed(names):
        column = known.column(name.strip().removeprefix("-"))
        values = [(column.value(run), run) for run in runs]
        there = [(value, run) for value, run in values if value is not None]
        rank = column.choices.index if column.choices else _rank
        there.sort(key=lambda pair, rank=rank: rank(pair[0]), reverse=name.strip().startswith("-"))
        runs = [run for _, run in there] + [run for value, run in values if value is None]
    return runs


def _rank(value: Any) -> tuple:
    """Numbers by size, before texts, in which numbers count as such: seed2 before seed10.

    Paths go folder by folder, so that what lies in a folder follows it.
    """
    if isinstance(value, int | float):
        return (0, value, ())
    return (1, 0, tuple(map(_natural, str(value).split("/"))))


def _natural(text: str) -> tuple:
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
