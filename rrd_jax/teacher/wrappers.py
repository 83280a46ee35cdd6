"""Wrappers that add preprocessing, a classifier or a projection to a frozen network.

A wrapper has the interface of a network and is not trainable. Its variables are the variables of
the inner network; wrappers that compute logits or embeddings add one parameter.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import Network, Outputs
from rrd_jax.objectives.parts import projections
from rrd_jax.objectives.parts.arithmetic import unit_rows

# Names of the added parameters.
PROBE, VECTORS, HEADS = "probe", "class_vectors", "heads"


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """A network with the behavior of its inner network; base class of all wrappers.

    Attributes:
      network: the inner network.
    """

    network: Network

    @property
    def dtype(self) -> Any:
        """The dtype that the network computes in."""
        return self.network.dtype

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Initializes the variables, see `Network.init`."""
        return self.network.init(key, images, train=train)

    def init_with_output(self, key: jax.Array, images: jax.Array) -> tuple[Outputs, dict[str, Any]]:
        """Initializes the variables, and returns (outputs for the images, variables)."""
        variables = self.init(key, images)
        return self.apply(variables, images), variables

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, *, train: bool = False
    ) -> Outputs:
        """Implements `Network.apply`, for evaluation only."""
        return self.network.apply(variables, images, train=train)

    def _apply_inner(
        self, name: str, variables: Mapping[str, Any], images: jax.Array, *, train: bool
    ) -> tuple[Outputs, Any]:
        """Returns the outputs of the inner network, and the parameter that the wrapper adds."""
        params = dict(variables["params"])
        entry = params.pop(name)
        return self.network.apply({**variables, "params": params}, images, train=train), entry


@dataclasses.dataclass(frozen=True)
class Preprocessed(Wrapper):
    """A network with its own image size and normalization.

    A different mean and standard deviation are equivalent to a factor and a shift per channel.
    These commute with resampling, because resampling weights sum to 1.

    Attributes:
      image_size: height and width of the inner network's images.
      factor: factor per channel of the input images.
      shift: shift per channel, added after the multiplication.
      interpolation: "bilinear" or "bicubic" with antialiasing, if the size differs.
    """

    image_size: int
    factor: tuple[float, ...]
    shift: tuple[float, ...]
    interpolation: str

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Initializes the variables, see `Network.init`."""
        return self.network.init(key, self.preprocess(images), train=train)

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, *, train: bool = False
    ) -> Outputs:
        """Implements `Network.apply`, for evaluation only."""
        return self.network.apply(variables, self.preprocess(images), train=train)

    def preprocess(self, images: jax.Array) -> jax.Array:
        """Converts images [B, H, W, channels] to images of the inner network."""
        shape = (images.shape[0], self.image_size, self.image_size, images.shape[-1])
        if images.shape != shape:
            images = jax.image.resize(images, shape, self.interpolation, antialias=True)
        return functional.affine(images, jnp.asarray(self.factor), jnp.asarray(self.shift))


@dataclasses.dataclass(frozen=True)
class Probed(Wrapper):
    """A network whose classifier is replaced by a linear classifier on its embedding.

    Attributes:
      num_classes: C.
    """

    num_classes: int

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Initializes the variables; the classifier is zero."""
        outputs, variables = self.network.init_with_output(key, images)
        shape = (outputs.embedding.shape[-1], self.num_classes)
        head = {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[1:])}
        return with_parameter(variables, PROBE, head)

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, *, train: bool = False
    ) -> Outputs:
        """Implements `Network.apply`, for evaluation only."""
        outputs, head = self._apply_inner(PROBE, variables, images, train=train)
        return outputs._replace(logits=functional.linear(outputs.embedding, **head), head=head)


