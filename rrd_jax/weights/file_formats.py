"""Reads weight files. The content determines the format, and no code in a file is executed."""

import argparse
import pathlib
import re
import warnings
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from rrd_jax import errors, user_paths
from rrd_jax.networks import Stored
from rrd_jax.weights import torchscript

_REMEDY = "pass a .safetensors file or a file of torch.save(network.state_dict(), FILE)"
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Bytes of a file at an offset, and a description of such files.
_KINDS: list[tuple[int, bytes, str]] = [
    (0, b"\x89HDF", "an HDF5 file, such as Keras writes"),
    (0, b"\x1f\x8b", "compressed (gzip): unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed (zstd): unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (0, b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
    (0, b"<", "a web page, so the download failed: download the file again"),
    (0, b"\x80", "a plain pickle, which is not loaded because it can execute code"),
    (0, b"\x00" * 64, "filled with zeros: copy or download it again"),
]
# Members of TorchScript archives.
_SCRIPT = r"/code/|constants\.pkl$"
_SAFETENSORS_TYPES = {
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


def read(path: pathlib.Path) -> Any:
    """Reads the content of a file: dicts, lists and tensors, as a training script saved them.

    No code in the file is executed: .safetensors files contain none, files of `torch.save` are
    unpickled with `weights_only`, and only the tensors of TorchScript archives are read.

    Args:
      path: a .safetensors file, a file of `torch.save` in the new or the legacy format, a file of
        `torch.jit.save`, or an .index.json of transformers, which names a file for each entry.

    Raises:
      InputError: the file cannot be read or has another format.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
        size = path.stat().st_size
    except OSError as error:
        raise errors.InputError(
            f"{path} cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if _is_safetensors(head):
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        if any(map(re.compile(_SCRIPT).search, _check_zip(path))):
            return torchscript.read(path)
    elif not head.startswith(_LEGACY_TORCH):
        raise errors.InputError(f"{path} is {_kind(head, size)}; {_REMEDY}")
    return _read_torch(path)


def _read_shards(index: pathlib.Path) -> dict[str, Any]:
    """Reads the entries of all files that an index names."""
    try:
        shards = user_paths.read_json(index)["weight_map"]
        names = sorted(set(shards.values()))
        if any(pathlib.Path(name).name != name for name in names):
            raise ValueError("it names files in other folders")
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise errors.InputError(
            f"{index} is damaged ({error!r}); copy or download it again"
        ) from error
    if missing := [name for name in names if not index.with_name(name).is_file()]:
        raise errors.InputError(
            f"{index} names {len(names)} files, but {missing[0]} is missing; copy or download"
            f" {missing[0]}"
        )
    parts = {name: read(index.with_name(name)) for name in names}
    if lost := [entry for entry, name in shards.items() if entry not in parts[name]]:
        raise errors.InputError(
            f"{index} lists entry {lost[0]} in {shards[lost[0]]}, which lacks it; copy or download"
            " both files again"
        )
    return {entry: parts[name][entry] for entry, name in shards.items()}


def is_safetensors(path: pathlib.Path) -> bool:
    """Returns True if a file starts like a .safetensors file."""
    try:
        with path.open("rb") as file:
            return _is_safetensors(file.read(16))
    except OSError:
        return False


def _is_safetensors(head: bytes) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length < 1e9 and not head.startswith(b"PK")


def _kind(head: bytes, size: int) -> str:
    """Describes a file that is neither a PyTorch nor a .safetensors file."""
    if not size:
        return "empty (0 bytes): copy or download it again"
    for offset, magic, kind in _KINDS:
        if head[offset:].startswith(magic):
            return kind
    try:
        head[:400].decode()
    except UnicodeDecodeError:
        return "not a PyTorch file, or damaged"
    return f"a text file that starts with {head[:30].decode(errors='replace')!r}"


def _check_zip(path: pathlib.Path) -> list[str]:
    """Returns the members of a zip; raises an InputError unless it is an intact PyTorch file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(re.search(r"(^|/)data\.pkl$", name) for name in names):
                raise errors.InputError(f"{path} is a zip archive, but not PyTorch's; {_REMEDY}")
            damaged = _damaged_members(archive)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, errors.InputError):
            raise
        raise errors.InputError(
            f"{path} is damaged or incomplete ({error}); copy or download it again"
        ) from error
    if damaged:
        raise errors.InputError(
            f"{path} is damaged (the checksum of {damaged[0]} does not match); copy or download"
            " it again"
        )
    return names


def _damaged_members(archive: zipfile.ZipFile) -> list[str]:
    """Returns the members with wrong checksums, or an empty list if all checksums are wrong.

    PyTorch can omit the checksums of all members.
    """
    members = [info for info in archive.infolist() if info.file_size]
    damaged = []
    for info in members:
        try:
            with archive.open(info) as member:
                while member.read(1 << 24):
                    pass
        except zipfile.BadZipFile:
            damaged.append(info.filename)
    return damaged if len(damaged) < len(members) else []


def _read_safetensors(path: pathlib.Path) -> dict[str, Stored]:
    try:
        return stored(path)
    # safetensors raises errors of several types.
    except Exception as error:
        raise _unreadable(path, error) from error


def stored(path: pathlib.Path) -> dict[str, Stored]:
    """Returns the arrays of a .safetensors file, which are read when they are used."""
    file = safetensors.safe_open(path, framework="numpy")
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    arrays = {}
    for name, part in slices.items():
        kind = part.get_dtype()
        dtype = np.dtype(_SAFETENSORS_TYPES[kind]).name if kind in _SAFETENSORS_TYPES else kind
        # Versions of safetensors before 0.8 do not accept an Ellipsis.
        arrays[name] = Stored(tuple(part.get_shape()), dtype, lambda part=part: part[()])
    return arrays


def _read_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError:
        raise errors.InputError(
            f"reading {path} requires PyTorch: pip install 'rrd_jax[torch]', or save the weights"
            " as .safetensors"
        ) from None
    try:
        with (
            torch.serialization.safe_globals(_harmless_types()),
            # PyTorch warns about kinds of tensors that raise an error later.
            warnings.catch_warnings(action="ignore"),
            # For a path, torch.load would interpret the suffix.
            path.open("rb") as file,
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    # Damaged files raise pickle, zip and tensor errors of many types.
    except Exception as error:
        if rejected := re.search(r"GLOBAL (\S+)|got <class '(\S+)'>", str(error)):
            raise errors.InputError(
                f"{path} holds more than tensors ({rejected[1] or rejected[2]}), and loading other"
                " objects can execute code; save the weights alone with"
                " torch.save(network.state_dict(), FILE)"
            ) from error
        raise _unreadable(path, error) from error


def _harmless_types() -> list[Any]:
    """Returns the safe types that training scripts often save with the weights."""
    scalar = np.float32(0).__reduce__()[0]
    codes = np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"
    return [
        argparse.Namespace,
        np.dtype,
        *{type(np.dtype(code)) for code in codes},
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]


def _unreadable(path: pathlib.Path, error: Exception) -> errors.InputError:
    reason = str(error).strip().split("\n")[0].split(". ")[0][:200] or type(error).__name__
    return errors.InputError(
        f"{path} cannot be read ({reason}); it is damaged or not a PyTorch file; copy or download"
        " it again"
    )
