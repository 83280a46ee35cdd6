"""Whether a user's network is one: its shapes, looked at once before anything costly."""

from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, functional
from rrd_jax.networks.contract import Network, Outputs
from rrd_jax.networks.summary import named_shapes, summarize

_IMAGES = 2


def check(network: Network, name: str, num_classes: int, image_shape: tuple[int, int, int]) -> None:
    """Traces a network in evaluation and in training; one that reports a head is run once.

    Args:
      network: for images of this shape.
      name: for messages.
      num_classes: C.
      image_shape: (H, W, channels).

    Raises:
      InputError: it raises, returns something else than a network does, or changes the structure of
        what it carries from step to step.
    """
    images = jax.ShapeDtypeStruct((_IMAGES, *image_shape), jnp.float32)
    variables = summarize(network, image_shape).variables
    _check_variables(variables, name)

    def train(variables, images, key):
        return network.apply(variables, images, train=True, mutable=["batch_stats"], rngs=key)

    trained, changed = jax.eval_shape(train, variables, images, jax.random.key(0))
    for outputs in (jax.eval_shape(network.apply, variables, images), trained):
        _check_outputs(outputs, name, num_classes, image_shape)
    if trained.head:
        _check_head_makes_logits(network, name, image_shape)
    before, after = _forms(variables["batch_stats"]), _forms(changed["batch_stats"])
    for leaf in before | after:
        there, then = before.get(leaf, "absent"), after.get(leaf, "absent")
        if there != then:
            raise errors.InputError(
                f"network '{name}' does not keep the form of what it carries from step to step:"
                f" {leaf} is {there} before and {then} after one"
            )


def check_weights(
    where: str, variables: dict[str, Any], network: Network, image_shape: tuple[int, ...]
) -> None:
    """Compares weights with the network that they are to be of.

    Args:
      where: for messages.
      variables: the weights.
      network: for images of this shape.
      image_shape: (H, W, channels).

    Raises:
      InputError: they have other names or shapes than the network's.
    """
    wanted = summarize(network, image_shape).variables
    there, here = map(named_shapes, ({name: variables[name] for name in wanted}, wanted))
    if there != here:
        differing = sorted(name for name in there | here if there.get(name) != here.get(name))
        name = differing[0]
        raise errors.InputError(
            f"the weights in {where} do not fit the network: {name} is"
            f" {there.get(name, 'absent')} there and {here.get(name, 'absent')} in the network, and"
            f" {len(differing) - 1} more differ; its options, or its code, are not those it was"
            " trained with"
        )


def _check_variables(variables: dict[str, Any], name: str) -> None:
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
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}" for path, leaf in leaves}


def _check_outputs(
    outputs: Outputs, name: str, num_classes: int, image_shape: tuple[int, int, int]
) -> None:
    if outputs.logits.shape != (_IMAGES, num_classes):
        raise errors.InputError(
            f"network '{name}' returns logits {outputs.logits.shape} for {_IMAGES} images of"
            f" {image_shape}, where {(_IMAGES, num_classes)} are wanted: it is told the number of"
            " classes by its argument num_classes"
        )
    if not isinstance(outputs.embedding, tuple):
        _check_shape(outputs.embedding, 2, "an embedding", "[B, D]", name)
    for part in ("maps", "preactivations"):
        for leaf in getattr(outputs, part):
            _check_shape(leaf, 4, f"{part} with one", "[B, H, W, channels]", name)
    before, after = ([leaf.shape for leaf in leaves] for leaves in outputs[3:1:-1])
    if before and before != after:
        raise errors.InputError(
            f"network '{name}' returns maps of shapes {after}, but preactivations of {before}: one"
            " for each map, of its shape, or none"
        )
    if outputs.head:
        _check_head(outputs, name, num_classes)


def _check_head(outputs: Outputs, name: str, num_classes: int) -> None:
    size = None if isinstance(outputs.embedding, tuple) else outputs.embedding.shape[-1]
    shapes = {part: getattr(leaf, "shape", None) for part, leaf in outputs.head.items()}
    size = size or (shapes.get("kernel") or (0,))[0]
    if shapes != {"kernel": (size, num_classes), "bias": (num_classes,)}:
        listed = ", ".join(f"{part} {shape}" for part, shape in shapes.items())
        raise errors.InputError(
            f"network '{name}' returns a head of {listed}; wanted are kernel [D, C] and bias [C],"
            f" here ({size}, {num_classes}) and ({num_classes},)"
        )
    if isinstance(outputs.embedding, tuple):
        raise errors.InputError(
            f"network '{name}' returns a head, but no embedding that it reads: return both, or"
            " neither"
        )


def _check_head_makes_logits(
    network: Network, name: str, image_shape: tuple[int, int, int]
) -> None:
    """Raises an InputError where logits are not embedding @ kernel + bias, on random weights.

    Whoever reads a head takes them for that: a cached teacher, SimKD and SRRL.
    """

    @jax.jit
    def logits(key):
        images = jax.random.normal(key, (_IMAGES, *image_shape))
        outputs = network.apply(network.init(key, images), images)
        embedding = outputs.embedding.astype(jnp.float32)
        return outputs.logits, functional.linear(embedding, **outputs.head)

    returned, made = logits(jax.random.key(0))
    error, size = jnp.max(jnp.abs(returned - made)), jnp.max(jnp.abs(returned))
    if not error <= 0.02 * size + 1e-6:  # bfloat16 is as rough as that
        raise errors.InputError(
            f"network '{name}' returns a head that does not make its logits: embedding @ kernel +"
            f" bias differs by {error:.3g} from logits of up to {size:.3g}; return no head, or the"
            " embedding that the classifier reads"
        )


def _check_shape(leaf: Any, ndim: int, what: str, wanted: str, name: str) -> None:
    if leaf.ndim != ndim or leaf.shape[0] != _IMAGES or 0 in leaf.shape:
        raise errors.InputError(
            f"network '{name}' returns {what} of shape {leaf.shape} for {_IMAGES} images, where"
            f" {wanted} is wanted"
        )
