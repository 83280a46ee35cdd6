"""Writes exported files: a draft is verified before it replaces the file at its path."""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from rrd_jax import checkpoints, errors, hub, imports
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.exports import backbone, headers, interface
from rrd_jax.exports.interface import Exportable, Format, Options
from rrd_jax.exports.verification import Comparison, Trial
from rrd_jax.networks import Network
from rrd_jax.objectives import Objective
from rrd_jax.teacher import wrappers
from rrd_jax.terminal import runtime_errors, tables
from rrd_jax.training.choices import NetworkChoice

# Command-line flags whose names differ from the option's.
_FLAGS = {"fold": "nofold"}
_DEFAULT = Options()
# Options that are text.
_TEXTS = ("license", "push")
_VALUES = {"quantize": ("", "int8"), "names": interface.NAMES}


class Written(NamedTuple):
    """An exported file.

    Attributes:
      format: name of the format.
      path: the file or folder.
      bytes: size in bytes, including a separate header file.
      runtime: the library that verified the file; "" if the file cannot be run on this platform.
      comparison: comparison with the network; None if the file was not run.
      url: the commit of a folder that was pushed to a repository; "" for none.
    """

    format: str
    path: pathlib.Path
    bytes: int
    runtime: str
    comparison: Comparison | None
    url: str = ""

    def __str__(self) -> str:
        return self._verification() + (f"; pushed: {self.url}" if self.url else "")

    def _verification(self) -> str:
        size = f"{self.path}, {tables.format_bytes(self.bytes)}"
        if self.comparison is None:
            return f"{size}: structure verified, not run on this platform"
        compared = self.comparison
        images = f"{compared.images} {compared.description}"
        verified = f"{size}: verified with {self.runtime} on {images}"
        if compared.agreement is None:
            return (
                f"{verified}: largest relative embedding error {compared.difference:.1e}, mean"
                f" cosine {compared.cosine:.6f}"
            )
        accuracy = ""
        if compared.top1 is not None:
            accuracy = f", top-1 {compared.top1:.2f} % (network: {compared.network_top1:.2f} %)"
        return (
            f"{verified}: largest relative logit error {compared.difference:.1e}, same top-1 for"
            f" {compared.agreement:.2f} %{accuracy}"
        )


def make_exportable(
    network: Network,
    variables: dict[str, Any],
    about: ModelInfo,
    terms: Mapping[str, Objective] | None = None,
) -> Exportable:
    """Returns an `Exportable` that computes in float32.

    Raises:
      InputError: the preprocessing of the network's images is unknown.
    """
    if about.preprocessing is None:
        raise errors.InputError(
            f"the preprocessing of '{about.model}' is unknown; set the mean and standard deviation"
            " of pixels in [0, 1], for ImageNet --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225,"
            " and --image_size"
        )
    if isinstance(network, wrappers.WithHeads):
        inner = make_exportable(network.network, variables, about, terms).network
        return Exportable(dataclasses.replace(network, network=inner), variables, about, terms)
    # Teachers are loaded in float32.
    if isinstance(network, wrappers.Wrapper):
        return Exportable(network, variables, about, terms)
    if imports.is_path(about.model):
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in about.options.items()}
        network = NetworkChoice(about.model, jnp.float32, options=options).create(about.num_classes)
    elif hasattr(network, "clone"):
        defaults = {"dtype": jnp.float32, "space_to_depth": False}
        network = network.clone(**{k: v for k, v in defaults.items() if hasattr(network, k)})
    return Exportable(network, variables, about, terms)


def make_options(options: Mapping[str, Any]) -> Options:
    """Returns `Options`; raises an InputError for unknown names and invalid values."""
    for name, value in options.items():
        errors.lookup("option", name, {field.name: field for field in dataclasses.fields(Options)})
        if name in _TEXTS and isinstance(value, str):
            continue
        allowed = _VALUES.get(name, (False, True))
        if value not in allowed:
            raise errors.InputError(
                f"option {name} is {value!r}, but must be one of {', '.join(map(repr, allowed))}"
            )
    return dataclasses.replace(_DEFAULT, **options)


