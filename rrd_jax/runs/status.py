"""State and metrics of runs, read from the JSON files and the lock in their folders."""

import contextlib
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rrd_jax import buckets, deferred, user_paths
from rrd_jax.run_folder import config_fields
from rrd_jax.runs import bucket_folders, folders
from rrd_jax.runs.folders import Folder
from rrd_jax.training import criterion

futures = deferred.Library("concurrent.futures")

STATES = ("running", "done", "died", "damaged")
# Number of bytes at the end of metrics.jsonl that are searched for the last row.
_TAIL = 1 << 16
# The process in a lock or lease, as `run_folder.workdir` and `buckets.leases` write it.
_OWNER = re.compile(r"process (\d+) on (\S+)\s*")
# The object that completes a checkpoint in a bucket.
_MARKER = re.compile(r"checkpoints/(\d+)/commit_success\.txt")
# Number of runs in a bucket that are read at the same time.
_THREADS = 16
# Seconds without a write after which a run on another machine is considered dead.
_SILENT = 600.0
_METRICS = {"top1": "test/top1", "best": "best/top1", "best_epoch": "best/epoch"}
_RESULTS = {"top1": "top1", "best": "best_top1", "best_epoch": "best_epoch"}
# Criteria of the best epoch; a row contains the best value of the criterion of its run.
_CRITERIA = tuple(
    criterion.create(metric, validated=validated)
    for validated in (True, False)
    for metric in ("top1", "neighbours_10", "neighbours_1", "agreement")
)


class Run(NamedTuple):
    """The state of a run, read from its folder.

    Attributes:
      columns: the columns of docs/runs.md by name, in seconds, bytes and percent.
      row: the last row of metrics.jsonl; {} before the end of the first epoch.
      config: the config fields by path; {} if they cannot be read.
    """

    columns: dict[str, Any]
    row: dict[str, Any]
    config: dict[str, Any]

    def value(self, name: str) -> Any:
        """Returns a column, a metric of the last epoch or a config field; None if missing."""
        if name in self.columns:
            return self.columns[name]
        return self.row.get(name, self.config.get(name.removeprefix("config.")))


def read(root: str, *, with_size: bool = True) -> tuple[list[Run], list[str]]:
    """Reads all runs in a folder and its subfolders.

    Args:
      root: the folder.
      with_size: whether to sum the sizes of files, which takes most of the time.

    Returns:
      The runs, and the paths of folders that cannot be listed.
    """
    is_bucket = user_paths.bucket_url(root) is not None
    run_folders, unreadable = (
        (bucket_folders.search(root), []) if is_bucket else folders.search(root)
    )
    paths = frozenset(folder.path for folder in run_folders)
    runs: dict[str, Run] = {}
    for folder, run in zip(run_folders, _read_all(run_folders), strict=True):
        if run is None:
            continue
        if folder.objects is not None:
            run.columns["size"] = sum(entry.size for entry in folder.objects.values())
        elif with_size:
            run.columns["size"] = folders.size(folder.path, paths)
        runs[folder.path] = run
        parent = runs[folder.parent].columns if folder.parent in runs else {}
        if run.columns["state"] == parent.get("state") == "running" and not parent["epoch"]:
            parent["why"] = f"{os.path.basename(folder.path)} trains first"
    return list(runs.values()), unreadable


def read_metrics(path: str) -> list[dict[str, Any]]:
    """Reads all valid rows of metrics.jsonl in a run's folder."""
    with contextlib.suppress(OSError):
        lines = _path(path, "metrics.jsonl").read_bytes().split(b"\n")
        return [row for line in lines if (row := _parse_row(line))]
    return []


def _read_all(run_folders: list[Folder]) -> Iterator[Run | None]:
    """Yields the result of `_read` for each folder."""
    if all(folder.objects is None for folder in run_folders):
        yield from map(_read, run_folders)
        return
    # Requests to a bucket take long.
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(_read, run_folders)


def _path(folder: str, name: str) -> Any:
    """Returns the path of a file in a run's folder."""
    return user_paths.path_of(f"{folder}/{name}")


