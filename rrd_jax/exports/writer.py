"""Writing of exported files: a draft is verified before it is moved to its path."""

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

from rrd_jax import checkpoints, errors, imports
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.exports import headers, interface
from rrd_jax.exports.interface import Exportable, Format, Options
from rrd_jax.exports.verification import Comparison, Trial
from rrd_jax.networks import Network
from rrd_jax.objectives import Objective
from rrd_jax.teacher import wrappers
from rrd_jax.terminal import runtime_errors, tables
from rrd_jax.training.choices import NetworkChoice

_FLAGS = {"fold": "nofold"}  # flags of the command whose names are not the option's
_DEFAULT = Options()
_VALUES = {"quantize": ("", "int8"), "names": interface.NAMES}


class Written(NamedTuple):
    """An exported file.

    Attributes:
      format: name.
      path: of the file or folder.
      bytes: size, including a header beside it.
      runtime: the library that verified it; "" if it cannot be run here.
      comparison: with the network; None if the file was not run.
    """

    format: str
    path: pathlib.Path
    bytes: int
    runtime: str
    comparison: Comparison | None

    def __str__(self) -> str:
        size = f"{self.path}, {tables.bytes_shown(self.bytes)}"
        if self.comparison is None:
            return f"{size}: its structure is verified; not run here"
        compared = self.comparison
        tried = f"{size}: read back by {self.runtime}; {compared.images} {compared.what}"
        if compared.agreement is None:
            return (
                f"{tried}, embeddings off by {compared.difference:.1e} of the largest value, mean"
                f" cosine {compared.cosine:.6f}"
            )
        accuracy = ""
        if compared.top1 is not None:
            accuracy = f", {compared.top1:.2f} % right (the network: {compared.top1_here:.2f} %)"
        return (
            f"{tried}, logits off by {compared.difference:.1e} of the largest, same top-1 for"
            f" {compared.agreement:.2f} %{accuracy}"
        )


def exportable(
    network: Network,
    variables: dict[str, Any],
    about: ModelInfo,
    terms: Mapping[str, Objective] | None = None,
) -> Exportable:
    """Returns an Exportable that computes in float32.

    Raises:
      InputError: the preprocessing of its images is unknown.
    """
    if about.preprocessing is None:
        raise errors.InputError(
            f"it is not known what images '{about.model}' takes: give their mean and std (in [0, 1]"
            " units), such as --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225 of ImageNet, and"
            " --image_size"
        )
    if isinstance(network, wrappers.Projected):
        inside = exportable(network.network, variables, about, terms).network
        return Exportable(dataclasses.replace(network, network=inside), variables, about, terms)
    if isinstance(network, wrappers.Wrapper):
        return Exportable(network, variables, about, terms)  # Teachers are loaded in float32.
    if imports.is_path(about.model):
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in about.options.items()}
        network = NetworkChoice(about.model, jnp.float32, options=options).create(about.num_classes)
    elif hasattr(network, "clone"):
        plain = {"dtype": jnp.float32, "space_to_depth": False}
        network = network.clone(**{k: v for k, v in plain.items() if hasattr(network, k)})
    return Exportable(network, variables, about, terms)


def options_of(**given: Any) -> Options:
    """Returns Options; raises an InputError for unknown names and invalid values."""
    for name, value in given.items():
        errors.lookup("option", name, {field.name: field for field in dataclasses.fields(Options)})
        known = _VALUES.get(name, (False, True))
        if value not in known:
            raise errors.InputError(
                f"option {name} is {value!r}, but must be one of {', '.join(map(repr, known))}"
            )
    return Options(**given)


def check_options(form: Format, options: Options) -> None:
    """Raises an InputError for an option that a format does not support."""
    for name in unknown_options(form, options):
        raise errors.InputError(
            f"{flag(name)} is not supported by format '{form.name}', which supports"
            f" {', '.join(map(flag, form.options)) or 'no options'}"
        )


def flag(option: str) -> str:
    """Returns the command's flag for an option."""
    return f"--{_FLAGS.get(option, option)}"


def unknown_options(form: Format, options: Options) -> list[str]:
    """Returns the options that are set and that a format does not support."""
    names = [field.name for field in dataclasses.fields(Options)]
    changed = [name for name in names if getattr(options, name) != getattr(_DEFAULT, name)]
    return [name for name in changed if name not in form.options]


def known_options(form: Format, options: Options) -> Options:
    """Returns the options without those that a format does not support."""
    plain = {name: getattr(_DEFAULT, name) for name in unknown_options(form, options)}
    return dataclasses.replace(options, **plain)


def file_name(about: ModelInfo, form: Format, options: Options = _DEFAULT, suffix: str = "") -> str:
    """Returns the name of a file, such as resnet8.onnx or resnet8-int8.tflite.

    Args:
      about: the network.
      form: the format.
      options: of the file.
      suffix: of the network's name.
    """
    model = re.sub(r"[^\w.+-]+", "-", about.model.rpartition(":")[2]).strip("-.") or "network"
    parts = [model + suffix, *([options.quantize] if options.quantize else [])]
    return "-".join(parts) + (form.extension or f"-{form.name}")


