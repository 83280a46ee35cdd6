"""Labels of samples in shards, from files such as .cls, .json and .txt."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rrd_jax import errors, user_paths
from rrd_jax.data.shards.shard_index import Shard

# Extensions of files with labels, in the order in which they are chosen.
EXTENSIONS = ("cls", "json", "txt")
# Keys of a JSON object that may hold the class.
_JSON_KEYS = ("label", "cls", "class", "class_id", "target")
# The largest file of a label in bytes.
_MAX_BYTES = 1 << 20
_REMEDY = (
    "write a file .cls with the index of the class for every sample, name another file with"
    " data.options.label, or set data.use_labels=False to train without labels"
)


def choose(shards: Sequence[Shard], chosen: str) -> tuple[str, str]:
    """Returns the extension of the files with labels, and the key in a JSON object or "".

    Args:
      shards: the shards of all splits.
      chosen: the user's choice, such as "cls" or "json.class_id"; "" to choose by extension.

    Raises:
      InputError: no shard has such a file.
    """
    available = {extension for shard in shards for extension in shard.extensions}
    if chosen:
        names = [name for name in available if chosen == name or chosen.startswith(f"{name}.")]
        if not names:
            raise errors.InputError(
                f"data.options.label is '{chosen}', but the samples have the files"
                f" {', '.join(sorted(available))}; name one of them, or a key of a JSON object,"
                " such as json.label"
            )
        extension = max(names, key=len)
        return extension, chosen[len(extension) + 1 :]
    for extension in EXTENSIONS:
        if extension in available:
            return extension, ""
    raise errors.InputError(
        f"shard {errors.printable(shards[0].path)} has no labels: its samples have the files"
        f" {', '.join(sorted(available))}; {_REMEDY}"
    )


def read(
    shard: Shard, extension: str, key: str, folder: pathlib.Path, *, names_allowed: bool
) -> list[int | str | None]:
    """Returns the label of each sample: the index or the name of a class, or None.

    Args:
      shard: a shard.
      extension: extension of the files with labels.
      key: key of the label in a JSON object; "" for the usual keys.
      folder: folder of indexes, which stores the labels.
      names_allowed: whether a text may be the name of a class.

    Raises:
      InputError: a label is not valid.
    """
    column = hashlib.sha256(f"{extension} {key}".encode()).hexdigest()[:8]
    file = folder / f"{shard.digest}-{column}.json"
    stored = user_paths.read_object(file) or {}
    values = stored.get("labels")
    if not isinstance(values, list) or len(values) != len(shard.keys):
        values = _read(shard, extension, key)
        _store(file, json.dumps({"labels": values}))
    name = next((i for i, value in enumerate(values) if isinstance(value, str)), None)
    if name is not None and not names_allowed:
        raise _invalid(
            shard, name, extension,
            f"is '{values[name][:40]}', which is not the index of a class; if it is the name of a"
            f" class, set data.options.label={extension}",
        )  # fmt: skip
    return values


def _store(file: pathlib.Path, text: str) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        part.write_text(text)
        part.replace(file)


def _read(shard: Shard, extension: str, key: str) -> list[int | str | None]:
    values: list[Any] = [None] * len(shard.keys)
    kind = shard.extensions.index(extension) if extension in shard.extensions else -1
    with open(shard.path, "rb") as file:
        for i in np.flatnonzero(shard.kinds == kind):
            sample = int(shard.samples[i])
            if shard.sizes[i] > _MAX_BYTES:
                raise _invalid(shard, sample, extension, "is larger than 1 MB")
            content = os.pread(file.fileno(), int(shard.sizes[i]), int(shard.offsets[i]))
            try:
                values[sample] = _parse(content, extension, key)
            except ValueError as error:
                raise _invalid(shard, sample, extension, str(error)) from error
    return values


def check_complete(
    shard: Shard, samples: np.ndarray, values: Sequence[int | str | None], extension: str
) -> None:
    """Raises an InputError for the first of some samples that has no label."""
    missing = [int(i) for i in samples if values[i] is None]
    if missing:
        key = errors.printable(os.fsdecode(bytes(shard.keys[missing[0]])))
        raise errors.InputError(
            f"shard {errors.printable(shard.path)}: {len(missing):,} of {len(samples):,} images"
            f" have no label, such as '{key}', which has no file .{extension}; {_REMEDY}"
        )


def _parse(content: bytes, extension: str, key: str) -> int | str:
    """Returns the index or name of a class; raises a ValueError if there is none."""
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("is not text") from None
    if extension.rpartition(".")[2] != "json":
        return _value(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is not valid JSON") from None
    if isinstance(value, dict):
        candidates = [key] if key else [name for name in _JSON_KEYS if name in value]
        if not candidates or candidates[0] not in value:
            listed = ", ".join(map(str, value)) or "none"
            raise ValueError(
                f"has no key '{key or _JSON_KEYS[0]}' (keys: {listed[:200]}); name the key of the"
                " class, such as data.options.label=json.KEY"
            )
        value = value[candidates[0]]
    return _value(value)


def _value(value: Any) -> int | str:
    if isinstance(value, str):
        value = value.strip()
        if re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            value = int(value)
        elif not value:
            raise ValueError("is empty")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"is {str(value)[:40]}, but must be the index or the name of a class")
    if isinstance(value, int) and not 0 <= value < 2**31:
        raise ValueError(f"is {value}, but must be a class index of at least 0")
    return value


def _invalid(shard: Shard, sample: int, extension: str, problem: str) -> errors.InputError:
    key = errors.printable(os.fsdecode(bytes(shard.keys[sample])))
    return errors.InputError(
        f"shard {errors.printable(shard.path)}: the label '{key}.{extension}'"
        f" {errors.printable(problem)}; correct the label, or set data.use_labels=False"
    )
