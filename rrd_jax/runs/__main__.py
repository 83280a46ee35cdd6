"""Lists the runs in a folder and below it: what they are, how far, how good, and their state.

    python -m rrd_jax.runs runs
    python -m rrd_jax.runs runs --where='method=rrd and seed<3' --sort=-top1
    python -m rrd_jax.runs runs --columns=+optimizer.learning_rate,test/loss --format=csv
    python -m rrd_jax.runs runs --diff digits/kd digits/rrd
    python -m rrd_jax.runs runs --watch

Folders are only read, and no lock is touched: a run that is going on, or starts at that moment,
does not notice. docs/runs.md says what the columns are. The exit code is 0 if there are runs, 1
for a bad flag, 2 for a folder without any.
"""

import contextlib
import functools
import os
import sys
import time
from typing import TYPE_CHECKING

from absl import app, flags

from rrd_jax import errors
from rrd_jax.terminal import cli, console

if TYPE_CHECKING:
    from rrd_jax.runs.columns import Column
    from rrd_jax.runs.reading import Run


class _Interval(flags.ArgumentParser):
    """Of a flag that can stand alone, as --watch, or has a number of seconds."""

    syntactic_help = "a number of seconds"
    _usual = 2.0

    def parse(self, argument: str | bool | None) -> float | None:
        """Seconds, None for no watching."""
        if argument in (True, "true"):
            return self._usual
        if argument in (None, False, "false"):
            return None
        try:
            seconds = float(argument)
        except ValueError:
            seconds = 0.0
        if not 0.1 <= seconds <= 86400:
            raise ValueError("it must be a number of seconds from 0.1 to 86400")
        return seconds


_WHERE = flags.DEFINE_string(
    "where",
    None,
    "Which runs, such as 'method=rrd and seed<3': comparisons (= != < <= > >=, ~ for has in it) of"
    " columns, config fields and metrics, joined by and, or, not and parentheses.",
)
_SORT = flags.DEFINE_list(
    "sort",
    None,
    "By which columns, the first counting most; -top1 for the largest first. Default: name; with"
    " --watch, state,age.",
)
_COLUMNS = flags.DEFINE_list(
    "columns",
    None,
    "Which columns, config fields by path and metrics by name; +NAME,... adds to the usual ones."
    " With --diff, the metrics.",
)
_FORMAT = flags.DEFINE_enum(
    "format",
    "table",
    ["table", "csv", "json"],
    "csv and json have all columns, unless --columns names some, in seconds, bytes and percent.",
)
_DIFF = flags.DEFINE_bool(
    "diff", False, "Shows the two runs named in what differs of their configs, and their curves."
)
_WATCH = flags.DEFINE_flag(
    flags.Flag(
        _Interval(),
        None,
        "watch",
        None,
        "Draws the table anew every SECONDS, 2 unless --watch=SECONDS says otherwise.",
        boolean=True,
    )
)


def main(argv: list[str]) -> None:
    """Lists runs."""
    names = argv[1:]
    if not all(names):
        cli.stop(1, "a name is empty; name a folder of runs, or . for this one")
    if _DIFF.value:
        cli.guard(functools.partial(_diff, names), stopped="stopped")
        return
    if len(names) > 1:
        cli.stop(1, f"one folder is enough, but there are {', '.join(names)}; --diff compares two")
    folder = names[0] if names else "runs"
    if not os.path.isdir(folder):
        what = "is a file" if os.path.exists(folder) else "is not there"
        cli.stop(2, f"folder {folder} {what}; name one that has runs in it, as --workdir has it")
    if _WATCH.value:
        if _FORMAT.value != "table":
            cli.stop(1, f"--watch draws tables; leave out --format={_FORMAT.value}")
        if not console.overwrites():
            cli.stop(1, "--watch needs a terminal, which standard output is not; leave it out")
    cli.guard(functools.partial(_watch if _WATCH.value else _list, folder), stopped="stopped")