def check_push(options: Options) -> None:
    """Checks the options of a push before anything is written.

    Raises:
      InputError: the repository cannot be written, see `hub.check_push`; the license is not valid;
        or `private` is set without a repository.
      UnavailableError: huggingface_hub is not installed.
    """
    if options.license and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", options.license):
        raise errors.InputError(
            f"--license={errors.printable(options.license)} is not the identifier of a license; use"
            " one such as apache-2.0, cc-by-4.0 or other"
        )
    if options.private and not options.push:
        raise errors.InputError("--private is set without --push; add --push=ORG/NAME, or omit it")
    if options.push:
        hub.check_push(options.push, private=options.private)


def check_options(fmt: Format, options: Options) -> None:
    """Raises an InputError for an option that a format does not support."""
    for name in unsupported_options(fmt, options):
        raise errors.InputError(
            f"{flag(name)} is not supported by format '{fmt.name}', which supports"
            f" {', '.join(map(flag, fmt.options)) or 'no options'}; omit it"
        )


def flag(option: str) -> str:
    """Returns the command-line flag for an option."""
    return f"--{_FLAGS.get(option, option)}"


def unsupported_options(fmt: Format, options: Options) -> list[str]:
    """Returns the options that differ from the default and that a format does not support."""
    names = [field.name for field in dataclasses.fields(Options)]
    changed = [name for name in names if getattr(options, name) != getattr(_DEFAULT, name)]
    return [name for name in changed if name not in fmt.options]


def supported_options(fmt: Format, options: Options) -> Options:
    """Returns the options, with the default for each option that a format does not support."""
    defaults = {name: getattr(_DEFAULT, name) for name in unsupported_options(fmt, options)}
    return dataclasses.replace(options, **defaults)


def file_name(about: ModelInfo, fmt: Format, options: Options = _DEFAULT, suffix: str = "") -> str:
    """Returns a file name, such as resnet8.onnx or resnet8-int8.tflite.

    Args:
      about: description of the network.
      fmt: the format.
      options: options of the file.
      suffix: suffix that is appended to the network's name.
    """
    model = re.sub(r"[^\w.+-]+", "-", about.model.rpartition(":")[2]).strip("-.") or "network"
    parts = [model + suffix, *([options.quantize] if options.quantize else [])]
    return "-".join(parts) + (fmt.extension or f"-{fmt.name}")


def check_path(path: pathlib.Path, fmt: Format, *, overwrite: bool) -> None:
    """Checks that a file can be written to a path.

    Raises:
      InputError: the path exists and must not be overwritten, or is in the checkpoints of a run.
      UnavailableError: the library that recognizes the existing file is not installed.
    """
    for folder in path.absolute().parents:
        if folder.name == "checkpoints" and checkpoints.read_meta(folder) is not None:
            raise errors.InputError(
                f"{path} is in the checkpoints of a run; write elsewhere with --output"
            )
    if fmt.extension and path.suffix != fmt.extension:
        raise errors.InputError(
            f"{path}: a file of format '{fmt.name}' ends in {fmt.extension}; use"
            f" --output={path}{fmt.extension} or, for a folder, --output={path}/"
        )
    existing = [file for file in (path, headers.sidecar(path)) if os.path.lexists(file)]
    if existing and not overwrite:
        raise errors.InputError(
            f"{existing[0]} already exists; write elsewhere with --output, or replace it with"
            " --overwrite"
        )
    if existing and not _is_export(path, fmt):
        raise errors.InputError(
            f"{existing[0]} was not written by this command and is not overwritten; remove it, or"
            " write elsewhere with --output"
        )


def _is_export(path: pathlib.Path, fmt: Format) -> bool:
    """Returns True if an intact export exists at a path."""
    try:
        if path.exists() and fmt.recognizes(path):
            if fmt.open is not None:
                fmt.open(path, 1)
            return True
    except errors.InputError:
        pass
    return False


