"""Copies of weight files in buckets on this machine; checkpoints of runs are read in place.

A copy is made once for each version of the objects, and is shared by all programs of the machine.
"""

import hashlib
import pathlib
from typing import Any

from rrd_jax import buckets, user_paths
from rrd_jax.terminal import console
from rrd_jax.weights import exported

# Files that describe the weights next to them.
_DESCRIPTIONS = ("config.json", "preprocessor_config.json", "labels.txt")
_INDEX = ".index.json"
# Files of exported folders of Core ML and OpenVINO.
_PACKAGES = ("Manifest.json", "openvino_model.xml")


def localize(path: Any) -> Any:
    """Returns a copy of a weight file, or of a folder with weights, that is in a bucket.

    The workdir of a run and other folders are returned unchanged.

    Args:
      path: an existing path in a bucket.

    Raises:
      DiskError: the disk cannot hold the copy.
      BucketError: the bucket cannot be reached, or an object changes while it is copied.
    """
    if path.is_file():
        return _copy(path.parent, _file(path)) / path.name
    if path.name == "checkpoints" or (path / "checkpoints").exists():
        return path
    if (file := exported.weights_file(path)) != path:
        return _copy(path, _file(file))
    if any((path / name).is_file() for name in _PACKAGES):
        return _copy(path, buckets.entries(path))
    return path


def _file(path: Any) -> dict[str, buckets.Entry]:
    """Returns the objects of a weight file: the file, its descriptions and its shards."""
    siblings = buckets.entries(path.parent, recursive=False)
    names = {path.name, f"{path.name}.json", *_DESCRIPTIONS}
    if path.name.endswith(_INDEX):
        shards = (user_paths.read_object(path) or {}).get("weight_map")
        names |= set(map(str, shards.values())) if isinstance(shards, dict) else set()
    return {name: entry for name, entry in siblings.items() if name in names}


def _copy(folder: Any, entries: dict[str, buckets.Entry]) -> pathlib.Path:
    """Copies objects of a folder unless these versions were copied before; returns the copy."""
    versions = repr(sorted((name, entry.version) for name, entry in entries.items()))
    digest = hashlib.sha256(versions.encode()).hexdigest()[:16]
    target = buckets.cache("weights", folder) / digest / folder.name
    missing = {n: e for n, e in entries.items() if not (target / n).is_file()}
    copied, total = 0, sum(entry.size for entry in missing.values())

    def progress(size: int) -> None:
        nonlocal copied
        copied += size
        amount = f"{copied / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        console.progress("weights", [f"downloading from {folder}", amount])

    with buckets.copying(folder, target):
        for name in sorted(missing):
            buckets.download_file(folder / name, target / name, missing[name], progress)
    return target