def _list(folder: str) -> None:
    from rrd_jax.runs import columns, forms, reading

    everything, unreadable = reading.read(folder)
    if unreadable:
        number = "1 folder" if len(unreadable) == 1 else f"{len(unreadable):,} folders"
        with contextlib.redirect_stdout(sys.stderr):  # answers alone go to standard output
            console.warn(f"{number} cannot be looked into, and may have runs: {unreadable[0]}")
    if not everything:
        raise errors.InputError(
            f"no run is in {folder} or below it: a run's folder has a config.json, and beside it"
            " metrics.jsonl, checkpoints or lock"
        )
    runs, chosen = _asked(everything)
    if _FORMAT.value == "table":
        room = console.width() if console.is_terminal() else None
        text, notes = forms.table(runs, chosen, room, drops=_COLUMNS.value is None)
        console.write(f"{text}\n\n", sys.stdout)
        for line in (*notes, forms.summary(runs, len(everything))):
            console.say(line)
        return
    if _COLUMNS.value is None:
        chosen = list(columns.KNOWN.values())
    records = forms.records(runs, chosen)
    header = [column.name for column in chosen]
    as_text = forms.as_json(records) if _FORMAT.value == "json" else forms.as_csv(header, records)
    console.write(as_text, sys.stdout)


def _asked(everything: list["Run"]) -> tuple[list["Run"], list["Column"]]:
    """The runs that --where asks for, as --sort has them, and the columns of --columns."""
    from rrd_jax.runs import columns, conditions

    names = columns.Names(everything)
    try:
        runs, usual = everything, ["state", "age"] if _WATCH.value else ["name"]
        if _WHERE.value is not None:
            asks = conditions.parse(_WHERE.value, names)
            runs = [run for run in runs if asks(run)]
        runs = columns.ordered(runs, _SORT.value or usual, names)
        return runs, names.columns(_COLUMNS.value or columns.USUAL)
    except errors.InputError as error:
        cli.stop(1, error)


def _watch(folder: str) -> None:
    from rrd_jax.runs import forms, reading, watching

    _asked(reading.read(folder)[0])  # what is wrong with flags is said before the screen is taken

    def draw(width: int, height: int) -> str:
        everything, _ = reading.read(folder)
        runs, chosen = _asked(everything)
        text, notes = forms.table(runs, chosen, width, drops=_COLUMNS.value is None)
        every = f"{time.strftime('%X')}, every {_WATCH.value:g} s; Ctrl-C ends it"
        notes = [*notes, f"{forms.summary(runs, len(everything))}; {every}"]
        lines, room = text.split("\n"), max(3, height - len(notes) - 1)
        if len(lines) > room:
            lines = [*lines[: room - 1], "... and more; --where and --sort say what comes first"]
        return "\n".join([*lines, *notes])

    watching.watch(draw, _WATCH.value)


def _diff(names: list[str]) -> None:
    from rrd_jax.runs import comparing, forms

    if len(names) not in (2, 3):
        cli.stop(1, f"--diff compares two runs, and {len(names)} are named: FOLDER --diff A B")
    if _WHERE.value is not None or _WATCH.value:
        cli.stop(1, "--diff goes with --columns and --format alone")
    folder = names[0] if len(names) == 3 else None
    a, b = (comparing.find(name, folder) for name in names[-2:])
    rows = comparing.curves(a, b, _COLUMNS.value)
    if _FORMAT.value == "json":
        text = comparing.as_json(a, b, rows)
    elif _FORMAT.value == "csv":
        text = forms.as_csv(list(rows[0]) if rows else ["epoch"], rows)
    else:
        room = console.width() if console.is_terminal() else None
        text = comparing.as_text(a, b, rows, room) + "\n"
    console.write(text, sys.stdout)


if __name__ == "__main__":
    app.run(main, flags_parser=functools.partial(cli.parse_flags, arguments=True))
