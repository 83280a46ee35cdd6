"""What a format is, what goes into a file of it, and what comes out of one."""

import dataclasses
import functools
import importlib
import importlib.metadata
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors, networks
from rrd_jax.cpu import compiling
from rrd_jax.data import model_info as abouts
from rrd_jax.data.augment import pipeline
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.evaluation import predictions
from rrd_jax.exports.silence import silence
from rrd_jax.objectives import Objective
from rrd_jax.run_folder import readme, report
from rrd_jax.teacher import fold

# By name: {"logits": [B, C], "embedding": [B, D]}, float32; without what a network has not.
Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Exportable:
    """A network with its weights, on its way out.

    Attributes:
      network: for images [B, H, W, channels] that are normalised.
      variables: {"params", "batch_stats"} as they were trained, and under "classifier" the state of
        an objective that classifies in the network's place.
      about: what is known of it; its `preprocessing` is.
      terms: the objectives it was trained with, if one of them classifies.
    """

    network: networks.Network
    variables: dict[str, Any]
    about: ModelInfo
    terms: Mapping[str, Objective] | None = None

    @functools.cached_property
    def folded(self) -> dict[str, Any]:
        """The variables with batch norms folded into convolutions, where layers are ours."""
        bare = {name: self.variables[name] for name in ("params", "batch_stats")}
        shape = self.about.preprocessing.image_shape
        return {**self.variables, **fold.fold(self.network, bare, shape)}

    def apply(self, variables: dict[str, Any], images: jax.Array) -> dict[str, jax.Array]:
        """What the network computes from normalised images [B, H, W, channels], as `Outputs`."""
        outputs = predictions.make_apply(self.network, self.terms)(variables, images)
        results = {}
        # Not those of a backbone alone, nor of a user's network that was trained without labels.
        if not isinstance(outputs.logits, tuple) and self.about.num_classes:
            results["logits"] = outputs.logits.astype(jnp.float32)
        if not isinstance(outputs.embedding, tuple):  # a network that reports one
            results["embedding"] = outputs.embedding.astype(jnp.float32)
        return results

    def function(
        self, options: "Options | None" = None
    ) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """images -> `Outputs`, with the weights inside; uint8 images where the options say so."""
        options = options or Options()
        variables = self.folded if options.fold else self.variables
        normalize = self.normalize if options.embed_preprocessing else lambda images: images
        return lambda images: self.apply(variables, normalize(images))

    @property
    def normalize(self) -> Callable[[jax.Array], jax.Array]:
        """uint8 images to what the network sees."""
        wanted = self.about.preprocessing
        return pipeline.make_normalize(wanted.mean, wanted.std)

    @functools.cached_property
    def _compiled(self) -> Callable:
        return compiling.jit(
            lambda variables, images: self.apply(variables, self.normalize(images))
        )

    def __call__(self, images: np.ndarray) -> Outputs:
        """What the network computes here from uint8 images [B, H, W, channels]."""
        with jax.default_matmul_precision("highest"):  # GPUs would round the factors
            return jax.device_get(self._compiled(self.variables, images))


# Of weights, see `Options`.
NAMES = ("ours", "torch", "torchvision", "timm")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a file is written; a format knows some of these, see `Format.options`.

    Attributes:
      fold: whether batch norms become part of the convolutions before them.
      embed_preprocessing: whether the file takes uint8 images and normalises them itself.
      quantize: "int8" for weights of 8 bits, "" for float32.
      names: of weights: "ours", or those of "torchvision", of "timm", or "torch" of the library, or
        the reference, that has the network by its name.
    """

    fold: bool = True
    embed_preprocessing: bool = False
    quantize: str = ""
    names: str = "ours"


class Runtime(Protocol):
    """An exported file, opened in the library that it is for.

    Attributes:
      about: of the network, as the file says it.
      runtime: name and version of the library, such as "onnxruntime 1.32.0".
    """

    about: ModelInfo
    runtime: str

    def __call__(self, images: np.ndarray) -> Outputs:
        """What it computes from uint8 images [B, H, W, channels] of the network's size, any B."""


class Format(NamedTuple):
    """A way out.

    Attributes:
      name: as --format has it.
      extension: of its file, such as ".onnx"; "" for a folder.
      extra: what of this package is installed with it, as in `rrd_jax[onnx]`; "" for none.
      modules: that it imports, which the extra brings.
      options: the fields of Options that it knows.
      write: (network, path, options) -> None; the path is not there yet, and its folder is.
      open: (path, threads) -> Runtime; threads 0 for all. None where nothing here can run it.
      recognizes: whether a path is of this format, by name and content; opens nothing costly.
      check: of a format that nothing here can run: raises an InputError for a file that is not
        what was to be written.
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
    """Raises an UnavailableError for libraries that are not installed.

    Args:
      name: of the format.
      extra: of this package, that brings them.
      modules: to be imported.
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
    """Names and versions of libraries, for `Runtime.runtime`."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in distributions)


def normalized(about: ModelInfo, images: np.ndarray) -> np.ndarray:
    """float32 (x / 255 - mean) / std of uint8 images [B, H, W, channels], without JAX."""
    wanted = about.preprocessing
    mean, std = (np.asarray(values, np.float32) for values in (wanted.mean, wanted.std))
    return (images.astype(np.float32) / np.float32(255) - mean) / std


class Header(NamedTuple):
    """What a file says of itself, in it or beside it.

    Attributes:
      about: of the network.
      format: name.
      layout: of images: "NHWC" or "NCHW".
      takes: "uint8" images, or "float32" ones that are normalised.
      outputs: names of what it computes, in its order.
    """

    about: ModelInfo
    format: str
    layout: str
    takes: str
    outputs: tuple[str, ...]


def header_to_json(header: Header) -> str:
    """JSON text that `header_from_json` reads."""
    return json.dumps(
        {
            "made_by": version_of("rrd_jax"),
            "format": header.format,
            "input": {"layout": header.layout, "type": header.takes},
            "outputs": list(header.outputs),
            "about": readme.public(header.about).to_json(),
        }
    )


def header_from_json(text: str, where: str) -> Header:
    """The Header of such text; raises an InputError for anything else."""
    try:
        content = json.loads(text)
        image = content["input"]
        about = abouts.from_json(content["about"], where)
        if about.preprocessing is None or image["layout"] not in ("NHWC", "NCHW"):
            raise ValueError("it does not say what images it takes")
        return Header(
            about, content["format"], image["layout"], image["type"], tuple(content["outputs"])
        )
    except errors.InputError:
        raise
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise errors.InputError(f"what {where} says of itself is damaged ({error})") from error


def beside(path: pathlib.Path) -> pathlib.Path:
    """The file beside an exported one that has its Header, where its format has no place for it."""
    return path.with_name(f"{path.name}.json")


def write_header(path: pathlib.Path, header: Header) -> None:
    """Writes the Header beside an exported file."""
    report.write_whole(beside(path), header_to_json(header) + "\n")


def read_header(path: pathlib.Path) -> Header:
    """The Header beside an exported file; raises an InputError where there is none."""
    try:
        text = beside(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InputError(
            f"{path} says nothing of its classes and images: {beside(path)}, which was written"
            f" beside it, cannot be read ({getattr(error, 'strerror', None) or error}); copy both"
        ) from error
    return header_from_json(text, str(beside(path)))
