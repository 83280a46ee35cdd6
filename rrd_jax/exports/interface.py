"""The interface of export formats: the exported network, the options and the reader."""

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
from rrd_jax.teacher import fold, wrappers

# {"logits": [B, C], "embedding": [B, D]}, float32; outputs that the network lacks are omitted. A
# backbone also has "stage2" to "stage5" and "patches", [B, h, w, channels]; a network with the
# heads of several teachers has the vectors [B, D] of each, and as a backbone the patches of each.
Outputs = dict[str, np.ndarray]
_BACKBONE_IMAGES = 32
# The stages of a backbone by their stride in pixels.
_STAGES = {4: "stage2", 8: "stage3", 16: "stage4", 32: "stage5"}


@dataclasses.dataclass(frozen=True, eq=False)
class Exportable:
    """A network with its weights.

    Attributes:
      network: the network, for normalized images [B, H, W, channels].
      variables: {"params", "batch_stats"} as trained; "classifier" holds the state of an objective
        that replaces the network's classifier.
      about: the network's description; its `preprocessing` is not None.
      terms: the objectives of the training run, if one of these replaces the classifier.
      is_backbone: whether the outputs include those of `stages`, see `backbone.make_backbone`.
    """

    network: networks.Network
    variables: dict[str, Any]
    about: ModelInfo
    terms: Mapping[str, Objective] | None = None
    is_backbone: bool = False

    def max_images(self, count: int) -> int:
        """Returns the number of images for the verification, of at most `count`.

        Feature maps of many images do not fit into memory.
        """
        return min(count, _BACKBONE_IMAGES) if self.is_backbone else count

    @functools.cached_property
    def folded(self) -> dict[str, Any]:
        """The variables, with the batch norms of rrd_jax's layers folded into convolutions."""
        network_variables = {name: self.variables[name] for name in ("params", "batch_stats")}
        shape = self.about.preprocessing.image_shape
        return {**self.variables, **fold.fold(self.network, network_variables, shape)}

    def apply(
        self, variables: dict[str, Any], images: jax.Array, *, patches: bool = False
    ) -> dict[str, jax.Array]:
        """Computes `Outputs` from normalized images [B, H, W, channels].

        Args:
          variables: the variables, or the folded ones.
          images: the images.
          patches: whether to add the "patches" [B, h, w, D].

        Raises:
          InputError: the network returns no patches.
        """
        outputs = predictions.make_apply(self.network, self.terms)(variables, images)
        results = {}
        # The logits of a custom network that was trained without labels are meaningless.
        if not isinstance(outputs.logits, tuple) and self.about.num_classes:
            results["logits"] = outputs.logits.astype(jnp.float32)
        if not isinstance(outputs.embedding, tuple):
            results["embedding"] = outputs.embedding.astype(jnp.float32)
        if isinstance(self.network, wrappers.WithHeads):
            read = outputs if patches or self.is_backbone else outputs._replace(patches=None)
            results |= self.network.further(variables, read)
        if self.is_backbone:
            maps = stages(outputs, images.shape[1])
            results |= {name: x.astype(jnp.float32) for name, x in maps.items()}
        elif patches:
            if outputs.patches is None:
                raise errors.InputError(without_patches(self.about.model))
            results["patches"] = outputs.patches.astype(jnp.float32)
        return results

    def function(
        self, options: "Options | None" = None
    ) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """Returns the function images -> `Outputs`, closed over the weights.

        Images are normalized float32, or uint8 with the option `embed_preprocessing`.
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
    def _compiled(self) -> dict[bool, Callable]:
        def compute(variables, images, *, patches):
            return self.apply(variables, self.normalize(images), patches=patches)

        return {
            patches: compiling.jit(functools.partial(compute, patches=patches))
            for patches in (False, True)
        }

    def __call__(self, images: np.ndarray, *, patches: bool = False) -> Outputs:
        """Computes reference outputs of uint8 images [B, H, W, channels] in JAX, see `apply`."""
        # By default, GPUs compute matrix products with reduced precision.
        with jax.default_matmul_precision("highest"):
            return jax.device_get(self._compiled[patches](self.variables, images))


def stages(outputs: networks.Outputs, side: int) -> dict[str, jax.Array]:
    """Returns the feature maps of a backbone by name.

    Args:
      outputs: the outputs of the network.
      side: height of the images in pixels.

    Returns:
      "stage2" to "stage5", the last map with stride 4, 8, 16 and 32, and "patches", each [B, h, w,
      channels]; without the stages and patches that the network lacks.
    """
    maps = {
        _STAGES[stride]: x
        for x in outputs.maps
        for stride in _STAGES
        if x.ndim == 4 and side == stride * x.shape[1]
    }
    return maps | ({} if outputs.patches is None else {"patches": outputs.patches})


def rounded_sides(outputs: networks.Outputs, side: int) -> list[int]:
    """Returns the sides of feature maps that `stages` omits because their stride is not whole."""
    sides = {x.shape[1] for x in outputs.maps if x.ndim == 4}
    return sorted(n for n in sides if side % n and any(n == -(-side // s) for s in _STAGES))


def without_patches(name: str) -> str:
    """Returns the message for a network, of this name, that returns no patches."""
    return (
        f"'{name}' has no patches; use a run or weights of a single network that returns patches"
        " [B, h, w, D] in its Outputs, not an exported file"
    )


# Naming schemes of weights, see `Options`.
NAMES = ("ours", "torch", "torchvision", "timm")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of formats; `Format.options` lists the options that a format supports.

    Attributes:
      fold: True to fold batch norms into the preceding convolutions.
      embed_preprocessing: True for a file that takes uint8 images and includes the normalization.
      quantize: "int8" for 8-bit weights, "" for float32.
      names: names of the weights: "ours" for rrd_jax's, "torchvision" or "timm" for a library's, or
        "torch" for the names of the library or reference implementation that has the network.
      license: license in the model card of a folder for model hubs, such as "apache-2.0"; "" for
        none.
      push: repository ORG/NAME of the Hugging Face Hub that receives the folder; "" for none.
      private: True to create that repository as a private one.
    """

    fold: bool = True
    embed_preprocessing: bool = False
    quantize: str = ""
    names: str = "ours"
    license: str = ""
    push: str = ""
    private: bool = False


