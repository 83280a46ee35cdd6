"""The state and the figures of runs, read from the JSON files and the lock in their folders."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import socket
import time
from typing import Any, NamedTuple

from rrd_jax import errors
from rrd_jax.run_folder import config_fields
from rrd_jax.runs import folders
from rrd_jax.runs.folders import Folder

STATES = ("running", "done", "died", "damaged")
_TAIL = 1 << 16  # Bytes at the end of metrics.jsonl that are searched for its last row.
_SILENT = 600.0  # Seconds without a write after which a run on another machine counts as dead.
_METRICS = {"top1": "test/top1", "best": "best/top1", "best_epoch": "best/epoch"}
_RESULTS = {"top1": "top1", "best": "best_top1", "best_epoch": "best_epoch"}


class Run(NamedTuple):
    """A run, as its folder describes it.

    Attributes:
      columns: {name: value} as docs/runs.md lists them, in seconds, bytes and percent.
      row: the last row of metrics.jsonl; {} before the first epoch ends.
      config: the fields of its config by path; {} if they cannot be read.
    """

    columns: dict[str, Any]
    row: dict[str, Any]
    config: dict[str, Any]

    def value(self, name: str) -> Any:
        """Returns a column, a metric of the last epoch or a config field; None if it is missing."""
        if name in self.columns:
            return self.columns[name]
        return self.row.get(name, self.config.get(name.removeprefix("config.")))


def read(root: str, *, with_size: bool = True) -> tuple[list[Run], list[str]]:
    """Reads the runs in a folder and below it.

    Args:
      root: the folder.
      with_size: whether to add up the sizes of files, which takes most of the time.

    Returns:
      The runs, and the paths of folders that cannot be listed.
    """
    places, unreadable = folders.search(root)
    paths = frozenset(place.path for place in places)
    runs: dict[str, Run] = {}
    for place in places:
        run = _read(place)
        if run is None:
            continue
        if with_size:
            run.columns["size"] = folders.size(place.path, paths)
        runs[place.path] = run
        parent = runs[place.parent].columns if place.parent in runs else {}
        if run.columns["state"] == parent.get("state") == "running" and not parent["epoch"]:
            parent["why"] = f"{os.path.basename(place.path)} comes first"
    return list(runs.values()), unreadable


def read_metrics(path: str) -> list[dict[str, Any]]:
    """Reads all valid rows of the metrics.jsonl in a run's folder."""
    with contextlib.suppress(OSError):
        lines = pathlib.Path(path, "metrics.jsonl").read_bytes().split(b"\n")
        return [row for line in lines if (row := _parse_row(line))]
    return []


def _read(place: Folder) -> Run | None:
    """Reads one run; returns None for a folder of another program."""
    damages: list[str] = []
    config = _read_config(place, damages)
    if not config and not damages:
        return None
    row = _read_last_row(place, damages)
    saved, result = _read_checkpoint(place, damages)
    epoch, epochs = max(row.get("epoch", 0), saved or 0), _number(config.get("train.epochs"))
    figures, names = (row, _METRICS) if row.get("epoch", -1) >= (saved or 0) else (result, _RESULTS)
    student, teacher = _models(config, "student"), _models(config, "teacher")
    columns = {
        "name": place.name,
        "role": place.role,
        "pair": "-".join(filter(None, (teacher, student))) or None,
        "teacher": teacher,
        "student": student,
        "method": config.get("method"),
        "data": config.get("data.name"),
        "seed": config.get("seed"),
        "epoch": epoch,
        "epochs": epochs,
        **{column: _number(figures.get(name)) for column, name in names.items()},
        **_state(place, row, epoch if saved is None else saved, epoch, epochs, damages),
        "size": None,
        "started": config.get("starts.first.date"),
        "path": place.path,
    }
    return Run(columns, row, config)


def _state(
    place: Folder,
    row: dict[str, Any],
    saved: int,
    epoch: int,
    epochs: int | None,
    damages: list[str],
) -> dict[str, Any]:
    """Returns the columns from state to age."""
    changed = _last_write(place)
    milliseconds, step = _number(row.get("step_milliseconds")), _number(row.get("step"))
    seconds_per_epoch = (milliseconds or 0) / 1000 * (step or 0) / max(epoch, 1)
    is_complete = epochs is not None and saved >= epochs
    process, host, is_held = (None, None, False) if is_complete else _lock(place)
    why = ""
    if is_held is None:  # The lock of another machine may be invisible here.
        is_silent = time.time() - changed > max(_SILENT, 3 * seconds_per_epoch)
        is_held = not (is_silent or damages)
        why = "its lock is not visible from here"
    if is_held:
        state = "running"
    elif damages:
        state, why = "damaged", "; ".join(damages)
    elif is_complete:
        state, why = "done", ""
    else:
        crashes = sorted(name for name in place.files if name.startswith("crash-"))
        crashes += sorted(place.files & {"failed.json"})  # A study writes it.
        unsaved = "its last epoch is not saved" if epoch == epochs else ""
        state, why = "died", f"see {crashes[0]}" if crashes else unsaved
    left = max(0.0, (epochs - epoch) * seconds_per_epoch) if epochs and seconds_per_epoch else None
    return {
        "state": state,
        "why": why or None,
        "host": host if is_held else None,
        "process": process if is_held else None,
        "rate": _number(row.get("images_per_second")) if is_held else None,
        "left": left if is_held else None,
        "age": max(0.0, time.time() - changed),
    }


