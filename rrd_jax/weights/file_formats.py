"""Opens a file of weights by what is in it, not by its name, and executes nothing of it."""

import argparse
import pathlib
import re
import warnings
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from rrd_jax import errors
from rrd_jax.weights import torchscript
from rrd_jax.weights.entry_values import Stored

_WANTED = "wanted is a .safetensors file, or one of torch.save(network.state_dict(), FILE)"
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Beginnings of files behind an offset, and what such a file is.
_KINDS: list[tuple[int, bytes, str]] = [
    (0, b"\x89HDF", "an HDF5 file, such as Keras writes"),
    (0, b"\x1f\x8b", "compressed (gzip): unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed (zstd): unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file: run `git lfs pull`"),
    (0, b"<", "a web page: the download went wrong"),
    (0, b"\x80", "a plain pickle, which is not executed"),
    (0, b"\x00" * 64, "filled with zeros: a copy or download broke off"),
]
# A member of TorchScript, which holds code.
_SCRIPT = r"/code/|constants\.pkl$"
_SAFETENSORS_TYPES = {
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
}


def read(path: pathlib.Path) -> Any:
    """Returns the content of a file: dicts, lists and tensors, as a training script saved them.

    Nothing in the file is executed: .safetensors holds no code, and anything else is unpickled
    with `weights_only`.

    Args:
      path: a .safetensors file, one written by `torch.save` in the new or the legacy format, one of
        `torch.jit.save`, of which no code is looked at, or an .index.json of transformers, which
        names the files that its entries are in.

    Raises:
      InputError: the file cannot be read, or is of another kind.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
        size = path.stat().st_size
    except OSError as error:
        raise errors.InputError(f"{path} cannot be read ({error.strerror})") from error
    if _is_safetensors(head):
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        if any(map(re.compile(_SCRIPT).search, _check_zip(path))):
            return torchscript.read(path)
    elif not head.startswith(_LEGACY_TORCH):
        raise errors.InputError(f"{path} is {_kind(head, size)}; {_WANTED}")
    return _read_torch(path)


def _read_shards(index: pathlib.Path) -> dict[str, Any]:
    """Returns the entries of all files that an index names."""
    try:
        homes = errors.read_json(index)["weight_map"]
        names = sorted(set(homes.values()))
        if any(pathlib.Path(name).name != name for name in names):
            raise ValueError("it names files of other folders")
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise errors.InputError(f"{index} is damaged ({error!r})") from error
    if missing := [name for name in names if not index.with_name(name).is_file()]:
        raise errors.InputError(
            f"{index} names {len(names)} files, of which {missing[0]} is not there: copy or"
            " download it again"
        )
    parts = {name: read(index.with_name(name)) for name in names}
    if lost := [entry for entry, name in homes.items() if entry not in parts[name]]:
        raise errors.InputError(f"{index} says that {lost[0]} is in {homes[lost[0]]}: it is not")
    return {entry: parts[name][entry] for entry, name in homes.items()}


def is_safetensors(path: pathlib.Path) -> bool:
    """Returns True if a file begins as .safetensors do."""
    try:
        with path.open("rb") as file:
            return _is_safetensors(file.read(16))
    except OSError:
        return False


def _is_safetensors(head: bytes) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length < 1e9 and not head.startswith(b"PK")


def _kind(head: bytes, size: int) -> str:
    """Returns what a file is that is neither PyTorch's nor .safetensors."""
    if not size:
        return "empty, of 0 bytes: a copy or download broke off"
    for offset, magic, kind in _KINDS:
        if head[offset:].startswith(magic):
            return kind
    try:
        head[:400].decode()
    except UnicodeDecodeError:
        return "no file of PyTorch, or a damaged one"
    return f"text, which begins with {head[:30].decode(errors='replace')!r}"


def _check_zip(path: pathlib.Path) -> list[str]:
    """Returns the members of a zip; raises an InputError if it is damaged, or not PyTorch's."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(re.search(r"(^|/)data\.pkl$", name) for name in names):
                raise errors.InputError(f"{path} is a zip archive, but not PyTorch's; {_WANTED}")
            damaged = _damaged_members(archive)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, errors.InputError):
            raise
        raise errors.InputError(
            f"{path} is damaged or cut off ({error}): copy or download it again"
        ) from error
    if damaged:
        raise errors.InputError(
            f"{path} is damaged, the checksum of {damaged[0]} in it does not match: copy or"
            " download it again"
        )
    return names


def _damaged_members(archive: zipfile.ZipFile) -> list[str]:
    """Returns members whose checksums do not match; none if no checksum does.

    PyTorch can leave out the checksums of all members.
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
        file = safetensors.safe_open(path, framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, no mapping
    except Exception as error:  # of the library
        raise _unreadable(path, error) from error
    stored = {}
    for name, part in slices.items():
        kind = part.get_dtype()
        dtype = np.dtype(_SAFETENSORS_TYPES[kind]).name if kind in _SAFETENSORS_TYPES else kind
        # The whole of it: safetensors before 0.8 takes no Ellipsis.
        stored[name] = Stored(tuple(part.get_shape()), dtype, lambda part=part: part[()])
    return stored


def _read_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError:
        raise errors.InputError(
            f"{path} needs PyTorch to be read: pip install 'rrd_jax[torch]', or save it as"
            " .safetensors, which does not"
        ) from None
    try:
        with (
            torch.serialization.safe_globals(_harmless_types()),
            warnings.catch_warnings(action="ignore"),  # of tensors that are refused later
            path.open("rb") as file,  # of a path, torch.load would look at the suffix
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and tensor errors of many kinds
        if barred := re.search(r"GLOBAL (\S+)|got <class '(\S+)'>", str(error)):
            raise errors.InputError(
                f"{path} holds more than tensors ({barred[1] or barred[2]}), which is not executed;"
                " write the weights alone with torch.save(network.state_dict(), FILE)"
            ) from error
        raise _unreadable(path, error) from error


def _harmless_types() -> list[Any]:
    """Returns types that training scripts keep beside the weights, and that hold no code."""
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
    return errors.InputError(f"{path} cannot be read ({reason}); it is damaged or no PyTorch file")
