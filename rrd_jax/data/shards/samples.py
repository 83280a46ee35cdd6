"""Random access to the images in shards."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rrd_jax import errors
from rrd_jax.data.images import image_files
from rrd_jax.data.shards import labels
from rrd_jax.data.shards.shard_index import Shard, State


@dataclasses.dataclass(frozen=True, eq=False)
class Samples(Sequence):
    """The images of a split with their labels.

    Attributes:
      paths: paths of the shards.
      states: size and times of each shard when it was listed.
      shards: [n], index of the shard of each image.
      offsets: [n], position of each image in its shard in bytes.
      sizes: [n], size of each image in bytes.
      keys: [n], name of each image's sample and extension, as bytes.
      labels: [n], class of each image; () without labels.
      classes: names in the order of labels; () if labels are indices.
    """

    paths: tuple[str, ...]
    states: tuple[State, ...]
    shards: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray
    labels: np.ndarray | tuple[int, ...] = ()
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, i: int) -> dict[str, Any]:
        shard, size = int(self.shards[i]), int(self.sizes[i])
        path = self.paths[shard]
        try:
            with open(path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                content = os.pread(file.fileno(), size, int(self.offsets[i]))
        except OSError as error:
            raise _changed(path, f"cannot be read ({error.strerror or error})") from error
        state = State(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        # A change of permissions or of the name changes only the last value.
        if state[:2] != self.states[shard][:2] or len(content) != size:
            raise _changed(path, "has changed")
        example = {"image": content, "file_name": bytes(self.keys[i])}
        return example | {"label": int(self.labels[i])} if len(self.labels) else example


def _changed(path: str, problem: str) -> errors.InputError:
    return errors.InputError(
        f"shard {errors.printable(path)} {problem} since this run started; restore the original"
        " file and repeat the command to resume, or use a new --workdir for changed shards"
    )


def image_files_of(shard: Shard, chosen: str) -> np.ndarray:
    """Returns the position in the index of the image of each sample, [n]; -1 for no image.

    Args:
      shard: a shard.
      chosen: extensions of images, separated by semicolons, the first existing one is used; "" for
        all formats.

    Raises:
      InputError: a sample has several images, and none is chosen.
    """
    extensions = [name.strip().lower() for name in chosen.split(";")] if chosen else None
    ranks = {
        kind: extensions.index(name) if extensions else 0
        for kind, name in enumerate(shard.extensions)
        if (name in extensions if extensions else _is_image(name))
    }
    images, ranked = (
        np.full(len(shard.keys), -1),
        np.full(len(shard.keys), len(extensions or "") + 1),
    )
    for i in np.flatnonzero(np.isin(shard.kinds, list(ranks))):
        sample, rank = shard.samples[i], ranks[int(shard.kinds[i])]
        if images[sample] >= 0 and not extensions:
            names = [shard.extensions[int(shard.kinds[j])] for j in (images[sample], i)]
            raise errors.InputError(
                f"shard {errors.printable(shard.path)}: sample"
                f" '{errors.printable(os.fsdecode(bytes(shard.keys[sample])))}' has several images"
                f" ({', '.join(names)}); choose one with data.options.image={names[0]}"
            )
        if rank < ranked[sample]:
            images[sample], ranked[sample] = i, rank
    return images


def _is_image(extension: str) -> bool:
    return "." not in extension and image_files.is_named_as_image(f"x.{extension}")


def collect(
    shards: Sequence[Shard],
    image: str,
    read_labels: Callable[[Shard], Sequence[int | str]] | None,
    extension: str = "",
) -> tuple[Samples, list[int | str]]:
    """Returns the images of some shards, and the label of each image; no labels if not read."""
    parts: list[tuple[np.ndarray, ...]] = []
    values: list[int | str] = []
    for number, shard in enumerate(shards):
        files = image_files_of(shard, image)
        chosen = np.flatnonzero(files >= 0)
        files = files[chosen]
        suffixes = np.array([f".{name}".encode() for name in shard.extensions] or [b""])
        keys = np.char.add(shard.keys[chosen], suffixes[shard.kinds[files]])
        indices = np.full(len(files), number, np.int32)
        parts.append((indices, shard.offsets[files], shard.sizes[files], keys))
        if read_labels is not None:
            in_shard = read_labels(shard)
            labels.check_complete(shard, chosen, in_shard, extension)
            values += [in_shard[i] for i in chosen]
    columns = map(np.concatenate, zip(*parts, strict=True))
    paths, states = (tuple(getattr(s, name) for s in shards) for name in ("path", "state"))
    return Samples(paths, states, *columns), values


def with_labels(
    splits: dict[str, tuple[Samples, list[int | str]]], subject: str
) -> dict[str, Samples]:
    """Returns splits whose labels are the indices of classes.

    Names of classes are sorted, over all splits.

    Raises:
      InputError: some labels are indices and others are names.
    """
    kinds = {type(value) for _, values in splits.values() for value in values}
    if len(kinds) > 1:
        name, index = (
            next(v for _, values in splits.values() for v in values if isinstance(v, kind))
            for kind in (str, int)
        )
        raise errors.InputError(
            f"{subject}: some labels are class indices, such as {index}, and others are names, such"
            f" as '{errors.printable(name[:40])}'; use indices for all samples, or names for all"
        )
    classes: tuple[str, ...] = ()
    index_of: Callable[[Any], int] = int
    if kinds == {str}:
        classes = tuple(sorted({value for _, values in splits.values() for value in values}))
        index_of = functools.partial(_look_up, {name: i for i, name in enumerate(classes)})
    return {
        split: dataclasses.replace(
            samples, labels=np.array([index_of(v) for v in values], np.int64), classes=classes
        )
        for split, (samples, values) in splits.items()
    }


def _look_up(index: dict[str, int], name: str) -> int:
    return index[name]