@dataclasses.dataclass(frozen=True)
class ZeroShot(Wrapper):
    """A zero-shot classifier: logits are scaled cosines between features and class vectors.

    See CLIP (arXiv 2103.00020).

    Attributes:
      shape: (C, D), the shape of the class vectors.
      reads: the output with the features: "embedding", or "logits" of a network whose classifier
        projects into the space of the vectors.
      scale: factor of the cosines.
    """

    shape: tuple[int, int]
    reads: str
    scale: float

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Initializes the variables; the class vectors are zero."""
        return with_parameter(
            self.network.init(key, images, train=train), VECTORS, jnp.zeros(self.shape)
        )

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, *, train: bool = False
    ) -> Outputs:
        """Implements `Network.apply`, for evaluation only."""
        outputs, vectors = self._apply_inner(VECTORS, variables, images, train=train)
        features = _unit(getattr(outputs, self.reads).astype(jnp.float32))
        logits = functional.linear(
            features, self.scale * _unit(vectors).T, jnp.zeros(self.shape[0])
        )
        return outputs._replace(logits=logits, head=())


class TrainedHead(NamedTuple):
    """A head of an objective.

    Attributes:
      reads: the output that the head reads, "embedding" or "patches".
      output: "embedding" or "patches" for a head that replaces the output that it reads; or the
        name of a further output of exported files.
      layers: the layers, see `projections.layers`.
      is_unit: whether vectors are scaled to length 1.
    """

    reads: str
    output: str
    layers: Any
    is_unit: bool


@dataclasses.dataclass(frozen=True)
class WithHeads(Wrapper):
    """A network with trained heads, which replace outputs or add outputs to exported files.

    Attributes:
      heads: the heads, with the output widths of their layers instead of the layers.
    """

    heads: tuple[TrainedHead, ...]

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """Initializes the variables; the heads are zero."""
        outputs, variables = self.network.init_with_output(key, images)
        heads = {
            head.output: _zeros(getattr(outputs, head.reads).shape[-1], head.layers)
            for head in self.heads
        }
        return with_parameter(variables, HEADS, heads)

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, *, train: bool = False
    ) -> Outputs:
        """Implements `Network.apply`, for evaluation only."""
        outputs, layers = self._apply_inner(HEADS, variables, images, train=train)
        return outputs._replace(**self._compute(layers, outputs, replacing=True))

    def further(self, variables: Mapping[str, Any], outputs: Outputs) -> dict[str, jax.Array]:
        """Returns the outputs [B, D] or [B, h, w, D] that the heads add, by name."""
        return self._compute(variables["params"][HEADS], outputs, replacing=False)

    def _compute(self, layers: Any, outputs: Outputs, *, replacing: bool) -> dict[str, jax.Array]:
        results = {}
        for head in self.heads:
            features = getattr(outputs, head.reads)
            if (head.output == head.reads) == replacing and features is not None:
                x = projections.apply_head(layers[head.output], features)
                results[head.output] = unit_rows(x) if head.is_unit else x
        return results


def with_heads(
    network: Network, variables: Mapping[str, Any], heads: Sequence[TrainedHead]
) -> tuple[WithHeads, dict[str, Any]]:
    """Adds heads to a network; returns the wrapper and its variables.

    Args:
      network: a network with the outputs that the heads read.
      variables: weights of the network.
      heads: the heads, each with another output.
    """
    described = tuple(head._replace(layers=_widths(head.layers)) for head in heads)
    weights = {head.output: head.layers for head in heads}
    return WithHeads(network, described), with_parameter(variables, HEADS, weights)


def _widths(head: Any) -> tuple[int, ...]:
    layers = [head["hidden"], head["out"]] if "out" in head else [head]
    return tuple(layer["bias"].shape[0] for layer in layers)


def _zeros(width: int, widths: tuple[int, ...]) -> Any:
    """Returns a head of zeros, from the input width and the output widths of its layers."""
    sizes = itertools.pairwise((width, *widths))
    layers = [{"kernel": jnp.zeros(size), "bias": jnp.zeros(size[1:])} for size in sizes]
    return layers[0] if len(layers) == 1 else dict(zip(("hidden", "out"), layers, strict=True))


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def with_parameter(variables: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Returns the variables of a wrapper: the inner network's, and the added parameter."""
    return {"batch_stats": {}, **variables, "params": {**variables["params"], name: value}}
