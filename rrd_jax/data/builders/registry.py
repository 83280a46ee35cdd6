"""Creates the builders of data sets by name and prepares the data sets."""

import contextlib
import functools
import importlib.util
import io
import os
import pathlib
import re
import shlex
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging

from rrd_jax import errors, user_paths
from rrd_jax.data.builders import (
    archives,
    cifar,
    drawings,
    imagenet,
    local,
    ordered,
    stl10,
    tiny_imagenet,
)
from rrd_jax.data.sources import stored_examples
from rrd_jax.terminal import console, file_lock, interrupts

# Data sets that rrd_jax prepares without TensorFlow. All other names are data sets of TFDS.
DATASETS: dict[str, type[tfds.core.DatasetBuilder]] = {
    "digits": local.Digits,
    "drawings": drawings.Drawings,
    "fashion_mnist": local.FashionMNIST,
    "cifar10": cifar.Cifar10,
    "cifar100": cifar.Cifar100,
    "stl10": stl10.STL10,
    "tiny_imagenet": tiny_imagenet.TinyImagenet,
    "imagenet2012": imagenet.Imagenet2012,
}


def create_builder(name: str, data_dir: str, manual_dir: str) -> tfds.core.DatasetBuilder:
    """Returns the builder of a data set, prepared or not.

    Args:
      name: a key of DATASETS, or a data set of TFDS.
      data_dir: folder of prepared data sets; "" for TFDS's default.
      manual_dir: folder of the source files; "" for the builder's default.

    Raises:
      InputError: the name is unknown, or the data set is damaged or was prepared in a format
        without random access.
    """
    # TFDS would create a local folder for a URL.
    default = os.environ.get("TFDS_DATA_DIR", "")
    options: dict[str, Any] = {}
    if data_dir or default:
        name_of_folder = "data.dir" if data_dir else "TFDS_DATA_DIR"
        options["data_dir"] = str(user_paths.parse(data_dir or default, name_of_folder))
    try:
        builder = DATASETS[name](**options) if name in DATASETS else tfds.builder(name, **options)
    except tfds.core.DatasetNotFoundError:
        tfds_names = tfds.list_builders(with_community_datasets=False)
        hint = errors.hint(name.lower(), [*DATASETS, "image_folder", *tfds_names])
        raise errors.FieldError(
            f"unknown data set '{name}'; {hint}known: {', '.join(DATASETS)}, image_folder and all"
            " TFDS data sets of labeled images"
        ) from None
    except errors.InputError:
        raise
    # TFDS raises errors of many types for unknown configs, versions and damaged files.
    except Exception as error:
        if folder := _find_damaged(name, data_dir):
            raise damaged(name, folder, data_dir, str(error)) from error
        reason = textwrap.shorten(str(error), 250)
        raise errors.InputError(
            f"data set '{name}' cannot be opened ({reason}); check its config and version"
        ) from error
    root = builder.data_dir_root
    if os.path.exists(root) and not os.path.isdir(root):
        raise errors.InputError(
            f"{root} is a file, but must be the folder of prepared data sets; set --data_dir (in a"
            " config, data.dir) or TFDS_DATA_DIR to a folder"
        )
    if manual_dir or isinstance(builder, archives.ArchivedBuilder):
        default = pathlib.Path(builder.data_dir_root) / "downloads" / "manual"
        builder.manual_dir = _expanded(manual_dir) or str(default)
    formats = {kind.value for kind in builder.info.available_file_formats()}
    if builder.is_prepared() and "array_record" not in formats:
        raise errors.InputError(
            f"data set '{name}' is prepared under {builder.data_dir} as"
            f" {', '.join(sorted(formats))}, which has no random access; remove that folder or"
            f" choose another data_dir, {_how_to_prepare(name, builder)}"
        )
    return builder


def prepares_itself(name: str) -> bool:
    """Returns True if the first run with a data set prepares it from files on this machine."""
    return name in DATASETS and not issubclass(DATASETS[name], archives.ArchivedBuilder)