def write(
    trial: Trial,
    fmt: Format,
    path: pathlib.Path,
    options: Options = _DEFAULT,
    *,
    overwrite: bool = False,
) -> Written:
    """Writes a network in a format, and verifies the file.

    After an error, no partial file remains.

    Args:
      trial: the network, and the images on which the file is verified.
      fmt: the format.
      path: the file or folder; missing parent folders are created.
      options: options that the format supports.
      overwrite: True to replace an earlier export.

    Raises:
      InputError: the format cannot hold the network, the outputs of the file differ from the
        network's, or the path exists.
      UnavailableError: a library of the format is not installed.
      DiskError: the file cannot be written.
    """
    check_options(fmt, options)
    if trial.exportable.is_backbone:
        backbone.check_format(fmt)
    interface.require(fmt.name, fmt.extra, fmt.modules)
    check_path(path, fmt, overwrite=overwrite)
    with _draft_folder(path) as folder:
        draft = folder / path.name
        with _named_errors(fmt.name, draft, path):
            fmt.write(trial.exportable, draft, options)
            runtime, comparison = "", None
            if fmt.open is not None:
                opened = fmt.open(draft, 0)
                comparison = trial.compare(opened, is_rounded=bool(options.quantize))
                runtime = opened.runtime
                # The runtime has to release the file before the move.
                del opened
            elif fmt.check is not None:
                fmt.check(trial.exportable, draft)
        drafts = [draft for draft in folder.rglob("*") if draft.is_file()]
        size = sum(draft.stat().st_size for draft in drafts)
        # Some libraries create files that only their owner can read.
        for draft in drafts:
            draft.chmod(0o666 & ~_umask())
        _move(folder, path)
    return Written(fmt.name, path, size, runtime, comparison, _push(path, options))


def _push(path: pathlib.Path, options: Options) -> str:
    """Uploads a folder; returns the URL of the commit, "" without a repository."""
    if not options.push:
        return ""
    try:
        return hub.push(path, options.push, private=options.private)
    except errors.HubError as error:
        raise errors.HubError(
            f"{path} is written and verified, but not pushed: {error}; then run the command again"
            " with --overwrite"
        ) from None


@contextlib.contextmanager
def _draft_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder on the disk of a path, and removes the folder afterwards."""
    created = []
    try:
        for parent in [*reversed(path.absolute().parents)]:
            if not parent.exists():
                parent.mkdir()
                created.append(parent)
        folder = pathlib.Path(tempfile.mkdtemp(".part", f".{path.name[:100]}.", path.parent))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # After a failed export, the new parent folders are empty and are removed.
        for parent in reversed(created):
            with contextlib.suppress(OSError):
                parent.rmdir()


def _umask() -> int:
    """Returns the umask of the process, which can only be read by setting a new one."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _unwritable(path: pathlib.Path, error: OSError) -> errors.InputError:
    kind = errors.DiskError if runtime_errors.is_disk_error(error) else errors.InputError
    return kind(
        f"{path} cannot be written ({error.strerror or error}); write elsewhere with --output, or"
        " correct the path"
    )


@contextlib.contextmanager
def _named_errors(name: str, draft: pathlib.Path, path: pathlib.Path) -> Iterator[None]:
    """Adds the format to error messages, replaces the draft's path, and detects a full disk."""
    try:
        yield
    except errors.UnavailableError:
        raise
    except errors.InputError as error:
        text = str(error).replace(str(draft), str(path))
        raise type(error)(f"format '{name}' not written: {text}") from error
    except Exception as error:
        full = "No space left" in str(error) or "File too large" in str(error)
        if full or runtime_errors.is_disk_error(error):
            raise errors.DiskError(
                f"format '{name}' not written ({runtime_errors.first_line(error)}); free disk"
                " space, or write elsewhere with --output"
            ) from error
        raise


def _move(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Moves a draft and its header file to their final paths, replacing earlier exports."""
    try:
        for draft in sorted(folder.iterdir(), key=lambda draft: draft.name == path.name):
            target = path.with_name(draft.name)
            if target.is_dir() and not target.is_symlink():
                target.rename(folder / f".{draft.name}.before")
            draft.replace(target)
    except OSError as error:
        raise _unwritable(path, error) from error
