"""Lists the runs below a folder with their networks, method, progress, accuracy and state.

    python -m rrd_jax.runs runs
    python -m rrd_jax.runs runs --sort=-top1 --columns=+optimizer.learning_rate,test/loss
    python -m rrd_jax.runs runs --format=csv
    python -m rrd_jax.runs runs --diff digits/kd digits/rrd
    python -m rrd_jax.runs runs --watch
    python -m rrd_jax.runs gs://BUCKET/runs

The command writes no files and does not disturb runs that are training. docs/runs.md describes the
columns, and shows how to filter with pandas. The exit code is 0 if there are runs, 1 for an invalid
flag, and 2 for a folder without runs.
"""

import contextlib
import functools
import os
import sys
import time
from typing import TYPE_CHECKING

from absl import app, flags

from rrd_jax import errors, user_paths
from rrd_jax.terminal import cli, console, interrupts

if TYPE_CHECKING:
    from rrd_jax.runs.status import Run


class _Interval(flags.ArgumentParser):
    """Parser of a flag with an optional number of seconds, such as --watch or --watch=5."""

    syntactic_help = "a number of seconds"

    def parse(self, argument: str | bool | None) -> float | None:
        """Returns the number of seconds; None if the flag is off."""
        if argument in (None, False, "false"):
            return None
        with contextlib.suppress(ValueError):
            seconds = 2.0 if argument in (True, "true") else float(argument)
            if 0.1 <= seconds <= 86400:
                return seconds
        raise ValueError("must be a number of seconds from 0.1 to 86400")


_SORT = flags.DEFINE_list(
    "sort",
    None,
    "Columns to sort by, in order of priority; -top1 sorts from large to small. Default: name; with"
    " --watch, state,age.",
)
_COLUMNS = flags.DEFINE_list(
    "columns",
    None,
    "Columns, paths of config fields and names of metrics to show; +NAME,... adds to the default"
    " columns. With --diff, the metrics to show.",
)
_FORMAT = flags.DEFINE_enum(
    "format",
    "table",
    ["table", "csv", "json"],
    "Output format. csv and json contain all columns unless --columns is set, in seconds, bytes and"
    " percent.",
)
_DIFF = flags.DEFINE_bool("diff", False, "Compare the configs and the curves of two runs.")
_WATCH = flags.DEFINE_flag(
    flags.Flag(
        _Interval(),
        None,
        "watch",
        None,
        "Update the table every SECONDS with --watch=SECONDS; --watch is --watch=2.",
        boolean=True,
    )
)


def main(argv: list[str]) -> None:
    """Runs the command: prints a list or a comparison of runs, or updates the list."""
    names = list(map(user_paths.expanded, argv[1:]))
    if not all(names):
        cli.stop(1, "a folder name is empty; name a folder of runs, or . for the current folder")
    for name in names:
        if problem := user_paths.problem(name, bucket=True):
            cli.stop(1, f"the folder is '{errors.printable(name)}', {problem}")
    if _DIFF.value:
        cli.guard(functools.partial(_diff, names), stopped="stopped")
        return
    if len(names) > 1:
        cli.stop(
            1,
            f"several folders are named ({', '.join(names)}); name one, or compare two with --diff",
        )
    if _WATCH.value and _FORMAT.value != "table":
        cli.stop(1, f"--watch shows tables; omit --format={_FORMAT.value}")
    if _WATCH.value and not console.overwrites():
        cli.stop(1, "--watch needs a terminal as standard output; omit the flag")
    folder = names[0] if names else "runs"
    cli.guard(functools.partial(_watch if _WATCH.value else _list, folder), stopped="stopped")


