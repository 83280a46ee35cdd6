"""Data sets in buckets: their paths are replaced by those of copies on this machine."""

import dataclasses
import glob
import os
from typing import Any

from rrd_jax import buckets, user_paths
from rrd_jax.data import staging
from rrd_jax.data.source import Source
from rrd_jax.data.sources import split_expressions

_WDS = "wds:"


def localize(source: Source) -> Source:
    """Returns a source with copies on this machine in place of paths in buckets.

    Raises:
      InputError: a folder in a bucket does not exist or has no files.
      DiskError: the disk cannot hold the copies.
      BucketError: the bucket cannot be reached, or an object changes while it is copied.
    """
    scratch, changes = source.scratch, {}
    prepared = source.dir or os.environ.get("TFDS_DATA_DIR", "")
    if user_paths.bucket_url(prepared):
        folder = _path(prepared, "data.dir" if source.dir else "TFDS_DATA_DIR")
        changes["dir"] = str(staging.local_folder(folder, scratch))
        if source.kind == "tfds" and not source.mock_examples:
            name = source.name.partition(":")[0].partition("/")[0]
            staging.copy(folder / name, scratch, _files_of_splits(source))
    if user_paths.bucket_url(source.manual_dir):
        folder = _path(source.manual_dir, "data.manual_dir")
        changes["manual_dir"] = str(staging.local_folder(folder, scratch))
        if source.kind in ("folder", "masks"):
            staging.copy(folder, scratch, lambda name: True)
    if source.kind == "wds":
        changes |= _localize_shards(source)
    return dataclasses.replace(source, **changes) if changes else source


def _path(text: str, name: str) -> Any:
    return user_paths.parse(text, name, bucket=True)


def _files_of_splits(source: Source) -> staging.Selection:
    """Returns a selection of the files of a prepared data set that the used splits need."""
    try:
        parts = [
            part.name
            for expression in (source.train_split, source.test_split)
            for part in split_expressions.parse(expression)
        ]
    # TFDS reports an unknown expression.
    except ValueError:
        parts = ["all"]

    def is_needed(name: str) -> bool:
        is_part = any(f"-{part}.array_record" in name for part in parts)
        return ".array_record" not in name or "all" in parts or is_part

    return is_needed


def _localize_shards(source: Source) -> dict[str, Any]:
    """Copies the shards that patterns in buckets name; returns the patterns of the copies."""
    from rrd_jax.data.shards import patterns

    def replace(text: str, field: str) -> str:
        return patterns.SEPARATOR.join(
            local_pattern(pattern, field) for pattern in text.split(patterns.SEPARATOR)
        )

    def local_pattern(pattern: str, field: str) -> str:
        is_relative = bool(pattern) and not pattern.startswith(("/", "~")) and "://" not in pattern
        if is_relative and user_paths.bucket_url(source.manual_dir):
            pattern = f"{source.manual_dir.rstrip('/')}/{pattern}"
        if not buckets.parse(pattern):
            return pattern
        place, rest = patterns.split_place(pattern)
        folder = _path(place, field)
        selection, required = patterns.matcher(rest, f"{field} is '{pattern}'")
        target = staging.copy(folder, source.scratch, selection, required)
        return f"{glob.escape(str(target))}/{rest}" if rest else str(target)

    options = dict(source.options)
    changed = {
        key: replace(value, f"data.options.{key}")
        for key, value in options.items()
        if key in ("test", "validation") and isinstance(value, str)
    }
    name = _WDS + replace(source.name.removeprefix(_WDS), "data.name")
    return {"name": name, "options": {**options, **changed}}
