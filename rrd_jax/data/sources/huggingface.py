"""Hugging Face data sets: folders of `save_to_disk`, Parquet files, and repositories of the Hub."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rrd_jax import errors, hub, imports, user_paths
from rrd_jax.data.source import Source
from rrd_jax.data.sources import hub_tables, user_splits
from rrd_jax.data.sources.random_access import Handle
from rrd_jax.data.splits import Splits


@dataclasses.dataclass(frozen=True, eq=False)
class Table(Sequence):
    """The rows of a `datasets.Dataset` with encoded images.

    Attributes:
      rows: `datasets.Dataset` with a column of images and optionally a column of labels.
      image: name of the column of images, which are not decoded.
      label: name of the column of labels; "" if labels are not read.
      num_classes: C; None if the labels are plain integers.
      class_names: names of a ClassLabel in the order of labels.
    """

    rows: Any
    image: str
    label: str
    num_classes: int | None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = self.rows[i]
        stored, example = row[self.image], {"label": row[self.label]} if self.label else {}
        if stored is None:
            return example | {"image": None}
        if stored["path"]:
            example["file_name"] = stored["path"]
        content = stored["bytes"]
        # The data set may store the paths of image files without their content.
        if content is None:
            content = pathlib.Path(stored["path"]).read_bytes()
        return example | {"image": content}

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Labels of the split, [N]."""
        return np.asarray(
            self.rows.select_columns([self.label]).with_format("numpy")[:][self.label]
        )


def open_source(source: Source) -> Splits:
    """Opens hf:PATH or hf-hub:ORG/NAME.

    PATH is a folder of `save_to_disk`, a Parquet file or a folder of these.

    Raises:
      HubError: the repository is not available.
      InputError: `datasets` is not installed, PATH holds no data set, a split is missing, or the
        column of images or of labels is missing or ambiguous.
    """
    name = source.name
    columns = _chosen_columns(name, source)
    tables = _tables(name, columns.pop("subset", ""))

    def open_split(split: str) -> Handle:
        table = _table(name, split, tables[split], use_labels=source.use_labels, **columns)
        return Handle(f"data set '{name}'", table)

    return user_splits.open_splits(source, name, open_split, tuple(tables))


def _chosen_columns(name: str, source: Source) -> dict[str, str]:
    def columns(image: str = "", label: str = "") -> dict[str, str]:
        return {"image": image, "label": label}

    def columns_of_subset(image: str = "", label: str = "", subset: str = "") -> dict[str, str]:
        return {"image": image, "label": label, "subset": subset}

    subject = f"data set '{name}'"
    choose = columns_of_subset if hub.is_name(name) else columns
    return choose(**imports.check(subject, choose, dict(source.options), prefix="data.options."))


def _tables(name: str, subset: str) -> Mapping[str, Any]:
    """Returns the `datasets.Dataset` of each split by name."""
    # The package `datasets` is an optional extra.
    try:
        import datasets
    except ImportError as error:
        raise errors.InputError(
            f"data set '{name}' needs the package datasets, which cannot be imported ({error}); run"
            " `pip install 'rrd_jax[hf]'`"
        ) from error
    if hub.is_name(name):
        files = hub_tables.files(name, subset)
        for paths in files.values():
            _check_complete(name, paths)
        return _read_parquet(name, files)
    path = pathlib.Path(str(user_paths.parse(name, "data.name")).removeprefix(user_paths.PREFIX))
    if not path.exists():
        raise errors.InputError(
            f"data set '{name}': {path.absolute()} does not exist; write hf:PATH with a folder of"
            " datasets' save_to_disk, a Parquet file, or a folder of Parquet files"
        )
    try:
        if path.is_dir() and not _is_saved(path):
            files = _files_by_split(name, path)
        elif path.is_dir():
            saved = datasets.load_from_disk(str(path))
            if saved == {}:
                raise errors.InputError(
                    f"data set '{name}' has no splits: the folder is damaged; copy it again"
                )
            return saved if isinstance(saved, Mapping) else {"train": saved}
        else:
            files = {"train": [str(path)]}
    except errors.InputError:
        raise
    except Exception as error:
        raise _unreadable(name, error) from error
    return _read_parquet(name, files)


