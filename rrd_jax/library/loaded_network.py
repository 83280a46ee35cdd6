"""Networks with their weights, and the result of training."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import data, errors, exports, parallel
from rrd_jax.cpu import compiling
from rrd_jax.data.augment import pipeline
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.data.source import Source
from rrd_jax.evaluation import predictions
from rrd_jax.exports import Exportable, interface, sample_images
from rrd_jax.jobs.progress import Result
from rrd_jax.library.predictor import Predictions, Predictor
from rrd_jax.networks import Network, Outputs
from rrd_jax.objectives import Objective


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A network with its weights.

    Attributes:
      network: its init and apply functions.
      variables: its weights {"params", "batch_stats"}, and under "classifier" the state of an
        objective whose classifier replaces the network's.
      name: as in a config.
      num_classes: C.
      image_shape: (H, W, channels) of its training images; None if unknown.
      mean: of each channel, in [0, 1] units; None if unknown.
      std: likewise.
      terms: the objectives of its training, if one of them replaces the classifier.
      about: class names, preprocessing and origin.
      source: the data source of its run; None if unknown.
    """

    network: Network
    variables: dict[str, Any] = dataclasses.field(repr=False)
    name: str
    num_classes: int
    image_shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    terms: Mapping[str, Objective] | None = None
    about: ModelInfo | None = dataclasses.field(default=None, repr=False)
    source: Source | None = dataclasses.field(default=None, repr=False)

    def __call__(self, images: Any) -> Outputs:
        """Returns the outputs for images [B, H, W, channels].

        Args:
          images: uint8, or floats that are already normalized.

        Raises:
          InputError: the images are uint8 and the normalization is unknown, or they have another
            type or shape than the network takes.
        """
        images = self._as_array(images)
        if images.dtype == jnp.uint8:
            images = self.normalize(images)
        return self._apply(self.variables, images)

    def _as_array(self, images: Any) -> jax.Array:
        try:
            array = jnp.asarray(images)
        except (TypeError, ValueError) as error:
            raise errors.InputError(
                f"images are of type {type(images).__name__}, but must be an array"
            ) from error
        channels = self.image_shape[-1] if self.image_shape else None
        fits = array.ndim == 4 and channels in (None, array.shape[-1])
        if not fits or not (array.dtype == jnp.uint8 or jnp.issubdtype(array.dtype, jnp.floating)):
            raise errors.InputError(
                f"images are {array.dtype} of shape {array.shape}, but '{self.name}' takes uint8,"
                f" or normalized floats, [B, H, W, {channels or 'channels'}]"
            )
        return array

    @property
    def normalize(self) -> Callable[[jax.Array], jax.Array]:
        """Returns the function that normalizes uint8 images.

        Raises:
          InputError: mean and std are unknown.
        """
        if self.mean is None or self.std is None:
            raise errors.InputError(
                f"mean and std of '{self.name}' are unknown: pass normalized floats, or mean and"
                " std to rrd_jax.load"
            )
        return pipeline.make_normalize(self.mean, self.std)

    def predict(
        self, images: Any, *, batch_size: int = 64, skip_unread: bool = False
    ) -> Predictions:
        """Predicts the classes of images of any size: arrays, PIL images, files, a folder.

        See `Predictor.predict`.
        """
        return self.predictor.predict(images, batch_size=batch_size, skip_unread=skip_unread)

    def embed(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        """Returns the embeddings, [N, D] float32; takes images as `predict` does."""
        return self.predictor.embed(images, batch_size=batch_size)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The predictor behind `predict` and `embed`, with its weights on all devices.

        Raises:
          InputError: the preprocessing of images is unknown.
        """
        if self.about is None or self.about.preprocessing is None:
            known = {"mean": self.mean, "std": self.std, "image_size": self.image_shape}
            missing = [name for name, value in known.items() if value is None]
            raise errors.InputError(
                f"the preprocessing of images for '{self.name}' is unknown: pass"
                f" {', '.join(missing)} (to rrd_jax.load, or as flags)"
            )
        mesh = parallel.make_mesh()
        variables = parallel.put(parallel.replicated(mesh), self.variables)
        exportable = Exportable(self.network, variables, self.about, self.terms)

        def compute(images: np.ndarray) -> dict[str, np.ndarray]:
            return exportable(parallel.put_batch(mesh, {"image": images})["image"])

        return Predictor(compute, self.about, interface.version_of("jax"), mesh.size)

    def export(
        self,
        path: str | pathlib.Path,
        format: str = "",
        *,
        test: Any = None,
        overwrite: bool = False,
        **options: Any,
    ) -> exports.Written:
        """Exports the network to a file, reads it back in the library of the format, and compares.

        Args:
          path: of the file or folder.
          format: one of `exports.FORMATS`; "" for the format of the path's ending.
          test: images to compare on: a folder, uint8 images of the network's size, or a pair of
            these and labels; None for 500 images of the run's test split.
          overwrite: whether to replace an earlier export.
          **options: fields of `exports.Options`.

        Raises:
          InputError: the format cannot hold this network, or the file computes other outputs.
          UnavailableError: the library of the format is not installed.
        """
        path = pathlib.Path(path)
        form = exports.get_format(format) if format else exports.format_for_extension(path)
        about = self.about or ModelInfo(self.name, self.num_classes)
        network = exports.make_exportable(self.network, self.variables, about, self.terms)
        images = sample_images.load(about, self.source, test, 500)
        tried = exports.Trial(network, images)
        return exports.write(tried, form, path, exports.make_options(options), overwrite=overwrite)

    @functools.cached_property
    def _apply(self) -> Callable[[Any, jax.Array], Outputs]:
        return compiling.jit(predictions.make_apply(self.network, self.terms))


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The result of a finished job.

    Attributes:
      network: the student, or the teacher of `train_teacher`.
      results: of all runs of the job, that of `network` last.
      workdir: of the job.
      dataset: the images passed to the call; None for the data of the config.
    """

    network: Loaded
    results: list[Result]
    workdir: pathlib.Path
    dataset: data.Dataset | None = dataclasses.field(default=None, repr=False)

    @property
    def metrics(self) -> dict[str, Any]:
        """The results of the network: `top1`, `best_top1`, `agreement` in percent, and others."""
        return self.results[-1].to_json()

    @property
    def variables(self) -> dict[str, Any]:
        """The weights of the network."""
        return self.network.variables
