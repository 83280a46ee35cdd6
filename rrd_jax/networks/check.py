"""Checks, by tracing, that a network fulfills the contract."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.networks.contract import Network, Outputs
from rrd_jax.networks.summary import summarize

_IMAGES = 2


def check(
    network: Network,
    name: str,
    num_classes: int | None,
    image_shape: tuple[int, int, int],
    *,
    needs_logits: bool = True,
) -> None:
    """Traces a network in evaluation and in training; runs it once if it reports a head.

    Args:
      network: a network for images of this shape.
      name: the network's name in messages.
      num_classes: number of classes C; None to accept any number.
      image_shape: (H, W, channels).
      needs_logits: whether the network must have a classifier.

    Raises:
      UserCodeError: the network raises.
      InputError: the results do not match `Outputs`, a parameter cannot be trained, or a train step
        changes the structure of the other variables.
    """
    images = jax.ShapeDtypeStruct((_IMAGES, *image_shape), jnp.float32)
    variables = summarize(network, image_shape).variables
    _check_variables(variables, name)

    def train(variables, images, key):
        return network.apply(variables, images, train=True, mutable=["batch_stats"], rngs=key)

    trained, changed = jax.eval_shape(train, variables, images, jax.random.key(0))
    for outputs in (jax.eval_shape(network.apply, variables, images), trained):
        if not isinstance(outputs.logits, tuple):
            count = outputs.logits.shape[-1] if num_classes is None else num_classes
            _check_logits(outputs, name, count)
        elif needs_logits or isinstance(outputs.embedding, tuple):
            raise errors.InputError(
                f"network '{name}' returns no logits; return logits [B, num_classes], or use the"
                " network as a teacher, which may return an embedding without logits"
            )
        _check_features(outputs, name)
        if outputs.head and not isinstance(outputs.logits, tuple):
            _check_head(outputs, name, outputs.logits.shape[-1])
    if trained.head:
        _check_head_matches_logits(network, name, image_shape)
    before, after = _leaf_types(variables["batch_stats"]), _leaf_types(changed["batch_stats"])
    for leaf in before | after:
        if before.get(leaf) != after.get(leaf):
            raise errors.InputError(
                f"network '{name}' changes its variable {leaf} in a train step, from"
                f" {before.get(leaf, 'absent')} to {after.get(leaf, 'absent')}; keep the type and"
                " shape of each variable"
            )


def _check_variables(variables: dict[str, Any], name: str) -> None:
    """Raises an InputError for variables that the optimizer or a checkpoint cannot store."""
    if not jax.tree.leaves(variables["params"]):
        raise errors.InputError(f"network '{name}' has no parameters to train")
    for leaf, kind in _leaf_types(variables["params"]).items():
        if not kind.startswith(("float", "bfloat")):
            raise errors.InputError(
                f"network '{name}' has a parameter {leaf} of type {kind}, which cannot be trained;"
                " store it in another collection, or outside the parameters"
            )
    for leaf, kind in _leaf_types(variables["batch_stats"]).items():
        if kind.startswith(("key", "complex")):
            raise errors.InputError(
                f"network '{name}' carries {leaf} of type {kind}, which a checkpoint cannot store;"
                " store real numbers, or jax.random.key_data(key) for a key"
            )
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not leaf.size:
            raise errors.InputError(
                f"network '{name}' has an array of shape {leaf.shape} at"
                f" {jax.tree_util.keystr(path)}, but a checkpoint cannot store arrays without"
                " elements; omit this array"
            )


def _leaf_types(tree: Any) -> dict[str, str]:
    """Returns the type and shape of each leaf, such as "float32(3, 3)", by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}" for path, leaf in leaves}


def _check_logits(outputs: Outputs, name: str, num_classes: int) -> None:
    """Raises an InputError for logits of an invalid shape, which could broadcast silently."""
    if outputs.logits.shape != (_IMAGES, num_classes):
        raise errors.InputError(
            f"network '{name}' returns logits {outputs.logits.shape} for {_IMAGES} images, but must"
            f" return {(_IMAGES, num_classes)}; use its argument num_classes as the number of"
            " classes"
        )


def _check_features(outputs: Outputs, name: str) -> None:
    """Raises an InputError for an embedding, maps or patches of invalid shapes."""
    arrays = [("embedding", outputs.embedding, "[B, D]")]
    if isinstance(outputs.embedding, tuple):
        arrays = []
    if outputs.patches is not None:
        arrays.append(("patches", outputs.patches, "[B, h, w, D]"))
    for part in ("maps", "preactivations"):
        arrays += [(part, leaf, "[B, H, W, channels]") for leaf in getattr(outputs, part)]
    for part, leaf, shape in arrays:
        if leaf.ndim != shape.count(",") + 1 or leaf.shape[0] != _IMAGES or 0 in leaf.shape:
            raise errors.InputError(
                f"network '{name}' returns {part} of shape {leaf.shape} for {_IMAGES} images, but"
                f" must return {shape}"
            )
    maps, before = ([leaf.shape for leaf in part] for part in outputs[2:4])
    if before and before != maps:
        raise errors.InputError(
            f"network '{name}' returns maps of shapes {maps}, but preactivations of {before};"
            " return one preactivation of the same shape for each map, or none"
        )


def _check_head(outputs: Outputs, name: str, num_classes: int) -> None:
    """Raises an InputError for a classifier of an invalid shape."""
    shapes = {part: getattr(leaf, "shape", None) for part, leaf in outputs.head.items()}
    dim = "D" if isinstance(outputs.embedding, tuple) else outputs.embedding.shape[-1]
    if shapes != {"kernel": (dim, num_classes), "bias": (num_classes,)}:
        listed = ", ".join(f"{part} {shape}" for part, shape in shapes.items())
        raise errors.InputError(
            f"network '{name}' returns a head of {listed}, but must return kernel [D, C] and"
            f" bias [C], here ({dim}, {num_classes}) and ({num_classes},); return the embedding"
            " [B, D] that the head reads, too"
        )


def _check_head_matches_logits(
    network: Network, name: str, image_shape: tuple[int, int, int]
) -> None:
    """Raises an InputError unless logits equal embedding @ kernel + bias for random weights.

    Cached teachers, SimKD and SRRL compute logits from the embedding and the head.
    """

    @jax.jit
    def logits(key):
        images = jax.random.normal(key, (_IMAGES, *image_shape))
        outputs = network.apply(network.init(key, images), images)
        embedding = outputs.embedding.astype(jnp.float32)
        return outputs.logits, functional.linear(embedding, **outputs.head)

    returned, computed = logits(jax.random.key(0))
    error, size = jnp.max(jnp.abs(returned - computed)), jnp.max(jnp.abs(returned))
    # The tolerance allows for rounding to bfloat16.
    if not error <= 0.02 * size + 1e-6:
        raise errors.InputError(
            f"network '{name}' returns a head that does not match its logits: embedding @ kernel +"
            f" bias differs by {error:.3g} from logits of up to {size:.3g}; return the embedding"
            " that the classifier reads, or no head"
        )