class Runtime(Protocol):
    """An exported file, opened in the library that runs its format.

    Attributes:
      about: the network's description, read from the file.
      runtime: name and version of the library, such as "onnxruntime 1.32.0".
    """

    about: ModelInfo
    runtime: str

    def __call__(self, images: np.ndarray) -> Outputs:
        """Computes `Outputs` from uint8 images [B, H, W, channels] of the network's size.

        The number of images B is arbitrary.
        """


class Format(NamedTuple):
    """An export format.

    Attributes:
      name: value of --format.
      extension: file extension, such as ".onnx"; "" for a folder.
      extra: the extra of this package that installs the libraries, as in `rrd_jax[onnx]`; "" if no
        extra is necessary.
      modules: modules that the format imports and the extra installs.
      options: the fields of `Options` that the format supports.
      write: (network, path, options) -> None. The path does not exist yet, its folder does.
      open: (path, threads) -> Runtime, with threads 0 for all cores; None if no library on this
        platform runs the format.
      recognizes: path -> True if the path has this format, by name and content, without loading it.
      check: (network, path) -> None, for a format without `open`; raises an InputError for a file
        that does not match the network.
      backbones: whether the format supports backbones, see `Exportable.is_backbone`.
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
    backbones: bool = False


def require(name: str, extra: str, modules: tuple[str, ...]) -> None:
    """Imports modules; raises an UnavailableError if a module is not installed.

    Args:
      name: name of the format, for the error message.
      extra: the extra of this package that installs the modules.
      modules: the modules to import.
    """
    for module in modules:
        try:
            with silence():
                importlib.import_module(module)
        except ImportError as error:
            raise errors.UnavailableError(
                f"format '{name}' needs {module}, which cannot be imported ({error}); run `pip"
                f" install 'rrd_jax[{extra}]'`"
            ) from error


def version_of(*distributions: str) -> str:
    """Returns the names and versions of distributions, for `Runtime.runtime`."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in distributions)


def normalized(about: ModelInfo, images: np.ndarray) -> np.ndarray:
    """Computes (x / 255 - mean) / std in float32 for uint8 images [B, H, W, channels], in NumPy."""
    preprocessing = about.preprocessing
    mean, std = (np.asarray(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
    return (images.astype(np.float32) / np.float32(255) - mean) / std


def run_batched_or_singly(
    run: Callable[[np.ndarray], Outputs], images: np.ndarray, *, any_batch: bool
) -> Outputs:
    """Runs a file on a batch, or on one image after the other if `any_batch` is False."""
    if any_batch:
        return run(images)
    results = [run(images[i : i + 1]) for i in range(len(images))]
    return {name: np.concatenate([y[name] for y in results]) for name in results[0]}
