"""Opens Hugging Face data sets on disk: folders of `save_to_disk`, and Parquet files."""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rrd_jax import errors, imports
from rrd_jax.data.source import Source
from rrd_jax.data.sources import user_splits
from rrd_jax.data.sources.random_access import Handle
from rrd_jax.data.splits import Splits


@dataclasses.dataclass(frozen=True, eq=False)
class Table(Sequence):
    """The rows of a `datasets.Dataset` with its images as they are stored.

    Attributes:
      rows: of two columns.
      image: the column of images, not decoded.
      label: the column of labels; "" where these are not read.
      num_classes: C; None where the labels are plain integers.
      class_names: of a ClassLabel.
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
        if content is None:  # the set names files instead of holding them
            content = pathlib.Path(stored["path"]).read_bytes()
        return example | {"image": content}

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """[N] all labels."""
        return np.asarray(
            self.rows.select_columns([self.label]).with_format("numpy")[:][self.label]
        )


def open_source(source: Source) -> Splits:
    """Opens hf:PATH, a folder of `save_to_disk`, a Parquet file, or a folder of such files.

    Raises:
      InputError: `datasets` is not installed, nothing like it is at PATH, a split is missing, or
        there is no column of images, or none of labels, or several.
    """
    name = source.name
    tables = _tables(name)
    columns = _chosen_columns(name, source)

    def open_split(split: str) -> Handle:
        table = _table(name, split, tables[split], use_labels=source.use_labels, **columns)
        return Handle(f"data set '{name}'", table)

    return user_splits.open_splits(source, name, open_split, tuple(tables))


def _chosen_columns(name: str, source: Source) -> dict[str, str]:
    def columns(image: str = "", label: str = "") -> dict[str, str]:
        return {"image": image, "label": label}

    subject = f"data set '{name}'"
    return columns(**imports.check(subject, columns, dict(source.options), prefix="data.options."))


def _tables(name: str) -> Mapping[str, Any]:
    """The `datasets.Dataset` of each split."""
    try:
        import datasets  # an extra, which only such sets need
    except ImportError as error:
        raise errors.InputError(
            f"data set '{name}' is read with datasets, which cannot be imported ({error}): run"
            " `pip install 'rrd_jax[hf]'`"
        ) from error
    path = pathlib.Path(os.path.expanduser(name.removeprefix("hf:")))
    if not path.exists():
        raise errors.InputError(
            f"data set '{name}': there is no {path.absolute()}; write hf:PATH with a folder of"
            " datasets' save_to_disk, a Parquet file, or a folder of Parquet files"
        )
    try:
        if path.is_dir() and not _is_saved(path):
            files = _files_by_split(name, path)
        elif path.is_dir():
            saved = datasets.load_from_disk(str(path))
            if saved == {}:
                raise errors.InputError(f"data set '{name}' has no splits: its folder is damaged")
            return saved if isinstance(saved, Mapping) else {"train": saved}
        else:
            files = {"train": [str(path)]}
        # Memory-mapped from datasets' cache, which is a copy, in HF_HOME.
        return datasets.load_dataset("parquet", data_files=files)
    except errors.InputError:
        raise
    except Exception as error:  # Damaged files raise errors of datasets, pyarrow and others.
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise errors.InputError(f"data set '{name}' cannot be opened: {text}") from error


def _is_saved(path: pathlib.Path) -> bool:
    return any((path / file).exists() for file in ("dataset_dict.json", "state.json"))


def _files_by_split(name: str, folder: pathlib.Path) -> dict[str, list[str]]:
    """Parquet files by what their names begin with, such as train-00000-of-00002.parquet.

    Where that is a number, or `part`, the folder that they are in is called as the split is.
    """
    files: dict[str, list[str]] = {}
    for path in sorted(filter(pathlib.Path.is_file, folder.rglob("*.parquet"))):
        word = re.match(r"[a-zA-Z]*", path.stem).group()
        split = word if word not in ("", "part") else path.parent.name
        files.setdefault(split, []).append(str(path))
    if not files:
        raise errors.InputError(
            f"data set '{name}': {folder.absolute()} is neither a folder of datasets' save_to_disk"
            " nor has it Parquet files such as train-00000-of-00001.parquet"
        )
    for paths in files.values():
        _check_all_there(name, paths)
    return files


def _check_all_there(name: str, paths: Sequence[str]) -> None:
    """Raises an InputError where one of several files, -00000-of-00002, is missing."""
    there, wanted = set(), set()
    for path in paths:
        if numbered := re.search(r"^(.*-)(\d+)-of-(\d+)", path):
            before, number, total = numbered[1], int(numbered[2]), int(numbered[3])
            there.add((before, total, number))
            wanted |= {(before, total, i) for i in range(min(total, 10_000))}
    if missing := sorted(wanted - there):
        before, total, number = missing[0]
        raise errors.InputError(
            f"data set '{name}': of the files {before}*-of-{total:05d} {len(missing)} are missing,"
            f" such as number {number:05d}: download or copy them again"
        )


def _table(
    name: str, split: str, rows: Any, image: str, label: str, *, use_labels: bool = True
) -> Table:
    """The two columns of a split, by name, or else by their type; without labels the images'."""
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
    """Some columns, of which the images are not decoded."""
    import datasets

    rows = rows.with_format(None).select_columns(columns)
    return rows.cast_column(image, datasets.Image(decode=False))


def _holds_images(feature: Any) -> bool:
    """Whether a column is an Image, or what Parquet files without datasets' notes have for it."""
    import datasets

    if isinstance(feature, Mapping):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Image) or "binary" in _dtype(feature)


def _dtype(feature: Any) -> str:
    """Such as int64, of a column of single values; a ClassLabel is one of int64."""
    dtype = getattr(feature, "dtype", None)
    return dtype if isinstance(dtype, str) else ""


def _column(name: str, features: Any, role: str, chosen: str, candidates: Sequence[str]) -> str:
    """The column that is chosen, or called as its role is, or the only one."""
    if (chosen or role) in candidates:
        return chosen or role
    if len(candidates) == 1 and not chosen:
        return candidates[0]
    kind = "an Image" if role == "image" else "a ClassLabel or an integer"
    listed = ", ".join(features)
    if chosen:
        reason = f"'{chosen}' is not {kind}"
    else:
        reason = f"{' and '.join(candidates) or 'none'} may be the {role}, which must be {kind}"
    raise errors.InputError(
        f"data set '{name}' has columns {listed}; {reason}: choose one with data.options.{role}"
    )