def check_place(path: pathlib.Path, form: Format, *, overwrite: bool) -> None:
    """Checks that a file can be written to a path.

    Raises:
      InputError: the path exists and must not be overwritten, or is in the checkpoints of a run.
      UnavailableError: the library that recognizes the existing file is not installed.
    """
    for above in path.absolute().parents:
        if above.name == "checkpoints" and checkpoints.read_meta(above) is not None:
            raise errors.InputError(f"{path} is in the checkpoints of a run; write elsewhere")
    if form.extension and path.suffix != form.extension:
        raise errors.InputError(
            f"a file of format '{form.name}' ends in {form.extension}: write"
            f" --output={path}{form.extension} or, for a folder, --output={path}/"
        )
    there = [place for place in (path, headers.sidecar(path)) if os.path.lexists(place)]
    if there and not overwrite:
        raise errors.InputError(
            f"{there[0]} is there already; write elsewhere with --output, or replace it with"
            " --overwrite"
        )
    if there and not _is_ours(path, form):
        raise errors.InputError(
            f"{there[0]} was not written by this command, and is not overwritten; remove it, or"
            " write elsewhere with --output"
        )


def _is_ours(path: pathlib.Path, form: Format) -> bool:
    """Returns True if an intact export exists at a path."""
    try:
        if path.exists() and form.recognizes(path):
            if form.open is not None:
                form.open(path, 1)
            return True
    except errors.InputError:
        pass
    return False


def write(
    trial: Trial,
    form: Format,
    path: pathlib.Path,
    options: Options = _DEFAULT,
    *,
    overwrite: bool = False,
) -> Written:
    """Writes a network in a format, and verifies the file.

    Args:
      trial: the network, and images to compare on.
      form: the format.
      path: of the file or folder; missing parent folders are created.
      options: supported by the format.
      overwrite: whether to replace an earlier export.

    Raises:
      InputError: the format cannot hold this network, the outputs of the file differ from the
        network's, or the path exists.
      UnavailableError: a library of the format is not installed.
      DiskError: the file cannot be written. After errors, nothing is left behind.
    """
    check_options(form, options)
    interface.require(form.name, form.extra, form.modules)
    check_place(path, form, overwrite=overwrite)
    with _beside(path) as folder:
        draft = folder / path.name
        with _named_errors(form.name, draft, path):
            form.write(trial.exportable, draft, options)
            runtime, comparison = "", None
            if form.open is not None:
                opened = form.open(draft, 0)
                comparison = trial.compare(opened, is_rounded=bool(options.quantize))
                runtime = opened.runtime
                del opened  # Releases the file before it is moved.
            elif form.check is not None:
                form.check(trial.exportable, draft)
        drafts = [draft for draft in folder.rglob("*") if draft.is_file()]
        size = sum(draft.stat().st_size for draft in drafts)
        for draft in drafts:  # Some libraries create files that only their owner can read.
            draft.chmod(0o666 & ~_umask())
        _move(folder, path)
    return Written(form.name, path, size, runtime, comparison)


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Creates a temporary folder on the same disk as a path."""
    created = []
    try:
        for above in [*reversed(path.absolute().parents)]:
            if not above.exists():
                above.mkdir()
                created.append(above)
        folder = pathlib.Path(tempfile.mkdtemp(".part", f".{path.name[:100]}.", path.parent))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for above in reversed(created):  # Removes empty folders if nothing was written.
            with contextlib.suppress(OSError):
                above.rmdir()


def _umask() -> int:
    """Returns the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _unwritable(path: pathlib.Path, error: OSError) -> errors.InputError:
    kind = errors.DiskError if runtime_errors.is_of_disk(error) else errors.InputError
    return kind(f"{path} cannot be written ({error.strerror or error}); write elsewhere, or fix it")


@contextlib.contextmanager
def _named_errors(name: str, draft: pathlib.Path, path: pathlib.Path) -> Iterator[None]:
    """Adds the format to errors, replaces the draft's path, and detects a full disk."""
    try:
        yield
    except errors.UnavailableError:
        raise
    except errors.InputError as error:
        text = str(error).replace(str(draft), str(path))
        raise type(error)(f"format '{name}' is not written: {text}") from error
    except Exception as error:
        full = "No space left" in str(error) or "File too large" in str(error)
        if full or runtime_errors.is_of_disk(error):
            raise errors.DiskError(
                f"format '{name}' is not written ({runtime_errors.first_line(error)}); make room,"
                " or write elsewhere"
            ) from error
        raise


def _move(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Moves a draft, and the files beside it, to the path; existing folders are moved away."""
    try:
        for draft in sorted(folder.iterdir(), key=lambda draft: draft.name == path.name):
            place = path.with_name(draft.name)
            if place.is_dir() and not place.is_symlink():
                place.rename(folder / f".{draft.name}.before")
            draft.replace(place)
    except OSError as error:
        raise _unwritable(path, error) from error