def _read(folder: Folder) -> Run | None:
    """Reads a run; returns None for a folder of another program."""
    damages: list[str] = []
    config = _read_config(folder, damages)
    if not config and not damages:
        return None
    row = _read_last_row(folder, damages)
    saved, result = _read_checkpoint(folder, damages)
    epoch, epochs = max(row.get("epoch", 0), saved or 0), _number(config.get("train.epochs"))
    is_logged = row.get("epoch", -1) >= (saved or 0)
    metrics, names = (row, _METRICS) if is_logged else (result, _RESULTS)
    student, teacher = _models(config, "student"), _models(config, "teacher")
    columns = {
        "name": folder.name,
        "role": _role(folder, config),
        "pair": "-".join(filter(None, (teacher, student))) or None,
        "teacher": teacher,
        "student": student,
        "method": config.get("method"),
        "data": _data(config),
        "seed": config.get("seed"),
        "epoch": epoch,
        "epochs": epochs,
        **{column: _number(metrics.get(name)) for column, name in names.items()},
        "best_by": _best_by(row) or result.get("best_by"),
        **_state(folder, row, epoch if saved is None else saved, epoch, epochs, damages),
        "size": None,
        "started": config.get("starts.first.date"),
        "path": folder.path,
    }
    return Run(columns, row, config)


def _role(folder: Folder, config: Mapping[str, Any]) -> str:
    """Returns the role of a run; a teacher that was trained on its own is not in a job's folder."""
    is_teacher = folder.role == "student" and config.get("label") == "teacher"
    return "teacher" if is_teacher else folder.role


def _data(config: Mapping[str, Any]) -> str | None:
    """Returns the name of the data set; for a folder of images, the folder's name."""
    name, folder = config.get("data.name"), config.get("data.manual_dir")
    if name in ("image_folder", "mask_folder") and isinstance(folder, str) and folder:
        return os.path.basename(os.path.abspath(folder))
    return name


def _best_by(row: dict[str, Any]) -> str | None:
    """Returns the criterion that chose the best epoch, such as "test/top1"; None if unknown."""
    return next((name for name in _CRITERIA if f"best/{criterion.key(name)}" in row), None)


def _state(
    folder: Folder,
    row: dict[str, Any],
    saved: int,
    epoch: int,
    epochs: int | None,
    damages: list[str],
) -> dict[str, Any]:
    """Returns the columns from `state` to `age`."""
    changed = _last_write(folder)
    milliseconds, step = _number(row.get("step_milliseconds")), _number(row.get("step"))
    seconds_per_epoch = (milliseconds or 0) / 1000 * (step or 0) / max(epoch, 1)
    is_complete = epochs is not None and saved >= epochs
    process, host, is_held = (None, None, False) if is_complete else _lock(folder)
    why = ""
    # The lock of another machine may be invisible on this machine.
    if is_held is None:
        is_silent = time.time() - changed > max(_SILENT, 3 * seconds_per_epoch)
        is_held = not (is_silent or damages)
        why = "its lock is not visible on this machine"
    if is_held:
        state = "running"
    elif damages:
        state, why = "damaged", "; ".join(damages)
    elif is_complete:
        state, why = "done", ""
    else:
        crashes = sorted(name for name in folder.files if name.startswith("crash-"))
        # Studies write failed.json.
        crashes += sorted(folder.files & {"failed.json"})
        unsaved = "the last epoch is not saved" if epoch == epochs else ""
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


def _last_write(folder: Folder) -> float:
    if folder.objects is not None:
        # The lease is renewed at intervals.
        return max((entry.time for entry in folder.objects.values()), default=0.0)
    times = [0.0]
    for name in folder.files & {"metrics.jsonl", "lock", "config.json"}:
        with contextlib.suppress(OSError):
            times.append(os.path.getmtime(os.path.join(folder.path, name)))
    return max(times)


