"""Whether a user's network is one: its shapes, looked at once before anything costly."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors, functional
from rrd_jax.networks.contract import Network, Outputs
from rrd_jax.networks.summary import leaf_name, named_shapes, summarize

_IMAGES = 2


def check(
    network: Network,
    name: str,
    num_classes: int | None,
    image_shape: tuple[int, int, int],
    *,
    needs_logits: bool = True,
) -> None:
    """Traces a network in evaluation and in training; one that reports a head is run once.

    Args:
      network: for images of this shape.
      name: for messages.
      num_classes: C; None for whatever it has.
      image_shape: (H, W, channels).
      needs_logits: whether it must have a classifier.

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
        if not isinstance(outputs.logits, tuple):
            count = outputs.logits.shape[-1] if num_classes is None else num_classes
            _check_outputs(outputs, name, count, image_shape)
        elif needs_logits or isinstance(outputs.embedding, tuple):
            raise errors.InputError(
                f"network '{name}' returns no logits: it is told the number of classes by its"
                " argument num_classes; a teacher alone may return an embedding without logits"
            )
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
    where: str, variables: Any, network: Network, image_shape: tuple[int, ...]
) -> None:
    """Compares weights with the network that they are to be of, and looks at their values.

    Args:
      where: for messages.
      variables: the weights.
      network: for images of this shape.
      image_shape: (H, W, channels).

    Raises:
      InputError: they have other names, shapes or types than the network's, or are not finite.
    """
    wanted = summarize(network, image_shape).variables
    if not isinstance(variables, Mapping) or "params" not in variables:
        there = f"keys {list(variables)}" if isinstance(variables, Mapping) else repr(variables)
        raise errors.InputError(
            f"the weights in {where} are no variables of a network: they are {there[:200]}, where a"
            f" dict with {' and '.join(wanted)} is wanted"
        )
    given = {name: variables.get(name, {}) for name in wanted}
    for path, leaf in jax.tree_util.tree_leaves_with_path(given):
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise errors.InputError(
                f"the weights in {where} hold {leaf_name(path)}, which is of type"
                f" {type(leaf).__name__}, but must be an array"
            )
    there, here = map(named_shapes, (given, wanted))
    if there != here:
        differing = sorted(name for name in there | here if there.get(name) != here.get(name))
        name, more = differing[0], len(differing) - 1
        raise errors.InputError(
            f"the weights in {where} do not fit the network: {name} is"
            f" {there.get(name, 'absent')} there and {here.get(name, 'absent')} in the network"
            + (f", and {more} more differ" if more else "")
            + "; its options, or its code, are not those it was trained with"
        )
    floats = {leaf_name(path) for path, leaf in _float_leaves(wanted)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(given):
        if leaf_name(path) in floats and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise errors.InputError(
                f"the weights in {where} hold {leaf_name(path)} of type {leaf.dtype}, where floats"
                " are wanted"
            )
    check_values(where, given)


def check_values(where: str, variables: Any) -> None:
    """Raises an InputError for weights that are not finite, and for negative variances.

    Args:
      where: for messages.
      variables: arrays, in a tree.
    """
    doubts = {}
    for path, leaf in _float_leaves(variables):
        is_variance = leaf_name(path[:1]) == "batch_stats" and leaf_name(path[-1:]) == "var"
        if text := doubt(leaf, is_variance=is_variance):
            doubts[leaf_name(path)] = text
    if doubts:
        name, text = next(iter(doubts.items()))
        others = f", and {len(doubts) - 1} more are like that" if len(doubts) > 1 else ""
        raise errors.InputError(
            f"the weights in {where} cannot be used: {name} {text}{others}; the run that they are"
            " of diverged, or they are damaged"
        )


def doubt(value: Any, *, is_variance: bool = False) -> str:
    """What is wrong with the numbers of an array, as a predicate; "" for nothing.

    Args:
      value: floats.
      is_variance: whether they must not be negative.
    """
    original = np.asarray(value)
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = original.astype(np.float32)
    if np.isfinite(numbers).all():
        lowest = numbers.min(initial=0)
        return f"is a variance, but as low as {lowest:.4g}" if is_variance and lowest < 0 else ""
    nan, infinite = int(np.isnan(numbers).sum()), int(np.isinf(numbers).sum())
    large = int(np.isfinite(original[np.isinf(numbers)]).sum())
    counts = {"NaN": nan, "infinite": infinite - large, "beyond the range of float32": large}
    listed = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"is not finite: of {numbers.size:,} values {listed}"


def _float_leaves(tree: Any) -> list[tuple[Any, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [pair for pair in leaves if jnp.issubdtype(pair[1].dtype, jnp.floating)]


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
