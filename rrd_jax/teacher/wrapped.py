"""Networks used otherwise than they were made: other images before them, other layers behind.

They are used as networks are, but never trained. Their variables are those of the network inside,
with one entry more among the parameters where the logits, or the embedding, are made of it.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import functional
from rrd_jax.networks import Network, Outputs
from rrd_jax.objectives.parts import projections

PROBE, VECTORS, HEAD = "probe", "class_vectors", "head"  # among the parameters


@dataclasses.dataclass(frozen=True)
class Wrapped:
    """A network inside another.

    Attributes:
      network: the one inside.
    """

    network: Network

    @property
    def dtype(self) -> Any:
        """What the network computes in."""
        return self.network.dtype

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """As Network has it."""
        return self.network.init(key, images, train=train)

    def init_with_output(self, key: jax.Array, images: jax.Array) -> tuple[Outputs, dict[str, Any]]:
        """As Network has it."""
        variables = self.init(key, images)
        return self.apply(variables, images), variables

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, *, train: bool = False
    ) -> Outputs:
        """As Network has it, in evaluation alone."""
        return self.network.apply(variables, images, train=train)

    def _applied(
        self, name: str, variables: Mapping[str, Any], images: jax.Array, *, train: bool
    ) -> tuple[Outputs, Any]:
        """What the network inside makes of images, and the entry that is not its."""
        params = dict(variables["params"])
        entry = params.pop(name)
        return self.network.apply({**variables, "params": params}, images, train=train), entry


@dataclasses.dataclass(frozen=True)
class Preprocessed(Wrapped):
    """A network that sees images of its own size and normalisation.

    Another mean and deviation are a factor and a shift of each channel, which a resampling, whose
    weights add up to 1, leaves as they are.

    Attributes:
      image_size: height and width that the network sees.
      factor: of each channel of the images that are given.
      shift: added to each channel then.
      interpolation: where the size differs: "bilinear" or "bicubic", of what a new pixel covers.
    """

    image_size: int
    factor: tuple[float, ...]
    shift: tuple[float, ...]
    interpolation: str

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """As Network has it."""
        return self.network.init(key, self.see(images), train=train)

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, *, train: bool = False
    ) -> Outputs:
        """As Network has it, in evaluation alone."""
        return self.network.apply(variables, self.see(images), train=train)

    def see(self, images: jax.Array) -> jax.Array:
        """What the network sees of images [B, H, W, channels], normalised as others see them."""
        shape = (images.shape[0], self.image_size, self.image_size, images.shape[-1])
        if images.shape != shape:
            images = jax.image.resize(images, shape, self.interpolation, antialias=True)
        return functional.affine(images, jnp.asarray(self.factor), jnp.asarray(self.shift))


@dataclasses.dataclass(frozen=True)
class Probed(Wrapped):
    """A network with a linear classifier on its embedding, in place of its own if it has one.

    Attributes:
      num_classes: C.
    """

    num_classes: int

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """As Network has it; the classifier is of zeros."""
        outputs, variables = self.network.init_with_output(key, images)
        shape = (outputs.embedding.shape[-1], self.num_classes)
        head = {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[1:])}
        return with_entry(variables, PROBE, head)

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, *, train: bool = False
    ) -> Outputs:
        """As Network has it, in evaluation alone."""
        outputs, head = self._applied(PROBE, variables, images, train=train)
        return outputs._replace(logits=functional.linear(outputs.embedding, **head), head=head)


@dataclasses.dataclass(frozen=True)
class ZeroShot(Wrapped):
    """A network whose logits are cosines of what it makes of images to a vector of each class.

    CLIP classifies so without examples (arXiv 2103.00020).

    Attributes:
      shape: (C, D) of the vectors.
      reads: the part of Outputs that is compared: "embedding", or "logits" of a network whose
        classifier is the projection into the space of the vectors.
      scale: times the cosines.
    """

    shape: tuple[int, int]
    reads: str
    scale: float

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """As Network has it; the vectors are of zeros."""
        return with_entry(
            self.network.init(key, images, train=train), VECTORS, jnp.zeros(self.shape)
        )

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, *, train: bool = False
    ) -> Outputs:
        """As Network has it, in evaluation alone."""
        outputs, vectors = self._applied(VECTORS, variables, images, train=train)
        features = _unit(getattr(outputs, self.reads).astype(jnp.float32))
        logits = functional.linear(
            features, self.scale * _unit(vectors).T, jnp.zeros(self.shape[0])
        )
        return outputs._replace(logits=logits, head=())


@dataclasses.dataclass(frozen=True)
class Projected(Wrapped):
    """A network whose embedding is what an objective's head made of it in training.

    Attributes:
      widths: of the head's layers, one or two.
      is_unit: whether embeddings have length 1.
    """

    widths: tuple[int, ...]
    is_unit: bool

    def init(self, key: jax.Array, images: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """As Network has it; the head is of zeros."""
        outputs, variables = self.network.init_with_output(key, images)
        sizes = itertools.pairwise((outputs.embedding.shape[-1], *self.widths))
        layers = [{"kernel": jnp.zeros(size), "bias": jnp.zeros(size[1:])} for size in sizes]
        head = layers[0] if len(layers) == 1 else dict(zip(("hidden", "out"), layers, strict=True))
        return with_entry(variables, HEAD, head)

    def apply(
        self, variables: Mapping[str, Any], images: jax.Array, *, train: bool = False
    ) -> Outputs:
        """As Network has it, in evaluation alone."""
        outputs, head = self._applied(HEAD, variables, images, train=train)
        apply = projections.project if self.is_unit else projections.apply_head
        return outputs._replace(embedding=apply(head, outputs.embedding))


def projected(
    network: Network, variables: Mapping[str, Any], head: Any, *, is_unit: bool
) -> tuple[Projected, dict[str, Any]]:
    """A network behind whose embedding a head stands, and its variables.

    Args:
      network: with an embedding.
      variables: its weights.
      head: as `projections.init_head` has it.
      is_unit: whether what it makes has length 1.
    """
    layers = [head["hidden"], head["out"]] if "out" in head else [head]
    widths = tuple(layer["bias"].shape[0] for layer in layers)
    return Projected(network, widths, is_unit), with_entry(variables, HEAD, head)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def with_entry(variables: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The variables of a Probed or ZeroShot network, of those of the network inside."""
    return {"batch_stats": {}, **variables, "params": {**variables["params"], name: value}}