def check_prepared(name: str, builder: tfds.core.DatasetBuilder) -> None:
    """Raises an InputError with the command to run if a data set is not prepared."""
    _check_remains(name, builder)
    if not builder.is_prepared():
        raise errors.InputError(
            f"data set '{name}' is not prepared under {builder.data_dir_root};"
            f" {_how_to_prepare(name, builder)}"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Disables TFDS's logging and its progress bars, which are wider than terminals."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        tfds.enable_progress_bar()


def damaged(name: str, folder: Any, data_dir: str, reason: str) -> errors.InputError:
    """Returns the error for a damaged data set, with the command to prepare it again."""
    subject = f"data set '{name}' under {folder}"
    return stored_examples.damaged_error(subject, reason, remedy(name, data_dir))


def remedy(name: str, data_dir: str) -> str:
    """Returns the remedy for a damaged data set."""
    if prepares_itself(name):
        return "remove that folder, and the next run prepares it again"
    words = [f"--name={name}", *([f"--data_dir={data_dir}"] if data_dir else [])]
    command = f"python -m rrd_jax.data.prepare {shlex.join(words)}"
    return f"remove that folder, and prepare it again with `{command}`"


def _find_damaged(name: str, data_dir: str) -> pathlib.Path | None:
    """Returns the folder of a prepared data set with invalid JSON files; None if all are valid."""
    root = pathlib.Path(_expanded(data_dir) or tfds.core.constants.DATA_DIR)
    for path in root.glob(f"{re.split('[:/]', name)[0]}/**/dataset_info.json"):
        try:
            info = user_paths.read_json(path)
            features = user_paths.read_json(path.parent / "features.json")
            if not (info["version"] and isinstance(features, dict)):
                return path.parent
        except (KeyError, OSError, TypeError, ValueError):
            return path.parent
    return None


def _check_remains(name: str, builder: tfds.core.DatasetBuilder) -> None:
    """Raises an InputError for a folder without TFDS's metadata, which TFDS would not replace."""
    if os.path.lexists(builder.data_dir) and not builder.is_prepared():
        reason = "dataset_info.json is missing"
        raise damaged(name, builder.data_dir, str(builder.data_dir_root), reason)


def alone(name: str, builder: tfds.core.DatasetBuilder) -> contextlib.AbstractContextManager[None]:
    """Waits until no other process prepares a data set under the same folder."""
    file = f".{re.sub('[:/]', '_', name)}.lock"
    return file_lock.exclusive(pathlib.Path(builder.data_dir_root, file), interrupts.check)


def prepare(name: str, builder: tfds.core.DatasetBuilder, *, verify: bool = True) -> None:
    """Writes a data set as ArrayRecord files.

    An interrupted call leaves no data set that appears to be prepared.

    Args:
      name: name of the data set.
      builder: builder of the data set.
      verify: whether archives must be the published files.

    Raises:
      DiskError: the data set cannot be written.
      InputError: a source file is missing, damaged or not the published file; TensorFlow is
        required and missing; or TFDS's builder failed.
    """
    is_native = name in DATASETS or isinstance(builder, ordered.OrderedBuilder)
    if isinstance(builder, ordered.OrderedBuilder):
        builder.verify = verify
    if not is_native and importlib.util.find_spec("tensorflow") is None:
        raise errors.InputError(
            f"TFDS prepares '{name}' with TensorFlow, which is not installed; run `pip install -e"
            f" '.[prepare]'`, or use a data set that does not need it: {', '.join(DATASETS)}"
        )
    root = builder.data_dir_root
    try:
        os.makedirs(root, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        raise _disk_error("prepared data", root, error) from error
    _check_remains(name, builder)
    console.say(f"preparing data set '{name}' under {root}")
    manual_dir = getattr(builder, "manual_dir", None)
    download = functools.partial(
        builder.download_and_prepare,
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
        file_format="array_record",
    )
    try:
        if not is_native:
            download()
            return
        # TFDS prints messages about downloads that do not take place.
        with quiet(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            download()
    except errors.InputError:
        raise
    except Exception as error:
        # TFDS's builders use many libraries, which raise errors of many types.
        if not is_native:
            reason = f"{type(error).__name__}: {textwrap.shorten(str(error), 500)}"
            raise errors.InputError(f"TFDS cannot prepare '{name}' ({reason})") from error
        # ArrayRecord raises a RuntimeError if the disk is full.
        if isinstance(error, OSError | RuntimeError):
            raise _disk_error(f"data set '{name}'", root, error) from error
        raise


def _disk_error(subject: str, folder: Any, error: Exception) -> errors.DiskError:
    reason = textwrap.shorten(getattr(error, "strerror", None) or str(error), 200)
    return errors.DiskError(
        f"{subject} cannot be written to {folder} ({reason}); free disk space, or set --data_dir"
        " (in a config, data.dir) or TFDS_DATA_DIR to another folder"
    )


def _how_to_prepare(name: str, builder: tfds.core.DatasetBuilder) -> str:
    first = ""
    if isinstance(builder, archives.ArchivedBuilder):
        files = " and ".join(f"{archive.name} ({archive.url})" for archive in builder.ARCHIVES)
        first = f"put {files} into {builder.manual_dir}, then "
    elif name not in DATASETS:
        first = "with `pip install -e '.[prepare]'`, "
    words = [f"--name={name}", f"--data_dir={builder.data_dir_root}"]
    if manual_dir := getattr(builder, "manual_dir", ""):
        words.append(f"--manual_dir={manual_dir}")
    return f"{first}run `python -m rrd_jax.data.prepare {shlex.join(words)}`"


def _expanded(path: str) -> str:
    return str(user_paths.parse(path, "the folder")) if path else ""
