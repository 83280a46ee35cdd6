"""Predictions for any number of images of any size, from files or arrays."""

import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from rrd_jax import errors
from rrd_jax.data.folder import file_listing
from rrd_jax.data.images import example_forms, reader
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.evaluation import predictions
from rrd_jax.exports import interface
from rrd_jax.library.quiet import quietly
from rrd_jax.terminal import interrupts


class Guess(NamedTuple):
    """A predicted class with its probability in [0, 1]."""

    name: str
    label: int
    probability: float


class Unread(NamedTuple):
    """An image that cannot be read, and the reason."""

    file: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of a network for N images, in the order of the images.

    Attributes:
      logits: [N, C] float32.
      embeddings: [N, D] float32; None if the network has none.
      files: the path of each image, or its index for images that are not files.
      class_names: the class names in the order of labels; a class without a name has its label.
      unread: images that cannot be read; not included in the N images.
      patches: [N, h, w, D] float32, the features of each position; None if they were not requested.
    """

    logits: np.ndarray
    embeddings: np.ndarray | None
    files: tuple[str, ...]
    class_names: tuple[str, ...]
    unread: tuple[Unread, ...] = ()
    patches: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.files)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The most probable class of each image, [N] int32."""
        return np.argmax(self.logits, axis=-1).astype(np.int32)

    @property
    def names(self) -> list[str]:
        """The name of the most probable class of each image."""
        return [self.class_names[label] for label in self.labels]

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """The softmax of the logits, [N, C] float32."""
        logits = self.logits.astype(np.float64)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
        return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)

    def top(self, count: int = 5) -> list[list[Guess]]:
        """Returns the most probable classes of each image, in decreasing order."""
        errors.check_counts(count=count)
        order = np.argsort(-self.logits, axis=-1, kind="stable")[:, :count]
        return [
            [Guess(self.class_names[i], int(i), float(row[i])) for i in labels]
            for labels, row in zip(order, self.probabilities, strict=True)
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A network, or an exported file in its runtime, that predicts classes and embeddings.

    Attributes:
      compute: a function from uint8 images [B, H, W, channels] of the network's size to
        {"logits": [B, C], "embedding": [B, D]}; without "embedding" if the network has none.
      about: the description of the network, including its `preprocessing`.
      runtime: the library that runs the network, such as "onnxruntime 1.32.0".
      devices: number of devices over which a batch is split.
      compute_patches: the function `compute` with the additional output {"patches": [B, h, w, D]};
        None for exported files and for the mean of several networks, which have no patches.
    """

    compute: Callable[[np.ndarray], dict[str, np.ndarray]] = dataclasses.field(repr=False)
    about: ModelInfo = dataclasses.field(repr=False)
    runtime: str
    devices: int = 1
    compute_patches: Callable[[np.ndarray], dict[str, np.ndarray]] | None = dataclasses.field(
        default=None, repr=False
    )

    @property
    def name(self) -> str:
        """The name of the network in a config."""
        return self.about.model

    @property
    def num_classes(self) -> int:
        """The number of classes, C."""
        return self.about.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of the network's input, (H, W, channels)."""
        return self.about.preprocessing.image_shape

    @quietly
    def predict(
        self, images: Any, *, batch_size: int = 64, skip_unread: bool = False
    ) -> Predictions:
        """Predicts classes, with the preprocessing of a test split.

        Args:
          images: uint8 [N, H, W, channels], or [N, H, W] of grayscale images; a list of arrays of
            any size, PIL images, encoded bytes or paths; a single one of these; a folder, which is
            searched recursively; or a glob pattern. The EXIF orientation of files is applied.
          batch_size: images per call of the network.
          skip_unread: whether to skip images that cannot be read, and list them in the result.

        Raises:
          InputError: there are no images, an image cannot be read, or an output is not finite.
        """
        if not self.num_classes:
            raise errors.InputError(
                f"'{self.name}' has no classifier, so it cannot predict classes; use embed"
            )
        with contextlib.closing(self.batches(images, batch_size)) as batches:
            parts = [part if skip_unread else _checked(part) for part in batches]
        return self._joined(parts)

    def embed(
        self, images: Any, *, batch_size: int = 64, features: str = "embedding"
    ) -> np.ndarray:
        """Returns embeddings [N, D] or patches [N, h, w, D], float32.

        Args:
          images: the same images as for `predict`.
          batch_size: images per call of the network.
          features: "embedding", or "patches" for the features of each position, see
            `networks.Outputs`.

        Raises:
          InputError: as for `predict`; or the network has no embedding or no patches.
        """
        if features not in ("embedding", "patches"):
            raise errors.InputError(
                f"features is {features!r}, but must be 'embedding' or 'patches'"
            )
        patches = features == "patches"
        with contextlib.closing(self.batches(images, batch_size, patches=patches)) as batches:
            parts = [_checked(part) for part in batches]
        if not parts:
            # The outputs for a black image have the shape of the features.
            black = np.zeros((self.devices, *self.image_shape), np.uint8)
            rows = self._function(patches=patches)(black).get(features)
            rows = None if rows is None else np.asarray(rows)[:0]
        else:
            joined = self._joined(parts)
            rows = joined.patches if patches else joined.embeddings
        if rows is None:
            raise errors.InputError(f"'{self.name}' has no embedding; use a network with one")
        return rows

    def _function(self, *, patches: bool) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Returns `compute`, or `compute_patches`; raises an InputError for no patches."""
        if not patches:
            return self.compute
        if self.compute_patches is None:
            raise errors.InputError(interface.without_patches(self.name))
        return self.compute_patches

    def batches(
        self, images: Any, batch_size: int = 64, *, patches: bool = False
    ) -> Iterator[Predictions]:
        """Yields predictions batch by batch, with few batches in memory at once; see `predict`.

        The last batch is padded with black images, so that the network is compiled only once. With
        `patches`, predictions include the patches.
        """
        errors.check_counts(batch_size=batch_size)
        compute = self._function(patches=patches)
        sources = _sources(images, self.image_shape[-1])
        count = len(sources) if isinstance(sources, Sized) else batch_size
        size = predictions.even_batch(count, batch_size, self.devices)
        read = reader.read_all(sources, self.about.preprocessing, prefetch=2 * size)
        rows, files, unread = [], [], []
        with contextlib.closing(read):
            for number, (image, result) in enumerate(read):
                interrupts.check()
                file = os.fspath(image) if _is_path(image) else str(number)
                if isinstance(result, errors.InputError):
                    unread.append(Unread(file, str(result)))
                    continue
                files.append(file)
                rows.append(result)
                if len(rows) == size:
                    yield self._part(compute, rows, files, unread, size)
                    rows, files, unread = [], [], []
        if rows or unread:
            yield self._part(compute, rows, files, unread, size)

    def _part(
        self,
        compute: Callable[[np.ndarray], dict[str, np.ndarray]],
        rows: list[np.ndarray],
        files: list[str],
        unread: list[Unread],
        size: int,
    ) -> Predictions:
        if not rows:
            return dataclasses.replace(self._joined([]), unread=tuple(unread))
        images = np.zeros((size, *self.image_shape), np.uint8)
        images[: len(rows)] = rows
        outputs = {name: value[: len(rows)] for name, value in compute(images).items()}
        logits = outputs.get("logits", np.zeros((len(rows), 0), np.float32))
        for name, values in outputs.items():
            finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
            if not finite.all():
                raise errors.InputError(
                    f"the {name} of '{self.name}' for image"
                    f" {errors.printable(files[int(np.argmin(finite))])} is not finite; check its"
                    " weights, which are damaged or too large"
                )
        embedding, patches = outputs.get("embedding"), outputs.get("patches")
        return Predictions(logits, embedding, tuple(files), self._names, tuple(unread), patches)

    def _joined(self, parts: Sequence[Predictions]) -> Predictions:
        full = [part for part in parts if len(part)]
        logits = np.zeros((0, self.num_classes), np.float32)
        embeddings = patches = None
        if full:
            logits = np.concatenate([part.logits for part in full])
        if full and full[0].embeddings is not None:
            embeddings = np.concatenate([part.embeddings for part in full])
        if full and full[0].patches is not None:
            patches = np.concatenate([part.patches for part in full])
        files, unread = (
            tuple(itertools.chain.from_iterable(getattr(part, name) for part in parts))
            for name in ("files", "unread")
        )
        return Predictions(logits, embeddings, files, self._names, unread, patches)

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(map(self.about.class_name, range(self.num_classes)))


def _checked(part: Predictions) -> Predictions:
    """Returns the predictions; raises an InputError if an image cannot be read."""
    if part.unread:
        file, reason = part.unread[0]
        image = file if os.path.lexists(file) else f"image {file}"
        raise errors.InputError(f"{errors.printable(image)} cannot be used: {reason}")
    return part


def _is_path(image: Any) -> bool:
    return isinstance(image, str | os.PathLike)


def _is_stack(images: Any, channels: int) -> bool:
    """Returns True for an array of several images, and False for an array of one image.

    Raises:
      InputError: the array may be three or four grayscale images, or one image with channels first.
    """
    if images.ndim != 3:
        return images.ndim == 4
    is_first, is_last = (images.shape[axis] in (1, 3, 4) for axis in (0, -1))
    if channels == 1 and is_first and not is_last and len(images) > 1:
        raise errors.InputError(
            f"images have the shape {tuple(images.shape)}, which may be {len(images)} grayscale"
            " images or one image with channels first; pass [N, H, W, 1] or [H, W, channels]"
        )
    return not (is_first or is_last)


def _sources(images: Any, channels: int) -> Iterable[Any]:
    """Returns an iterable of single images, as `reader.read_all` expects.

    Args:
      images: see `Predictor.predict`.
      channels: channels of the network's images.
    """
    example_forms.check_unmasked(images, "images")
    if _is_path(images):
        return file_listing.files([os.fspath(images)])
    if isinstance(images, bytes | bytearray | memoryview | PIL.Image.Image):
        return [images]
    if hasattr(images, "ndim") and hasattr(images, "__array__"):
        return np.asarray(images) if _is_stack(images, channels) else [images]
    if isinstance(images, list | tuple) and images and all(map(_is_path, images)):
        return file_listing.files(map(os.fspath, images))
    if isinstance(images, Iterable) and not isinstance(images, dict):
        return images
    raise errors.InputError(
        f"images are {example_forms.describe(images)}, but must be an array [N, H, W, channels], a"
        " list of images or of paths, or the path of a file or folder"
    )
