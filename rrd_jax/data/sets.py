"""Data sets by name: opened, and prepared where that is asked for."""

import contextlib
import difflib
import importlib.util
import io
import pathlib
import shlex
import textwrap
import warnings
from typing import Any

import tensorflow_datasets as tfds

from rrd_jax import errors
from rrd_jax.data import archived, builders, folder, ordered

# Prepared here without TensorFlow. Any other name is a set of TFDS.
DATASETS: dict[str, type[tfds.core.DatasetBuilder]] = {
    "digits": builders.Digits,
    "fashion_mnist": builders.FashionMNIST,
    "cifar10": archived.Cifar10,
    "cifar100": archived.Cifar100,
    "stl10": archived.STL10,
    "tiny_imagenet": archived.TinyImagenet,
    "imagenet2012": archived.Imagenet2012,
    "image_folder": folder.ImageFolder,
}


def builder(name: str, data_dir: str, manual_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of a set, prepared or not.

    Args:
      name: a key of DATASETS, or a set of TFDS.
      data_dir: where TFDS keeps prepared sets; "" for its default.
      manual_dir: where the source files lie; "" for the builder's default.

    Raises:
      InputError: an unknown name, or a set that was prepared in a format without random access.
    """
    options: dict[str, Any] = {"data_dir": _expanded(data_dir)} if data_dir else {}
    if name == "image_folder":
        options["manual_dir"] = _expanded(manual_dir)
    try:
        found = DATASETS[name](**options) if name in DATASETS else tfds.builder(name, **options)
    except tfds.core.DatasetNotFoundError:
        every = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name.lower(), [*DATASETS, *every], n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise errors.InputError(
            f"unknown data set '{name}'; {hint}known: {', '.join(DATASETS)} and every TFDS set of"
            " labelled images"
        ) from None
    except (ValueError, AssertionError) as error:  # a name, config or version that TFDS refuses
        if isinstance(error, errors.InputError):
            raise
        reason = textwrap.shorten(str(error), 250)
        raise errors.InputError(f"data set '{name}' cannot be opened ({reason})") from error
    if manual_dir or isinstance(found, archived.ArchivedBuilder):
        default = pathlib.Path(found.data_dir_root) / "downloads" / "manual"
        found.manual_dir = _expanded(manual_dir) or str(default)
    formats = {kind.value for kind in found.info.available_file_formats()}
    if found.is_prepared() and "array_record" not in formats:
        raise errors.InputError(
            f"data set '{name}' is prepared under {found.data_dir} as {', '.join(sorted(formats))},"
            " which has no random access: remove that folder or choose another data_dir,"
            f" {_remedy(name, found)}"
        )
    return found


def _expanded(path: str) -> str:
    return str(pathlib.Path(path).expanduser()) if path else ""


def _remedy(name: str, found: tfds.core.DatasetBuilder) -> str:
    """What to do where, to prepare a set."""
    first = ""
    if isinstance(found, archived.ArchivedBuilder):
        files = " and ".join(f"{one.name} ({one.url})" for one in found.ARCHIVES)
        first = f"put {files} into {found.manual_dir}, then "
    elif name not in DATASETS:
        first = "with `pip install -e '.[prepare]'`, "
    words = [f"--name={name}", f"--data_dir={found.data_dir_root}"]
    if manual := getattr(found, "manual_dir", ""):
        words.append(f"--manual_dir={manual}")
    return f"{first}run `python -m rrd_jax.data.prepare {shlex.join(words)}`"


def prepares_itself(name: str) -> bool:
    """Whether the first run that uses a set prepares it: its source is on the machine."""
    return name in DATASETS and not issubclass(DATASETS[name], archived.ArchivedBuilder)


def check_prepared(name: str, found: tfds.core.DatasetBuilder) -> None:
    """Raises an InputError that says how to prepare a set which is not."""
    if not found.is_prepared():
        raise errors.InputError(
            f"data set '{name}' is not prepared under {found.data_dir_root}: {_remedy(name, found)}"
        )


def prepare(name: str, found: tfds.core.DatasetBuilder, *, verify: bool = True) -> None:
    """Writes a set as ArrayRecord; when this breaks off, nothing is left that looks prepared.

    Args:
      name: of the set.
      found: its builder.
      verify: whether archives must be the published ones.

    Raises:
      InputError: a source that is missing, damaged or not the published one; no TensorFlow for a
        set that needs it; whatever TFDS's own builder ran into.
    """
    if isinstance(found, ordered.OrderedBuilder):
        found.verify = verify
    options = tfds.download.DownloadConfig(manual_dir=getattr(found, "manual_dir", None))
    if name in DATASETS:
        try:
            # TFDS announces downloads that do not happen.
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                found.download_and_prepare(download_config=options, file_format="array_record")
        except (OSError, RuntimeError) as error:  # the latter from ArrayRecord, on a full disk
            raise errors.InputError(
                f"data set '{name}' cannot be written to {found.data_dir_root} ({error})"
            ) from error
        return
    if importlib.util.find_spec("tensorflow") is None:
        raise errors.InputError(
            f"TFDS prepares '{name}' with TensorFlow, which is not installed: run `pip install -e"
            f" '.[prepare]'`; without it: {', '.join(DATASETS)}"
        )
    try:
        found.download_and_prepare(download_config=options, file_format="array_record")
    except Exception as error:  # of hundreds of builders, with the libraries each one likes
        reason = textwrap.shorten(str(error), 500)
        raise errors.InputError(
            f"TFDS cannot prepare '{name}' ({type(error).__name__}: {reason})"
        ) from error
