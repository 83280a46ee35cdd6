"""Data sets in repositories of the Hugging Face Hub: the Parquet files of each split."""

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rrd_jax import errors, hub

_CARD = "README.md"
_PATTERNS = ("*.parquet", _CARD)


def pin(text: str) -> str:
    """Returns the name of a data set's repository with the current commit of its revision.

    Raises:
      HubError: see `hub.snapshot`.
    """
    name = hub.parse(text)
    folder = hub.snapshot(name, (_CARD,), "dataset")
    return str(name._replace(commit=hub.commit_of(folder)))


def files(text: str, subset: str) -> dict[str, list[str]]:
    """Downloads a data set; returns the Parquet files of each split.

    Args:
      text: hf-hub:ORG/NAME, with or without a revision.
      subset: name of a configuration of the data set, or of a folder; "" for the only one.

    Raises:
      HubError: see `hub.snapshot`.
      InputError: there are no Parquet files, or the subset is unknown or missing.
    """
    folder = hub.snapshot(hub.parse(text), _PATTERNS, "dataset")
    paths = [path for path in sorted(folder.rglob("*.parquet")) if path.is_file()]
    if not paths:
        raise errors.InputError(
            f"data set '{text}' has no Parquet files; other files are not read from the hub: use"
            " the revision refs/convert/parquet if its page shows images, or download the data"
        )
    by_subset = _by_configuration(folder, paths) or _by_folder(folder, paths)
    return by_subset[_chosen(text, by_subset, subset)]


def by_split(paths: Iterable[pathlib.Path]) -> dict[str, list[str]]:
    """Returns Parquet files by split.

    The split is the prefix of the file's name, as in train-00000-of-00002.parquet. For names that
    start with a number or `part`, the split is the name of the file's folder.
    """
    splits: dict[str, list[str]] = {}
    for path in paths:
        splits.setdefault(_split_of(path), []).append(str(path))
    return splits


def _split_of(path: pathlib.Path) -> str:
    word = _first_word(path)
    return word if word else path.parent.name


def _first_word(path: pathlib.Path) -> str:
    """Returns the letters with which a file's name starts; "" for those without a meaning."""
    word = re.match(r"[a-zA-Z]*", path.stem).group()
    return "" if word == "part" else word


def _chosen(text: str, by_subset: Mapping[str, Any], subset: str) -> str:
    """Returns the subset that is chosen, called default, or the only one."""
    if not subset:
        for name in ("default", *by_subset):
            if name in by_subset and (name == "default" or len(by_subset) == 1):
                return name
    if subset in by_subset:
        return subset
    problem = f"has no subset '{errors.printable(subset)}'" if subset else "has several subsets"
    raise errors.InputError(
        f"data set '{text}' {problem}; choose one with data.options.subset:"
        f" {errors.name_list(map(str, by_subset), subset)}"
    )


def _by_folder(
    folder: pathlib.Path, paths: Sequence[pathlib.Path]
) -> dict[str, dict[str, list[str]]]:
    """Returns the files of each split by the folder that holds the splits."""
    groups: dict[str, list[pathlib.Path]] = {}
    for path in paths:
        home = path.parent if _first_word(path) else path.parent.parent
        groups.setdefault(home.relative_to(folder).as_posix(), []).append(path)
    return {name: by_split(group) for name, group in groups.items()}


def _by_configuration(
    folder: pathlib.Path, paths: Sequence[pathlib.Path]
) -> dict[str, dict[str, list[str]]]:
    """Returns the files of each split by the configurations in the data card; {} without any."""
    subsets = {}
    for configuration in _configurations(folder / _CARD):
        splits = _configured(folder, configuration, paths)
        if splits:
            name = "default" if configuration.get("default") else configuration.get("config_name")
            subsets[str(name or "default")] = splits
    return subsets


def _configurations(card: pathlib.Path) -> list[dict[str, Any]]:
    from huggingface_hub import DatasetCard

    try:
        entries = DatasetCard(card.read_text(encoding="utf-8")).data.to_dict().get("configs")
    # Cards that people write can hold anything.
    except Exception:
        return []
    entries = entries if isinstance(entries, list) else []
    return [entry for entry in entries if isinstance(entry, dict)]


def _configured(
    folder: pathlib.Path, configuration: Mapping[str, Any], paths: Sequence[pathlib.Path]
) -> dict[str, list[str]]:
    """Returns the files of each split of a configuration."""
    home = folder / str(configuration.get("data_dir") or "")
    patterns = configuration.get("data_files") or "**/*.parquet"
    if not isinstance(patterns, list):
        patterns = [patterns]
    named = [part for part in patterns if isinstance(part, Mapping)]
    if not named:
        return by_split(_matching(home, patterns, paths))
    splits: dict[str, list[str]] = {}
    for part in named:
        matching = map(str, _matching(home, part.get("path"), paths))
        splits.setdefault(str(part.get("split")), []).extend(matching)
    return {split: names for split, names in splits.items() if names}


def _matching(
    home: pathlib.Path, patterns: Any, paths: Sequence[pathlib.Path]
) -> list[pathlib.Path]:
    patterns = patterns if isinstance(patterns, list) else [patterns]
    chosen = {path for pattern in patterns for path in home.glob(str(pattern).strip("/") or "*")}
    return [path for path in paths if path in chosen]