def _read_config(folder: Folder, damages: list[str]) -> dict[str, Any]:
    """Returns the fields of config.json by path; {} if the file is damaged or not rrd_jax's."""
    try:
        content = user_paths.read_json(_path(folder.path, "config.json"))
        fields = config_fields.flatten(content) if isinstance(content, dict) else {}
    except OSError as error:
        damages.append(f"config.json cannot be read ({error.strerror or 'it is missing'})")
        return {}
    except (ValueError, RecursionError):
        damages.append("config.json is not JSON")
        return {}
    if _number(fields.get("train.epochs")) is None:
        # Folders of other programs may contain config.json, but no lock.
        if not folder.files.isdisjoint(folders.LOCKS):
            damages.append("config.json has no train.epochs")
        return {}
    return fields


def _read_last_row(folder: Folder, damages: list[str]) -> dict[str, Any]:
    """Returns the last row of metrics.jsonl. A killed run can leave an incomplete last line."""
    if "metrics.jsonl" not in folder.files:
        return {}
    try:
        *lines, unfinished = _read_tail(folder).split(b"\n")
    except OSError as error:
        damages.append(f"metrics.jsonl cannot be read ({error.strerror})")
        return {}
    for i, line in enumerate((unfinished, *filter(bytes.strip, lines[::-1]))):
        if row := _parse_row(line):
            return row
        if i == 1:
            damages.append("the last line of metrics.jsonl cannot be read")
    return {}


def _read_tail(folder: Folder) -> bytes:
    path = _path(folder.path, "metrics.jsonl")
    if folder.objects is not None:
        return buckets.read(path)
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        return file.read()


def _parse_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and _number(row.get("epoch")) is not None else None


def _read_checkpoint(folder: Folder, damages: list[str]) -> tuple[int | None, dict[str, Any]]:
    """Returns the epoch and the metrics of the newest checkpoint; None and {} without one."""
    if "checkpoints" not in folder.files:
        return None, {}
    checkpoints = _path(folder.path, "checkpoints")
    steps = [0, *_steps(folder)]
    if len(steps) == 1:
        # A study deletes the checkpoints of finished runs. A run that was killed during its first
        # save has no checkpoint.
        return None if "results.json" in folder.files else 0, {}
    try:
        meta = user_paths.read_json(checkpoints / str(max(steps)) / "meta" / "metadata")["meta"]
        return int(meta["epoch"]), dict(meta.get("result") or {})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        damages.append(f"checkpoint {max(steps)} cannot be read")
        return None, {}


def _steps(folder: Folder) -> list[int]:
    """Returns the steps of the complete checkpoints."""
    if folder.objects is not None:
        matches = map(_MARKER.fullmatch, folder.objects)
        return [int(match[1]) for match in matches if match]
    try:
        names = os.listdir(os.path.join(folder.path, "checkpoints"))
    except OSError:
        return []
    return [int(name) for name in names if name.isdecimal()]


def _lock(folder: Folder) -> tuple[int | None, str | None, bool | None]:
    """Returns the process and host in the lock file, and whether the process holds the lock.

    The lock is tested only if the process may exist, so that a starting run is not disturbed. The
    last value is None if the lock may be invisible on this machine: the process is on another
    machine, or the file system does not support locks.
    """
    if folder.objects is not None:
        match = _OWNER.fullmatch(buckets.leases.owner(user_paths.path_of(folder.path)))
        return (int(match[1]), match[2], True) if match else (None, None, False)
    try:
        with open(os.path.join(folder.path, "lock")) as file:
            match = _OWNER.fullmatch(file.read(300))
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
    # The process belongs to another user.
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _is_locked(file: int) -> bool | None:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    # The file system does not support locks.
    except OSError:
        return None
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _models(config: dict[str, Any], section: str) -> str | None:
    """Returns the networks of a section, several joined by +; None for a section without one."""
    pattern = re.compile(rf"{section}(\[\d+\])?\.model")
    return "+".join(str(v) for name, v in config.items() if v and pattern.fullmatch(name)) or None


def _number(value: Any) -> float | None:
    """Returns the value if it is a number and not a bool, otherwise None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
