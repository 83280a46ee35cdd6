"""Data sets of WebDataset shards: tar files with the images and labels of many samples.

`patterns` finds the shards and their splits, `shard_index` lists the files of each shard once,
`labels` reads the classes, and `samples` reads images by position.
"""

import concurrent.futures
import dataclasses
import glob
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tqdm

from rrd_jax import errors, imports, user_paths
from rrd_jax.data.folder import layout
from rrd_jax.data.shards import labels, patterns, samples, shard_index
from rrd_jax.data.shards.samples import Samples
from rrd_jax.data.shards.shard_index import Shard
from rrd_jax.data.source import Source
from rrd_jax.data.sources import split_expressions, user_splits
from rrd_jax.data.sources.random_access import Handle
from rrd_jax.data.splits import Splits, Summary
from rrd_jax.terminal import interrupts
from rrd_jax.terminal.long_search import LongSearch

PREFIX = "wds:"


class _Options(NamedTuple):
    """The fields data.options of a source."""

    image: str = ""
    label: str = ""
    test: str = ""
    validation: str = ""


def open_source(source: Source) -> Splits:
    """Opens wds:PATTERN, where PATTERN names tar files, or a folder of tar files.

    Raises:
      InputError: no shard matches, a shard is damaged, or a sample has no valid label.
    """
    subject = f"data set '{source.name}'"
    options = _Options(
        **imports.check(subject, _Options, dict(source.options), prefix="data.options.")
    )
    paths, index = _paths(source, options), _index_folder(source.dir)
    opened = _open_all([path for part in paths.values() for path in part], index)
    shards = {split: [opened[path] for path in part] for split, part in paths.items()}
    splits = _samples(source, options, shards, index)
    expressions = {
        field: _canonical(getattr(source, field), splits) for field in ("train_split", "test_split")
    }
    result = user_splits.open_splits(
        dataclasses.replace(source, options=(), **expressions),
        source.name,
        lambda split: Handle(subject, splits[split]),
        tuple(splits),
    )
    # The version does not depend on the place of the shards.
    digest = hashlib.sha256(result.version.rpartition(" ")[2].encode())
    for split, part in sorted(shards.items()):
        digest.update(f" {split} {' '.join(shard.digest for shard in part)}".encode())
    return dataclasses.replace(
        result,
        version=f"wds/{digest.hexdigest()[:16]}",
        display_name=errors.printable(source.name.rpartition("/")[2].removeprefix(PREFIX)),
        summary=result.summary + _summarize(source, shards, splits),
    )


def _index_folder(data_dir: str) -> pathlib.Path:
    prepared = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(prepared).expanduser() / "shard_index"


def _paths(source: Source, options: _Options) -> dict[str, list[str]]:
    """Returns the paths of the shards of each split."""
    named = {
        "train": ("data.name", source.name.removeprefix(PREFIX)),
        "test": ("data.options.test", options.test),
        "validation": ("data.options.validation", options.validation),
    }
    selected = {}
    for split, (field, text) in named.items():
        if text or split == "train":
            names = [
                path
                for pattern in text.split(patterns.SEPARATOR)
                for path in patterns.expand(_absolute(source, pattern, field), field)
            ]
            selected[split] = patterns.select(names, f"{field} is '{text}'")
            for other, paths in selected.items():
                if other != split and (shared := set(paths) & set(selected[split])):
                    raise errors.FieldError(
                        f"{field} is '{text}', but {errors.printable(min(shared))} is a shard of"
                        f" the split {other}; name each shard in one split"
                    )
    if len(selected) > 1:
        return selected
    return patterns.by_split(selected["train"], f"data.name is '{source.name}'")


