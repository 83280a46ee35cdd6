"""The folder of a run: it belongs to one process at a time, and to one config."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import socket
from collections.abc import Collection, Iterator
from typing import Any

from rrd_jax import checkpoints, errors, parallel, report


@contextlib.contextmanager
def claim(folder: pathlib.Path, config: dict[str, Any], *, free: Collection[str]) -> Iterator[None]:
    """Holds a workdir for one run, and keeps its config in it.

    Args:
      folder: the workdir; it is made if need be.
      config: nested dictionaries of JSON values.
      free: fields that may differ from those of the run's first start, such as "data.workers".

    Raises:
      InputError: another process holds it, or it has checkpoints of another config.
    """
    with contextlib.ExitStack() as held:
        parallel.main_first(
            lambda: _claim(folder, config, free, held) if parallel.is_main() else None
        )
        yield


def _claim(
    folder: pathlib.Path,
    config: dict[str, Any],
    free: Collection[str],
    held: contextlib.ExitStack,
) -> None:
    path = folder / "config.json"
    try:
        meta = checkpoints.read_meta(folder / "checkpoints")
        if meta and "epoch" not in meta:
            raise errors.InputError(
                f"workdir {folder} holds a converted network, and no run; pass another --workdir"
            )
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder, held)
        if path.exists() and any((folder / "checkpoints").glob("[0-9]*")):
            _check_same(folder, _read_config(path), config, free)
        report.write_json(path, config)
    except OSError as error:
        raise errors.InputError(f"workdir {folder} cannot be used: {error}") from error


def _lock(folder: pathlib.Path, held: contextlib.ExitStack) -> None:
    """Locks the folder until `held` closes or the process ends."""
    file = held.enter_context((folder / "lock").open("a+"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise errors.InputError(
            f"workdir {folder} is in use by {file.read().strip() or 'another process'}; pass"
            " another --workdir, or wait for it"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()


def _check_same(
    folder: pathlib.Path, old: dict[str, Any], new: dict[str, Any], free: Collection[str]
) -> None:
    """Raises an InputError if a field that is not free differs."""
    old, new = _flatten(old), _flatten(new)
    differing = [
        f"{field} {old.get(field, 'absent')} there, {new.get(field, 'absent')} here"
        for field in sorted(old | new)
        if old.get(field) != new.get(field) and re.sub(r"\[\d+\]", "", field) not in free
    ]
    if differing:
        raise errors.InputError(
            f"workdir {folder} holds a run of another config ({'; '.join(differing)}): pass another"
            " --workdir, or the values it holds to go on with it"
        )


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise errors.InputError(
            f"{path} is damaged ({error}); delete it to go on with the config given now"
        ) from error


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data.name": ..., "teacher[0].model": ...}: values by the names that flags give fields."""
    flat = {}
    for name, value in tree.items():
        items = value if isinstance(value, list) else []
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        elif items and all(isinstance(item, dict) for item in items):
            flat |= _flatten({f"{name}[{i}]": item for i, item in enumerate(items)}, prefix)
        else:
            flat[f"{prefix}{name}"] = value
    return flat