def _last_write(place: Folder) -> float:
    times = [0.0]
    for name in place.files & {"metrics.jsonl", "lock", "config.json"}:
        with contextlib.suppress(OSError):
            times.append(os.path.getmtime(os.path.join(place.path, name)))
    return max(times)


def _read_config(place: Folder, damages: list[str]) -> dict[str, Any]:
    """Returns the fields of config.json by path; {} if it is damaged or another program's."""
    try:
        content = errors.read_json(pathlib.Path(place.path, "config.json"))
        fields = config_fields.flatten(content) if isinstance(content, dict) else {}
    except OSError as error:
        damages.append(f"config.json cannot be read ({error.strerror})")
        return {}
    except (ValueError, RecursionError):
        damages.append("config.json is not JSON")
        return {}
    if _number(fields.get("train.epochs")) is None:
        if "lock" in place.files:  # Other programs write a config.json too, but no lock.
            damages.append("config.json has no train.epochs")
        return {}
    return fields


def _read_last_row(place: Folder, damages: list[str]) -> dict[str, Any]:
    """Returns the last row of metrics.jsonl. A kill can leave half a line at the end."""
    if "metrics.jsonl" not in place.files:
        return {}
    try:
        with open(os.path.join(place.path, "metrics.jsonl"), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            *lines, unfinished = file.read().split(b"\n")
    except OSError as error:
        damages.append(f"metrics.jsonl cannot be read ({error.strerror})")
        return {}
    for i, line in enumerate((unfinished, *filter(bytes.strip, lines[::-1]))):
        if row := _parse_row(line):
            return row
        if i == 1:
            damages.append("the last line of metrics.jsonl cannot be read")
    return {}


def _parse_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and _number(row.get("epoch")) is not None else None


def _read_checkpoint(place: Folder, damages: list[str]) -> tuple[int | None, dict[str, Any]]:
    """Returns the epoch and the figures of the newest checkpoint; None and {} without any."""
    if "checkpoints" not in place.files:
        return None, {}
    folder = pathlib.Path(place.path, "checkpoints")
    steps = [0]
    with contextlib.suppress(OSError):
        steps += [int(name) for name in os.listdir(folder) if name.isdecimal()]
    if len(steps) == 1:
        # A study deletes the checkpoints of finished runs; a kill in the first save leaves none.
        return None if "results.json" in place.files else 0, {}
    try:
        meta = errors.read_json(folder / str(max(steps)) / "meta" / "metadata")["meta"]
        return int(meta["epoch"]), dict(meta.get("result") or {})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        damages.append(f"checkpoint {max(steps)} cannot be read")
        return None, {}


def _lock(place: Folder) -> tuple[int | None, str | None, bool | None]:
    """Returns process and host of the lock file, and whether the process holds the lock.

    The lock is only tried if the process may exist, so a run that is starting is not disturbed.
    The last value is None if the lock may be invisible here: the process is on another machine, or
    the file system has no locks.
    """
    try:
        with open(os.path.join(place.path, "lock")) as file:
            # As `run_folder.workdir` writes it.
            match = re.fullmatch(r"process (\d+) on (\S+)\s*", file.read(300))
            if not match:
                return None, None, False
            process, host = int(match[1]), match[2]
            is_local = host == socket.gethostname()
            if is_local and not _exists(process):
                return process, host, False
            is_locked = _is_locked(file.fileno())
            return process, host, None if is_locked is False and not is_local else is_locked
    except (OSError, ValueError):
        return None, None, False


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:  # The process belongs to another user.
        return True
    except (OSError, OverflowError):
        return False
    return True


def _is_locked(file: int) -> bool | None:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # The file system has no locks.
        return None
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _models(config: dict[str, Any], section: str) -> str | None:
    """Returns the networks of a section, joined by + for several teachers; None for none."""
    pattern = re.compile(rf"{section}(\[\d+\])?\.model")
    return "+".join(str(v) for name, v in config.items() if v and pattern.fullmatch(name)) or None


def _number(value: Any) -> float | None:
    """Returns the value if it is a number other than a bool, else None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
