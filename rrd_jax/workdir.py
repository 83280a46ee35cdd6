"""The folder of a run: it belongs to one process at a time, and to one config."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import socket
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rrd_jax import checkpoints, errors, parallel, report


@contextlib.contextmanager
def claim(
    folder: pathlib.Path,
    config: dict[str, Any],
    *,
    free: Collection[str],
    defaults: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Holds a workdir for one run, and keeps its config in it.

    Args:
      folder: the workdir; it is made if need be.
      config: nested dictionaries of JSON values.
      free: fields that may differ from those of the run's first start, such as "data.workers".
      defaults: nested like config: the values of fields that did not exist at the first start.

    Raises:
      InputError: another process holds it, or it has checkpoints of another config.
    """
    with contextlib.ExitStack() as held:
        parallel.main_first(
            lambda: (
                _claim(folder, config, free, defaults or {}, held) if parallel.is_main() else None
            )
        )
        yield


def _claim(
    folder: pathlib.Path,
    config: dict[str, Any],
    free: Collection[str],
    defaults: Mapping[str, Any],
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
            _check_same(folder, _read_config(path), config, free, _flatten(defaults))
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
    folder: pathlib.Path,
    old: dict[str, Any],
    new: dict[str, Any],
    free: Collection[str],
    defaults: dict[str, Any],
) -> None:
    """Raises an InputError if a field that is not free differs."""
    old, new = _flatten(old), _flatten(new)
    differing = []
    for field in sorted(old | new):
        name = re.sub(r"\[\d+\]", "", field)
        there, here = (fields.get(field, defaults.get(name)) for fields in (old, new))
        if there != here and name not in free:
            values = (fields.get(field, "absent") for fields in (old, new))
            differing.append("{} {} there, {} here".format(field, *values))
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