def _read_parquet(name: str, files: dict[str, list[str]]) -> Mapping[str, Any]:
    """Opens Parquet files; the library copies them to its cache in HF_HOME, and maps the copy."""
    import datasets

    try:
        return datasets.load_dataset("parquet", data_files=files)
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> errors.InputError:
    """Returns the error for a damaged file, for which libraries raise many types."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return errors.InputError(f"data set '{name}' cannot be opened: {errors.redacted(text)}")


def _is_saved(path: pathlib.Path) -> bool:
    return any((path / file).exists() for file in ("dataset_dict.json", "state.json"))


def _files_by_split(name: str, folder: pathlib.Path) -> dict[str, list[str]]:
    """Returns the Parquet files of each split, see `hub_tables.by_split`."""
    files = hub_tables.by_split(sorted(filter(pathlib.Path.is_file, folder.rglob("*.parquet"))))
    if not files:
        raise errors.InputError(
            f"data set '{name}': {folder.absolute()} is not a folder of datasets' save_to_disk and"
            " has no Parquet files such as train-00000-of-00001.parquet"
        )
    for paths in files.values():
        _check_complete(name, paths)
    return files


def _check_complete(name: str, paths: Sequence[str]) -> None:
    """Raises an InputError if a file of a numbered series, such as -00000-of-00002, is missing."""
    present, expected = set(), set()
    for path in paths:
        if numbered := re.search(r"^(.*-)(\d+)-of-(\d+)", path):
            before, number, total = numbered[1], int(numbered[2]), int(numbered[3])
            present.add((before, total, number))
            expected |= {(before, total, i) for i in range(min(total, 10_000))}
    if missing := sorted(expected - present):
        before, total, number = missing[0]
        raise errors.InputError(
            f"data set '{name}': {len(missing)} of the files {before}*-of-{total:05d} are missing,"
            f" such as number {number:05d}; download or copy them again"
        )


def _table(
    name: str, split: str, rows: Any, image: str, label: str, *, use_labels: bool = True
) -> Table:
    """Returns the columns of images and, if needed, labels, chosen by name or by type."""
    import datasets

    features = rows.features
    images = [key for key, feature in features.items() if _holds_images(feature)]
    classes = [key for key, f in features.items() if isinstance(f, datasets.ClassLabel)]
    integers = [key for key, feature in features.items() if "int" in _dtype(feature)]
    image = _column(name, features, "image", image, images)
    if not use_labels:
        return Table(_stored(rows, [image], image), image, "", None)
    label = _column(name, features, "label", label, integers if label else classes or integers)
    rows = _stored(rows, [image, label], image)
    number, names = (getattr(features[label], key, None) for key in ("num_classes", "names"))
    return Table(rows, image, label, number, tuple(names or ()))


def _stored(rows: Any, columns: list[str], image: str) -> Any:
    """Returns the given columns, with images as encoded bytes."""
    import datasets

    rows = rows.with_format(None).select_columns(columns)
    return rows.cast_column(image, datasets.Image(decode=False))


def _holds_images(feature: Any) -> bool:
    """Returns True if a column holds images, either typed as Image or as plain Parquet columns."""
    import datasets

    if isinstance(feature, Mapping):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Image) or "binary" in _dtype(feature)


def _dtype(feature: Any) -> str:
    """Returns the type of a column of scalars, such as "int64" (ClassLabel included), or ""."""
    dtype = getattr(feature, "dtype", None)
    return dtype if isinstance(dtype, str) else ""


def _column(name: str, features: Any, role: str, chosen: str, candidates: Sequence[str]) -> str:
    """Returns the chosen column, the column named like its role, or the only candidate."""
    if (chosen or role) in candidates:
        return chosen or role
    if len(candidates) == 1 and not chosen:
        return candidates[0]
    kind = "an Image" if role == "image" else "a ClassLabel or an integer"
    listed = ", ".join(features)
    if chosen:
        reason = f"'{chosen}' is not {kind}"
    else:
        reason = f"{' and '.join(candidates) or 'none'} can be the {role}, which must be {kind}"
    raise errors.InputError(
        f"data set '{name}' has columns {listed}; {reason}; choose one with data.options.{role}"
    )
