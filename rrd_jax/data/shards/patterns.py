"""Patterns of shards: braces and wildcards, and the splits that names of shards belong to."""

import fnmatch
import glob
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from rrd_jax import errors
from rrd_jax.data.folder import layout

# The separator of patterns, as in the package webdataset.
SEPARATOR = "::"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
# The largest number of names that braces stand for.
_MAX_NAMES = 1_000_000
_EXAMPLE = "train-{0000..0127}.tar or {train,val}-*.tar"


def expand(pattern: str, subject: str) -> list[str]:
    """Returns the patterns without braces that a pattern stands for, in order.

    Raises:
      InputError: the braces are not closed, or stand for too many names.

    Examples:
      >>> expand("{train,val}-{08..10}.tar", "data.name")[:4]
      ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar']
    """
    names = [pattern]
    while any(map(_BRACES.search, names)):
        names = list(itertools.chain.from_iterable(map(_expand_first, names)))
        if len(names) > _MAX_NAMES:
            raise errors.InputError(
                f"{subject} is '{pattern}', whose braces stand for more than {_MAX_NAMES:,} names;"
                " correct the range"
            )
    if unclosed := [name for name in names if "{" in name or "}" in name]:
        raise errors.InputError(
            f"{subject} is '{pattern}', which has an unmatched brace ('{unclosed[0]}'); write"
            f" patterns such as {_EXAMPLE}"
        )
    return names


def _expand_first(name: str) -> Iterable[str]:
    """Returns the names for the first innermost braces of a name."""
    match = _BRACES.search(name)
    if not match:
        return [name]
    before, after, content = name[: match.start()], name[match.end() :], match[1]
    if ends := _RANGE.fullmatch(content):
        first, last = int(ends[1]), int(ends[2])
        width = max(map(len, ends.groups())) if any(e.startswith("0") for e in ends.groups()) else 0
        # Longer ranges are refused, and must not be listed.
        numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        parts = [f"{number:0{width}d}" for number in numbers[: _MAX_NAMES + 1]]
    else:
        parts = content.split(",")
    return (f"{before}{part}{after}" for part in parts)


def select(patterns: Sequence[str], subject: str) -> list[str]:
    """Returns the paths of the shards that patterns name, in the order of the patterns.

    Args:
      patterns: absolute paths without braces, of files, of folders, or with *, ?, [...] and **.
      subject: the pattern as the user wrote it, for messages.

    Raises:
      InputError: no shard matches a pattern.
    """
    matches = [_files(pattern) for pattern in patterns]
    missing = [pattern for pattern, files in zip(patterns, matches, strict=True) if not files]
    if missing:
        raise no_shard(missing, subject)
    return list(dict.fromkeys(itertools.chain.from_iterable(matches)))


def _files(pattern: str) -> list[str]:
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), "**", "*.tar")
    elif os.path.lexists(pattern):
        return [pattern]
    return [path for path in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(path)]


def no_shard(missing: Sequence[str], subject: str) -> errors.InputError:
    """Returns the error for patterns that match no shard."""
    more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
    return errors.InputError(
        f"{subject}: there is no shard {errors.printable(missing[0])}{more}; correct the pattern,"
        f" such as {_EXAMPLE}, or copy the missing shards"
    )


def split_place(pattern: str) -> tuple[str, str]:
    """Splits a pattern after the last folder without braces and wildcards.

    Examples:
      >>> split_place("gs://b/sets/{train,val}/*.tar")
      ('gs://b/sets', '{train,val}/*.tar')
      >>> split_place("gs://b/sets")
      ('gs://b/sets', '')
    """
    parts = pattern.split("/")
    fixed = list(itertools.takewhile(lambda part: not set("*?[{") & set(part), parts))
    if len(fixed) == len(parts) and parts[-1].lower().endswith(".tar"):
        fixed.pop()
    return "/".join(fixed), "/".join(parts[len(fixed) :])


def matcher(pattern: str, subject: str) -> tuple[Callable[[str], bool], list[str]]:
    """Returns a function of names, relative to a folder, that match a pattern with braces.

    A folder stands for all tar files below it, and so does an empty pattern.

    Returns:
      The function, and the names without wildcards that the pattern stands for.
    """
    names = expand(pattern, subject) if pattern else []
    plain = {name.rstrip("/"): None for name in names if not set("*?[") & set(name)}
    wild = [name.split("/") for name in names if set("*?[") & set(name)]

    def matches(name: str) -> bool:
        is_below = not pattern or any(
            str(folder) in plain for folder in pathlib.PurePosixPath(name).parents
        )
        is_shard = is_below and name.lower().endswith(".tar")
        return is_shard or name in plain or any(_matches(name.split("/"), parts) for parts in wild)

    return matches, list(plain)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Returns True if the parts of a path match those of a pattern; ** matches any folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    is_match = parts and fnmatch.fnmatchcase(parts[0], pattern[0])
    return bool(is_match) and _matches(parts[1:], pattern[1:])


def by_split(paths: Sequence[str], subject: str) -> Mapping[str, list[str]]:
    """Returns the shards of each split.

    The split is the word train, test or val (see `layout.SPLITS`) in the name of a shard, or else
    in a folder below the folder that contains all shards. Shards without such a word are the split
    "train".

    Raises:
      InputError: some shards name a split and others do not, or a shard names two.
    """
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = {path: _split_of(os.path.relpath(path, common), subject) for path in paths}
    if not any(names.values()):
        return {"train": list(paths)}
    if unnamed := [path for path, split in names.items() if not split]:
        raise errors.InputError(
            f"{subject}: the name of {errors.printable(unnamed[0])} has no split such as train or"
            " val, but those of other shards have; name the shards of each split separately with"
            " data.options, such as data.options.test=PATTERN"
        )
    splits: dict[str, list[str]] = {}
    for path in paths:
        splits.setdefault(names[path], []).append(path)
    return splits


def _split_of(path: str, subject: str) -> str:
    for part in reversed(path.split("/")):
        words = re.split(r"[^a-z]+", part.lower())
        splits = {layout.SPLITS[word] for word in words if word in layout.SPLITS}
        if len(splits) > 1:
            raise errors.InputError(
                f"{subject}: the name {errors.printable(path)} has two splits"
                f" ({', '.join(sorted(splits))}); name the shards of each split separately with"
                " data.options, such as data.options.test=PATTERN"
            )
        if splits:
            return splits.pop()
    return ""
