"""Networks with their weights, as programs hold them."""

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
from rrd_jax.exports import Exportable, base, trial
from rrd_jax.jobs.progress import Result
from rrd_jax.library.predicting import Predictions, Predictor
from rrd_jax.networks import Network, Outputs
from rrd_jax.objectives import Objective


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A network with its weights.

    Attributes:
      network: its functions.
      variables: its weights {"params", "batch_stats"}, and under "classifier" the state of an
        objective that classifies in its place.
      name: what a config calls it.
      num_classes: C.
      image_shape: (H, W, channels) that it was trained on; None where that is not known.
      mean: of each channel, in [0, 1] units; None where that is not known.
      std: likewise.
      terms: the objectives it was trained with, if one of them classifies in its place.
      about: class names, how images become what it sees, and where it comes from.
      source: the images of its run; None where these are not known.
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
        """What it computes from images [B, H, W, channels].

        Args:
          images: uint8, as stored, or floats that are normalised already.

        Raises:
          InputError: uint8 images, where it is not known how they are normalised; or no images that
            the network takes.
        """
        images = self._checked(images)
        if images.dtype == jnp.uint8:
            images = self.normalize(images)
        return self._apply(self.variables, images)

    def _checked(self, images: Any) -> jax.Array:
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
                f" or floats that are normalised, [B, H, W, {channels or 'channels'}]"
            )
        return array

    @property
    def normalize(self) -> Callable[[jax.Array], jax.Array]:
        """What makes uint8 images what the network sees.

        Raises:
          InputError: mean and std are not known.
        """
        if self.mean is None or self.std is None:
            raise errors.InputError(
                f"it is not known how images for '{self.name}' are normalised: pass floats, or give"
                " mean and std to rrd_jax.load"
            )
        return pipeline.make_normalize(self.mean, self.std)

    def predict(
        self, images: Any, *, batch_size: int = 64, skip_unread: bool = False
    ) -> Predictions:
        """Classes of images of any size: arrays, PIL images, files, a folder.

        See `Predictor.predict`.
        """
        return self.predictor.predict(images, batch_size=batch_size, skip_unread=skip_unread)

    def embed(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        """Embeddings [N, D] float32 of images, as `predict` takes them."""
        return self.predictor.embed(images, batch_size=batch_size)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """What `predict` and `embed` ask; it has its weights on all devices.

        Raises:
          InputError: it is not known what images it takes.
        """
        if self.about is None or self.about.preprocessing is None:
            known = {"mean": self.mean, "std": self.std, "image_size": self.image_shape}
            missing = [name for name, value in known.items() if value is None]
            raise errors.InputError(
                f"it is not known how images for '{self.name}' are scaled and normalised: pass"
                f" {', '.join(missing)} (to rrd_jax.load, or as flags)"
            )
        mesh = parallel.make_mesh()
        variables = parallel.put(parallel.replicated(mesh), self.variables)
        whole = Exportable(self.network, variables, self.about, self.terms)

        def compute(images: np.ndarray) -> dict[str, np.ndarray]:
            return whole(parallel.put_batch(mesh, {"image": images})["image"])

        return Predictor(compute, self.about, base.version_of("jax"), mesh.size)

    def export(
        self,
        path: str | pathlib.Path,
        format: str = "",
        *,
        test: Any = None,
        overwrite: bool = False,
        **options: Any,
    ) -> exports.Written:
        """Writes a file for other programs, reads it back there, and compares.

        Args:
          path: of the file, whose ending says the format where none is named; or of a folder.
          format: one of `exports.FORMATS`; "" for what the path says.
          test: images to compare on: a folder, uint8 images as the network sees them, or a pair of
            these and labels; None for 500 of the run's test split.
          overwrite: whether what was written there before is replaced.
          **options: fields of `exports.Options`.

        Raises:
          InputError: the format cannot hold this network, or the file computes something else.
          UnavailableError: a library that the format needs is not installed.
        """
        path = pathlib.Path(path)
        form = exports.get(format) if format else exports.of_extension(path)
        about = self.about or ModelInfo(self.name, self.num_classes)
        network = exports.exportable(self.network, self.variables, about, self.terms)
        images = trial.images_for(about, self.source, test, 500)
        asked = exports.options_of(**options)
        return exports.write(exports.Trial(network, images), form, path, asked, overwrite=overwrite)

    @functools.cached_property
    def _apply(self) -> Callable[[Any, jax.Array], Outputs]:
        return compiling.jit(predictions.make_apply(self.network, self.terms))


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A finished job.

    Attributes:
      network: the student, or the network that was trained alone.
      results: of every run of the job, the network's last.
      workdir: where its checkpoints and figures are.
      dataset: what it was trained and tested on, if that was given; None for the config's.
    """

    network: Loaded
    results: list[Result]
    workdir: pathlib.Path
    dataset: data.Dataset | None = dataclasses.field(default=None, repr=False)

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures of the network: `top1`, `best_top1`, `agreement` in per cent, and others."""
        return self.results[-1].to_json()

    @property
    def variables(self) -> dict[str, Any]:
        """The weights of the network."""
        return self.network.variables
