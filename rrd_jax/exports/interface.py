"""The interface of export formats: the network that they take, the options, and the reader."""

import dataclasses
import functools
import importlib
import importlib.metadata
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors, networks
from rrd_jax.cpu import compiling
from rrd_jax.data.augment import pipeline
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.evaluation import predictions
from rrd_jax.exports.library_output import silence
from rrd_jax.objectives import Objective
from rrd_jax.teacher import fold

# {"logits": [B, C], "embedding": [B, D]}, float32, without those that the network does not return.
Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Exportable:
    """A network with its weights.

    Attributes:
      network: for normalized images [B, H, W, channels].
      variables: {"params", "batch_stats"} as trained, and under "classifier" the state of an
        objective that classifies in the network's place.
      about: the network's description; its `preprocessing` is not None.
      terms: the objectives of the training run, if one of them classifies.
    """

    network: networks.Network
    variables: dict[str, Any]
    about: ModelInfo
    terms: Mapping[str, Objective] | None = None

    @functools.cached_property
    def folded(self) -> dict[str, Any]:
        """The variables with batch norms folded into convolutions, where the layers are ours."""
        bare = {name: self.variables[name] for name in ("params", "batch_stats")}
        shape = self.about.preprocessing.image_shape
        return {**self.variables, **fold.fold(self.network, bare, shape)}

    def apply(self, variables: dict[str, Any], images: jax.Array) -> dict[str, jax.Array]:
        """Computes `Outputs` from normalized images [B, H, W, channels]."""
        outputs = predictions.make_apply(self.network, self.terms)(variables, images)
        results = {}
        # Logits mean nothing for a custom network that was trained without labels.
        if not isinstance(outputs.logits, tuple) and self.about.num_classes:
            results["logits"] = outputs.logits.astype(jnp.float32)
        if not isinstance(outputs.embedding, tuple):
            results["embedding"] = outputs.embedding.astype(jnp.float32)
        return results

    def function(
        self, options: "Options | None" = None
    ) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """Returns images -> `Outputs`, closed over the weights.

        Images are normalized float32, or uint8 with the option embed_preprocessing.
        """
        options = options or Options()
        variables = self.folded if options.fold else self.variables
        normalize = self.normalize if options.embed_preprocessing else lambda images: images
        return lambda images: self.apply(variables, normalize(images))

    @property
    def normalize(self) -> Callable[[jax.Array], jax.Array]:
        """The normalization of uint8 images."""
        preprocessing = self.about.preprocessing
        return pipeline.make_normalize(preprocessing.mean, preprocessing.std)

    @functools.cached_property
    def _compiled(self) -> Callable:
        return compiling.jit(
            lambda variables, images: self.apply(variables, self.normalize(images))
        )

    def __call__(self, images: np.ndarray) -> Outputs:
        """Computes the reference outputs of uint8 images [B, H, W, channels] in JAX."""
        # By default, GPUs round the factors of matrix products.
        with jax.default_matmul_precision("highest"):
            return jax.device_get(self._compiled(self.variables, images))


# Names of weights, see `Options`.
NAMES = ("ours", "torch", "torchvision", "timm")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of formats; `Format.options` lists those that a format supports.

    Attributes:
      fold: whether to fold batch norms into the convolutions before them.
      embed_preprocessing: whether the file takes uint8 images and normalizes them itself.
      quantize: "int8" for weights of 8 bits, "" for float32.
      names: of weights: "ours"; those of "torchvision" or "timm"; or "torch" for the names of the
        library, or reference implementation, that has the network.
    """

    fold: bool = True
    embed_preprocessing: bool = False
    quantize: str = ""
    names: str = "ours"


class Runtime(Protocol):
    """An exported file, opened in the library that it is written for.

    Attributes:
      about: the network's description, as read from the file.
      runtime: name and version of the library, such as "onnxruntime 1.32.0".
    """

    about: ModelInfo
    runtime: str

    def __call__(self, images: np.ndarray) -> Outputs:
        """Computes `Outputs` from uint8 images [B, H, W, channels] of the network's size, any B."""


class Format(NamedTuple):
    """An export format.

    Attributes:
      name: as in --format.
      extension: of its files, such as ".onnx"; "" for a folder.
      extra: of this package that installs its libraries, as in `rrd_jax[onnx]`; "" for none.
      modules: that it imports and the extra installs.
      options: the fields of Options that it supports.
      write: (network, path, options) -> None. The path does not exist yet, its folder does.
      open: (path, threads) -> Runtime, with threads 0 for all cores; None if no library on this
        platform runs the file.
      recognizes: path -> whether it is of this format, by name and content, without loading it.
      check: for a format without `open`: (network, path) -> None, raises an InputError for a file
        that does not match the network.
    """

    name: str
    extension: str
    extra: str
    modules: tuple[str, ...]
    options: tuple[str, ...]
    write: Callable[[Exportable, pathlib.Path, Options], None]
    open: Callable[[pathlib.Path, int], Runtime] | None
    recognizes: Callable[[pathlib.Path], bool]
    check: Callable[[Exportable, pathlib.Path], None] | None = None


def require(name: str, extra: str, modules: tuple[str, ...]) -> None:
    """Raises an UnavailableError if a library is not installed.

    Args:
      name: of the format.
      extra: of this package that installs the libraries.
      modules: to import.
    """
    for module in modules:
        try:
            with silence():
                importlib.import_module(module)
        except ImportError as error:
            raise errors.UnavailableError(
                f"format '{name}' needs {module}, which cannot be imported ({error}): run `pip"
                f" install 'rrd_jax[{extra}]'`"
            ) from error


def version_of(*distributions: str) -> str:
    """Returns names and versions of libraries, for `Runtime.runtime`."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in distributions)


def normalized(about: ModelInfo, images: np.ndarray) -> np.ndarray:
    """Computes float32 (x / 255 - mean) / std of uint8 images [B, H, W, channels] in NumPy."""
    preprocessing = about.preprocessing
    mean, std = (np.asarray(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
    return (images.astype(np.float32) / np.float32(255) - mean) / std


def in_batches_or_singly(
    run: Callable[[np.ndarray], Outputs], images: np.ndarray, *, any_batch: bool
) -> Outputs:
    """Runs a file on images, one by one if the file takes a single image only."""
    if any_batch:
        return run(images)
    results = [run(images[i : i + 1]) for i in range(len(images))]
    return {name: np.concatenate([y[name] for y in results]) for name in results[0]}
