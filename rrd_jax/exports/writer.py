"""A file is written beside its place, tried there, and moved into it whole, or not at all."""

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
from rrd_jax.teacher import adapters
from rrd_jax.terminal import runtime_errors, tables
from rrd_jax.training.choices import NetworkChoice

_FLAGS = {"fold": "nofold"}  # as the command calls an option
_PLAIN = Options()
_VALUES = {"quantize": ("", "int8"), "names": interface.NAMES}


class Written(NamedTuple):
    """A file that was written.

    Attributes:
      format: name.
      path: of the file, or folder.
      bytes: of it, and of what lies beside it.
      runtime: that it was read back with; "" where nothing here can run it.
      comparison: with the network; None where it was not run.
    """

    format: str
    path: pathlib.Path
    bytes: int
    runtime: str
    comparison: Comparison | None

    def __str__(self) -> str:
        size = f"{self.path}, {tables.bytes_shown(self.bytes)}"
        if self.comparison is None:
            return f"{size}: its structure is right; not run here"
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
    """A network on its way out, which computes in float32 whatever it was trained in.

    Raises:
      InputError: it is not known how its images become what it sees.
    """
    if about.preprocessing is None:
        raise errors.InputError(
            f"it is not known what images '{about.model}' takes: give their mean and std (in [0, 1]"
            " units), such as --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225 of ImageNet, and"
            " --image_size"
        )
    if isinstance(network, adapters.Projected):
        inside = exportable(network.network, variables, about, terms).network
        return Exportable(dataclasses.replace(network, network=inside), variables, about, terms)
    if isinstance(network, adapters.Adapter):
        return Exportable(network, variables, about, terms)  # of a teacher, in float32
    if imports.is_path(about.model):
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in about.options.items()}
        network = NetworkChoice(about.model, jnp.float32, options=options).create(about.num_classes)
    elif hasattr(network, "clone"):
        plain = {"dtype": jnp.float32, "space_to_depth": False}
        network = network.clone(**{k: v for k, v in plain.items() if hasattr(network, k)})
    return Exportable(network, variables, about, terms)


def options_of(**given: Any) -> Options:
    """Options by name; raises an InputError for others, and for values that they cannot have."""
    for name, value in given.items():
        errors.lookup("option", name, {field.name: field for field in dataclasses.fields(Options)})
        known = _VALUES.get(name, (False, True))
        if value not in known:
            raise errors.InputError(
                f"option {name} is {value!r}, but must be one of {', '.join(map(repr, known))}"
            )
    return Options(**given)


def check_options(form: Format, options: Options) -> None:
    """Raises an InputError for an option that a format does not know."""
    for name in unknown_options(form, options):
        raise errors.InputError(
            f"{flag(name)} means nothing to format '{form.name}', which knows"
            f" {', '.join(map(flag, form.options)) or 'no options'}"
        )


def flag(option: str) -> str:
    """What the command calls an option."""
    return f"--{_FLAGS.get(option, option)}"


def unknown_options(form: Format, options: Options) -> list[str]:
    """Those that are set and that a format does not know."""
    names = [field.name for field in dataclasses.fields(Options)]
    changed = [name for name in names if getattr(options, name) != getattr(_PLAIN, name)]
    return [name for name in changed if name not in form.options]


def known_options(form: Format, options: Options) -> Options:
    """Without those that a format does not know."""
    plain = {name: getattr(_PLAIN, name) for name in unknown_options(form, options)}
    return dataclasses.replace(options, **plain)


def file_name(about: ModelInfo, form: Format, options: Options = _PLAIN, suffix: str = "") -> str:
    """Of a network's file in a folder of several, such as resnet8.onnx or resnet8-int8.tflite.

    Args:
      about: the network.
      form: the format.
      options: of the file.
      suffix: behind the network's name.
    """
    model = re.sub(r"[^\w.+-]+", "-", about.model.rpartition(":")[2]).strip("-.") or "network"
    parts = [model + suffix, *([options.quantize] if options.quantize else [])]
    return "-".join(parts) + (form.extension or f"-{form.name}")


def check_place(path: pathlib.Path, form: Format, *, overwrite: bool) -> None:
    """Looks whether a file can go where it is to go.

    Raises:
      InputError: something is there that is not to be overwritten, or it is a run's.
      UnavailableError: what is there can only be told by a library that is missing.
    """
    for above in path.absolute().parents:
        if above.name == "checkpoints" and checkpoints.read_meta(above) is not None:
            raise errors.InputError(
                f"{path} lies in the checkpoints of a run, which it would garble; write elsewhere"
            )
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
    """Whether a file of ours is there; one that is damaged is not known to be."""
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
    options: Options = _PLAIN,
    *,
    overwrite: bool = False,
) -> Written:
    """Writes a network in a format, and reads it back.

    Args:
      trial: the network, and images to compare on.
      form: the format.
      path: of the file, or folder; the folder that it goes to is made if need be.
      options: that the format knows.
      overwrite: whether what was written there before is replaced.

    Raises:
      InputError: the format cannot hold this network, the file computes something else than the
        network, or something else is at its place.
      UnavailableError: a library that the format needs is not installed.
      DiskError: the disk does not take it. Nothing is left behind then, in all these cases.
    """
    check_options(form, options)
    interface.require(form.name, form.extra, form.modules)
    check_place(path, form, overwrite=overwrite)
    with _beside(path) as folder:
        draft = folder / path.name
        with _told(form.name, draft, path):
            form.write(trial.exportable, draft, options)
            runtime, comparison = "", None
            if form.open is not None:
                opened = form.open(draft, 0)
                comparison = trial.compare(opened, is_rounded=bool(options.quantize))
                runtime = opened.runtime
                del opened  # before its file moves
            elif form.check is not None:
                form.check(trial.exportable, draft)
        drafts = [draft for draft in folder.rglob("*") if draft.is_file()]
        size = sum(draft.stat().st_size for draft in drafts)
        for draft in drafts:  # some libraries write what nobody else may read
            draft.chmod(0o666 & ~_umask())
        _move(folder, path)
    return Written(form.name, path, size, runtime, comparison)


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder on the same disk as a path, which is gone at the end."""
    made = []
    try:
        for above in [*reversed(path.absolute().parents)]:
            if not above.exists():
                above.mkdir()
                made.append(above)
        folder = pathlib.Path(tempfile.mkdtemp(".part", f".{path.name[:100]}.", path.parent))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for above in reversed(made):  # that hold nothing, where nothing was written
            with contextlib.suppress(OSError):
                above.rmdir()


def _umask() -> int:
    """What the user keeps from others; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _unwritable(path: pathlib.Path, error: OSError) -> errors.InputError:
    kind = errors.DiskError if runtime_errors.is_of_disk(error) else errors.InputError
    return kind(
        f"{path} cannot be written ({error.strerror or error}); write elsewhere, or mend it"
    )


@contextlib.contextmanager
def _told(name: str, draft: pathlib.Path, path: pathlib.Path) -> Iterator[None]:
    """Errors say which format they are of, and the file's place instead of that of its draft.

    A full disk is told as such, whoever meets it.
    """
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
    """Moves all that a format has written to its place; what was there goes first."""
    try:
        for draft in sorted(folder.iterdir(), key=lambda draft: draft.name == path.name):
            place = path.with_name(draft.name)
            if place.is_dir() and not place.is_symlink():
                place.rename(folder / f".{draft.name}.before")
            draft.replace(place)
    except OSError as error:
        raise _unwritable(path, error) from error