def _read(folder: str) -> tuple[list["Run"], list[str]]:
    """Returns the sorted runs and the names of the columns."""
    from rrd_jax.runs import status, table

    if user_paths.bucket_url(folder):
        folder = str(user_paths.path_of(folder))
    elif not os.path.isdir(folder):
        problem = "is a file" if os.path.exists(folder) else "does not exist"
        raise errors.InputError(f"folder {folder} {problem}; name a folder that contains runs")
    names = _COLUMNS.value or table.DEFAULT_COLUMNS
    order = [name.strip() for name in _SORT.value or ("name",)]
    if _WATCH.value and not _SORT.value:
        order = ["state", "age"]
    is_plain = _FORMAT.value != "table" and not _COLUMNS.value
    with_size = is_plain or any(name.strip(" +-") == "size" for name in (*names, *order))
    runs, unreadable = status.read(folder, with_size=with_size)
    if unreadable and not _WATCH.value:
        # Standard output contains only the list.
        with contextlib.redirect_stdout(sys.stderr):
            noun = "folder" if len(unreadable) == 1 else "folders"
            console.warn(
                f"{len(unreadable):,} {noun} cannot be listed, for example {unreadable[0]}; check"
                " the permissions"
            )
    if not runs:
        raise errors.InputError(
            f"no runs in {folder} or below; name a folder of runs; the folder of a run contains"
            " config.json, and metrics.jsonl, checkpoints or lock"
        )
    try:
        table.columns([name.removeprefix("-") for name in order], runs)
        return table.ordered(runs, order), table.columns(names, runs)
    except errors.InputError as error:
        cli.stop(1, error)


def _list(folder: str) -> None:
    from rrd_jax.runs import table

    runs, names = _read(folder)
    if _FORMAT.value == "table":
        text = _table(runs, names, console.width() if console.is_terminal() else None) + "\n"
    else:
        names = names if _COLUMNS.value else list(runs[0].columns)
        records = table.records(runs, names)
        is_json = _FORMAT.value == "json"
        text = table.as_json(records) if is_json else table.as_csv(names, records)
    console.write(text, sys.stdout)


def _table(runs: list["Run"], names: list[str], width: int | None) -> str:
    from rrd_jax.runs import table

    return table.as_table(runs, names, width, may_drop=_COLUMNS.value is None)


def _watch(folder: str) -> None:
    """Updates the table until Ctrl-C, and then restores the previous content of the screen.

    The exception of another signal passes through Live, which also restores the screen.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    # This first call reports invalid flags before the screen is replaced.
    runs, names = _read(folder)
    screen = Console()
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(console=screen, screen=True, auto_refresh=False) as live,
    ):
        while True:
            table, _, below = _table(runs, names, screen.width).partition("\n\n")
            end = f"{below}; {time.strftime('%X')}, every {_WATCH.value:g} s; Ctrl-C to quit"
            lines, room = table.split("\n"), max(3, screen.height - 2)
            if len(lines) > room:
                lines = [*lines[: room - 1], "... more runs; change the order with --sort"]
            text = Text("\n".join([*lines, end]), no_wrap=True, overflow="crop")
            live.update(text, refresh=True)
            time.sleep(_WATCH.value)
            runs, names = _read(folder)
    interrupts.clear()


def _diff(names: list[str]) -> None:
    from rrd_jax.runs import differences, table

    if len(names) not in (2, 3):
        cli.stop(1, f"--diff needs two runs, not {len(names)}; use FOLDER --diff A B")
    if _WATCH.value or _SORT.value:
        cli.stop(1, "--diff cannot be combined with --sort or --watch; omit these flags")
    folder = names[0] if len(names) == 3 else None
    a, b = (differences.find(name, folder) for name in names[-2:])
    rows = differences.curves(a, b, _COLUMNS.value)
    if _FORMAT.value == "json":
        text = differences.as_json(a, b, rows)
    elif _FORMAT.value == "csv":
        text = table.as_csv(list(rows[0]) if rows else ["epoch"], rows)
    else:
        width = console.width() if console.is_terminal() else None
        text = differences.as_text(a, b, rows, width) + "\n"
    console.write(text, sys.stdout)


if __name__ == "__main__":
    app.run(main, flags_parser=functools.partial(cli.parse_flags, arguments=True))