def _absolute(source: Source, pattern: str, field: str) -> str:
    """Returns a pattern on this machine as an absolute path."""
    if not pattern:
        raise errors.FieldError(
            f"{field} is '{source.name}', without a pattern; write wds:PATTERN, such as"
            " wds:/data/train-{0000..0127}.tar"
        )
    if pattern.startswith("pipe:"):
        raise errors.FieldError(
            f"{field} has '{pattern}', a command, but commands are not run; copy the shards, and"
            " name the files"
        )
    if problem := user_paths.url_problem(pattern):
        raise errors.FieldError(f"{field} has '{pattern}', {problem}")
    pattern = os.path.expanduser(pattern)
    if source.manual_dir and not os.path.isabs(pattern):
        folder = os.path.abspath(user_paths.expanded(source.manual_dir))
        return os.path.join(glob.escape(folder), pattern)
    return os.path.abspath(pattern)


def _open_all(paths: Sequence[str], index: pathlib.Path) -> dict[str, Shard]:
    """Opens shards in several threads; each shard is read once and then from its index."""
    bar = tqdm.tqdm(
        total=len(paths), desc="indexing shards", unit=" shards", disable=None, delay=1, leave=False
    )
    search = LongSearch("shards")
    with bar, concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        calls = {path: pool.submit(shard_index.open_shard, path, index) for path in paths}
        try:
            for number, call in enumerate(calls.values()):
                while not concurrent.futures.wait([call], 0.5).done:
                    if bar.disable:
                        search.report(f"{number:,} of {len(paths):,} shards are indexed")
                    interrupts.check()
                call.result()
                bar.update()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return {path: call.result() for path, call in calls.items()}


def _samples(
    source: Source,
    options: _Options,
    shards: Mapping[str, Sequence[Shard]],
    index: pathlib.Path,
) -> dict[str, Samples]:
    """Returns the images of each split, with labels if they are used."""
    if not source.use_labels:
        return {
            split: _not_empty(samples.collect(part, options.image, None)[0], split, part)
            for split, part in shards.items()
        }
    extension, key = labels.choose([s for part in shards.values() for s in part], options.label)
    # A text may be a caption, unless the user says that it is the name of a class.
    names_allowed = extension != "txt" or bool(options.label)

    def read(shard: Shard) -> Sequence[int | str | None]:
        return labels.read(shard, extension, key, index, names_allowed=names_allowed)

    collected = {
        split: samples.collect(part, options.image, read, extension)
        for split, part in shards.items()
    }
    for split, (images, _) in collected.items():
        _not_empty(images, split, shards[split])
    return samples.with_labels(collected, f"data set '{source.name}'")


def _not_empty(images: Samples, split: str, shards: Sequence[Shard]) -> Samples:
    if not len(images):
        kinds = sorted({kind for shard in shards for kind in shard.extensions})
        raise errors.InputError(
            f"split '{split}': no image in {errors.printable(shards[0].path)} and the other shards,"
            f" whose files are {', '.join(kinds) or 'none'}; name shards with images such as .jpg"
            " or .png, or set data.options.image to the extension of the images"
        )
    return images


def _canonical(expression: str, splits: Mapping[str, Samples]) -> str:
    """Returns a split expression with the standard names of splits."""
    try:
        parts = split_expressions.parse(expression)
    # `user_splits` reports the error.
    except ValueError:
        return expression
    texts = []
    for part in parts:
        name = part.name if part.name in splits else layout.SPLITS.get(part.name.lower(), part.name)
        if name == "test" and name not in splits and "validation" in splits:
            name = "validation"
        texts.append(name + (f"[{part.start}:{part.stop}]" if part.start or part.stop else ""))
    return "+".join(texts)


def _summarize(
    source: Source, shards: Mapping[str, Sequence[Shard]], splits: Mapping[str, Samples]
) -> Summary:
    counts = {split: len(part) for split, part in shards.items()}
    texts = [
        f"{split} {len(splits[split]):,} images in {count:,} shards"
        for split, count in counts.items()
    ]
    lines = [f"shards: {', '.join(texts)}"]
    if "test" in source.test_split and "test" not in splits and "validation" in splits:
        lines.append("note: there are no test shards; the split 'test' is 'validation'")
    total = sum(len(shard.keys) for part in shards.values() for shard in part)
    without, warnings = total - sum(map(len, splits.values())), ()
    if without:
        warnings = (
            f"{without:,} of {total:,} samples in the shards have no image and are skipped",
        )
    return Summary(tuple(lines), warnings, {"shards": counts})
