"""Networks with their weights, and the result of training."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import data, errors, exports, parallel, user_paths
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
      network: the network, with functions init and apply.
      variables: the weights {"params", "batch_stats"}, and under "classifier" the state of an
        objective whose classifier replaces the network's.
      name: name of the network, as in a config.
      num_classes: C.
      image_shape: (H, W, channels) of the training images; None if unknown.
      mean: mean per channel, in [0, 1] units; None if unknown.
      std: standard deviation per channel, in the same units; None if unknown.
      terms: the training objectives, if one of them replaces the classifier; else None.
      about: class names, preprocessing and origin.
      source: the data source of the run; None if unknown.
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
          InputError: the images are uint8 and the normalization is unknown, or their type or shape
            does not match the network.
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
        fits = array.ndim == 4 and array.size and channels in (None, array.shape[-1])
        if not fits or not (array.dtype == jnp.uint8 or jnp.issubdtype(array.dtype, jnp.floating)):
            raise errors.InputError(
                f"images are {array.dtype} of shape {array.shape}, but must be uint8 or normalized"
                f" floats [B, H, W, {channels or 'channels'}] for '{self.name}', with B above 0"
            )
        return array

    @property
    def normalize(self) -> Callable[[jax.Array], jax.Array]:
        """A function that normalizes uint8 images.

        Raises:
          InputError: mean and std are unknown.
        """
        if self.mean is None or self.std is None:
            raise errors.InputError(
                f"mean and std of '{self.name}' are unknown; pass normalized floats, or mean and"
                " std to rrd_jax.load"
            )
        return pipeline.make_normalize(self.mean, self.std)

    def predict(
        self, images: Any, *, batch_size: int = 64, skip_unread: bool = False
    ) -> Predictions:
        """Predicts the classes of images of any size; see `Predictor.predict`."""
        return self.predictor.predict(images, batch_size=batch_size, skip_unread=skip_unread)

    def embed(
        self, images: Any, *, batch_size: int = 64, features: str = "embedding"
    ) -> np.ndarray:
        """Returns embeddings [N, D] or patches [N, h, w, D], float32; see `Predictor.embed`."""
        return self.predictor.embed(images, batch_size=batch_size, features=features)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The predictor behind `predict` and `embed`, with its weights on all devices.

        Raises:
          InputError: the preprocessing of images is unknown.
        """
        if self.about is None or self.about.preprocessing is None:
            settings = {"mean": self.mean, "std": self.std, "image_size": self.image_shape}
            missing = [name for name, value in settings.items() if value is None]
            raise errors.InputError(
                f"the preprocessing of images for '{self.name}' is unknown; pass"
                f" {', '.join(missing)} (to rrd_jax.load, or as flags)"
            )
        mesh = parallel.make_mesh()
        variables = parallel.put(parallel.replicated(mesh), self.variables)
        exportable = Exportable(self.network, variables, self.about, self.terms)

        def compute(images: np.ndarray, *, patches: bool = False) -> dict[str, np.ndarray]:
            images = parallel.put_batch(mesh, {"image": images})["image"]
            return exportable(images, patches=patches)

        return Predictor(
            compute,
            self.about,
            interface.version_of("jax"),
            mesh.size,
            functools.partial(compute, patches=True),
        )

    def export(
        self,
        path: str | pathlib.Path,
        format: str = "",
        *,
        test: Any = None,
        overwrite: bool = False,
        backbone: bool = False,
        **options: Any,
    ) -> exports.Written:
        """Exports the network to a file, and compares its outputs with those of the network.

        Args:
          path: path of the file or folder to write.
          format: one of `exports.FORMATS`; "" to infer it from the file extension.
          test: images for the comparison: a folder, uint8 images of the network's size, or a pair
            (images, labels); None for 500 images of the run's test split.
          overwrite: whether to replace an earlier export.
          backbone: whether to export the network without its classifier, with its feature maps.
          **options: fields of `exports.Options`.

        Raises:
          InputError: the format cannot represent the network, or the outputs differ.
          UnavailableError: the library of the format is not installed.
        """
        path = user_paths.parse(path, "path")
        fmt = exports.get_format(format) if format else exports.format_for_extension(path)
        about = self.about or ModelInfo(self.name, self.num_classes)
        choices = exports.make_options(options)
        exports.check_push(choices)
        network = exports.make_exportable(self.network, self.variables, about, self.terms)
        if backbone:
            network = exports.make_backbone(network)
        images = sample_images.load(network.about, self.source, test, network.max_images(500))
        trial = exports.Trial(network, images)
        return exports.write(trial, fmt, path, choices, overwrite=overwrite)

    @functools.cached_property
    def _apply(self) -> Callable[[Any, jax.Array], Outputs]:
        return compiling.jit(predictions.make_apply(self.network, self.terms))


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The result of a finished job.

    Attributes:
      network: the student, or the teacher of `train_teacher`.
      results: the results of all runs of the job; that of `network` is the last.
      workdir: the folder of the job.
      dataset: the images passed to the call; None for the data of the config.
    """

    network: Loaded
    results: list[Result]
    workdir: pathlib.Path
    dataset: data.Dataset | None = dataclasses.field(default=None, repr=False)

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the network, such as `top1`, `best_top1` and `agreement` in percent."""
        return self.results[-1].to_json()

    @property
    def variables(self) -> dict[str, Any]:
        """The weights of the network."""
        return self.network.variables
