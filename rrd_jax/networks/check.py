"""Checks of a network's contract on shapes, before anything costly."""

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
      network: for images of this shape.
      name: for messages.
      num_classes: C; None for any number.
      image_shape: (H, W, channels).
      needs_logits: whether it must have a classifier.

    Raises:
      UserCodeError: the network raises.
      InputError: the network returns something else than `Outputs` says, has parameters that cannot
        be trained, or changes the structure of its other variables in a step.
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
            _check_outputs(outputs, name, count)
        elif needs_logits or isinstance(outputs.embedding, tuple):
            raise errors.InputError(
                f"network '{name}' returns no logits: it is told the number of classes by its"
                " argument num_classes; a teacher alone may return an embedding without logits"
            )
    if trained.head:
        _check_head_makes_logits(network, name, image_shape)
    before, after = _forms(variables["batch_stats"]), _forms(changed["batch_stats"])
    for leaf in before | after:
        if before.get(leaf) != after.get(leaf):
            raise errors.InputError(
                f"network '{name}' changes the form of its variable {leaf} in a step, from"
                f" {before.get(leaf, 'absent')} to {after.get(leaf, 'absent')}"
            )


def _check_variables(variables: dict[str, Any], name: str) -> None:
    """Raises an InputError for variables that the optimizer or a checkpoint cannot hold."""
    if not jax.tree.leaves(variables["params"]):
        raise errors.InputError(f"network '{name}' has no parameters to train")
    for leaf, form in _forms(variables["params"]).items():
        if not form.startswith(("float", "bfloat")):
            raise errors.InputError(
                f"network '{name}' has a parameter {leaf} of type {form}, which cannot be trained;"
                " keep it in another collection, or outside the parameters"
            )
    for leaf, form in _forms(variables["batch_stats"]).items():
        if form.startswith(("key", "complex")):
            raise errors.InputError(
                f"network '{name}' carries {leaf} of type {form}, which no checkpoint holds; of a"
                " key keep jax.random.key_data(key)"
            )


def _forms(tree: Any) -> dict[str, str]:
    """Returns type and shape of each leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}" for path, leaf in leaves}


def _check_outputs(outputs: Outputs, name: str, num_classes: int) -> None:
    """Raises an InputError for Outputs whose shapes would broadcast, or be compared, wrongly."""
    if outputs.logits.shape != (_IMAGES, num_classes):
        raise errors.InputError(
            f"network '{name}' returns logits {outputs.logits.shape} for {_IMAGES} images, where"
            f" {(_IMAGES, num_classes)} are wanted: it is told the number of classes by its"
            " argument num_classes"
        )
    arrays = [("embedding", outputs.embedding, "[B, D]")]
    if isinstance(outputs.embedding, tuple):
        arrays = []
    for part in ("maps", "preactivations"):
        arrays += [(part, leaf, "[B, H, W, channels]") for leaf in getattr(outputs, part)]
    for part, leaf, wanted in arrays:
        if leaf.ndim != wanted.count(",") + 1 or leaf.shape[0] != _IMAGES or 0 in leaf.shape:
            raise errors.InputError(
                f"network '{name}' returns {part} of shape {leaf.shape} for {_IMAGES} images, where"
                f" {wanted} is wanted"
            )
    maps, before = ([leaf.shape for leaf in part] for part in outputs[2:4])
    if before and before != maps:
        raise errors.InputError(
            f"network '{name}' returns maps of shapes {maps}, but preactivations of {before}: one"
            " for each map, of its shape, or none"
        )
    if outputs.head:
        shapes = {part: getattr(leaf, "shape", None) for part, leaf in outputs.head.items()}
        dim = "D" if isinstance(outputs.embedding, tuple) else outputs.embedding.shape[-1]
        if shapes != {"kernel": (dim, num_classes), "bias": (num_classes,)}:
            listed = ", ".join(f"{part} {shape}" for part, shape in shapes.items())
            raise errors.InputError(
                f"network '{name}' returns a head of {listed}; wanted are kernel [D, C] and bias"
                f" [C], here ({dim}, {num_classes}) and ({num_classes},), and the embedding [B, D]"
                " that the head reads"
            )


def _check_head_makes_logits(
    network: Network, name: str, image_shape: tuple[int, int, int]
) -> None:
    """Raises an InputError unless logits are embedding @ kernel + bias, for random weights.

    A cached teacher, SimKD and SRRL compute logits from the embedding and the head.
    """

    @jax.jit
    def logits(key):
        images = jax.random.normal(key, (_IMAGES, *image_shape))
        outputs = network.apply(network.init(key, images), images)
        embedding = outputs.embedding.astype(jnp.float32)
        return outputs.logits, functional.linear(embedding, **outputs.head)

    returned, computed = logits(jax.random.key(0))
    error, size = jnp.max(jnp.abs(returned - computed)), jnp.max(jnp.abs(returned))
    if not error <= 0.02 * size + 1e-6:  # The rounding of bfloat16.
        raise errors.InputError(
            f"network '{name}' returns a head that does not make its logits: embedding @ kernel +"
            f" bias differs by {error:.3g} from logits of up to {size:.3g}; return no head, or the"
            " embedding that the classifier reads"
        )
