"""Networks of which some parts stay as they are: no gradient, no new statistics."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.networks import layers, parts
from rrd_jax.networks.contract import Network
from rrd_jax.networks.summary import leaf_name, summarize


def frozen_parts(
    network: Network,
    image_shape: tuple[int, ...],
    pattern: str,
    head: Collection[str],
    field: str = "freeze",
) -> frozenset[str]:
    """The parameters that a pattern names, by path, of a network that can stay so.

    Args:
      network: of `networks.create`.
      image_shape: (H, W, channels).
      pattern: as `parts.matching` has it.
      head: the paths of the classifier.
      field: what the pattern is called in messages.

    Raises:
      InputError: as `parts.matching`; or the parts carry more than a BatchNorm of Linen does.
    """
    frozen = parts.matching(network, image_shape, pattern, frozenset(head), field)
    _check_statistics(network, image_shape, frozen, field)
    return frozen


class _Frozen(NamedTuple):
    """A Network with the functions of another, of which parts stay as they are."""

    init: Any
    init_with_output: Any
    apply: Any
    dtype: Any


def freeze(network: Network, frozen: Collection[str]) -> Network:
    """A network of the same variables, whose frozen parameters have no gradient.

    In training the batch norms among them use their running statistics, and leave them as they are.

    Args:
      network: of `networks.create` or `networks.remat`.
      frozen: the paths of parameters.
    """

    def apply(variables, images, *, train=False, mutable=False, rngs=None):
        options = {"train": train, "mutable": mutable, "rngs": rngs}
        if not train:
            return network.apply(variables, images, **options)
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jax.lax.stop_gradient(leaf) if leaf_name(path) in frozen else leaf,
            variables["params"],
        )
        still = _frozen_modules(variables["params"], frozen)
        with nn.intercept_methods(_evaluating(still, set())):
            result = network.apply(variables | {"params": params}, images, **options)
        if not mutable:
            return result
        outputs, changed = result
        return outputs, _with_statistics(changed, variables, still)

    return _Frozen(network.init, network.init_with_output, apply, network.dtype)


def _frozen_modules(params: Any, frozen: Collection[str]) -> frozenset[str]:
    """The paths of the modules all of whose parameters are frozen."""
    held: dict[str, bool] = {}
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        words = leaf_name(path).split("/")
        for i in range(1, len(words)):
            module = "/".join(words[:i])
            held[module] = held.get(module, True) and "/".join(words) in frozen
    return frozenset(module for module, is_frozen in held.items() if is_frozen)


def _is_in(name: str, modules: Collection[str]) -> bool:
    words = name.split("/")
    return any("/".join(words[:i]) in modules for i in range(1, len(words) + 1))


def _with_statistics(changed: Mapping[str, Any], before: Mapping[str, Any], still: Any) -> Any:
    """What a network carries, as it was in modules that stay as they are."""

    def keep(path, new, old):
        return old if _is_in(_statistic(path), still) else new

    stats = changed["batch_stats"], before["batch_stats"]
    return changed | {"batch_stats": jax.tree_util.tree_map_with_path(keep, *stats)}


def _statistic(path: Any) -> str:
    """The path of what a network carries, without the collection that some keep it in."""
    return leaf_name(path).removeprefix("batch_stats/")


def _evaluating(still: Collection[str], reached: set[str]) -> Any:
    """What intercepts the calls of batch norms in modules that stay as they are."""

    def intercept(call, args, kwargs, context):
        module = context.module
        name = "/".join(module.path)
        if context.method_name != "__call__" or not _is_in(name, still):
            return call(*args, **kwargs)
        if isinstance(module, layers.BatchNorm):
            reached.add(name)
            return call(*args, **kwargs | {"train": False})
        if isinstance(module, nn.BatchNorm):
            reached.add(name)
            kwargs = {k: v for k, v in kwargs.items() if k != "use_running_average"}
            # It takes the flag as a field or as an argument, not as both.
            before = module.use_running_average
            object.__setattr__(module, "use_running_average", True)
            try:
                return call(*args[:1], **kwargs)
            finally:
                object.__setattr__(module, "use_running_average", before)
        return call(*args, **kwargs)

    return intercept


def _check_statistics(
    network: Network, image_shape: tuple[int, ...], frozen: frozenset[str], field: str
) -> None:
    """Raises an InputError for frozen modules that carry more than a BatchNorm of Linen does."""
    variables = summarize(network, image_shape).variables
    still = _frozen_modules(variables["params"], frozen)
    leaves = jax.tree_util.tree_leaves_with_path(variables["batch_stats"])
    carried = {_statistic(path) for path, _ in leaves if _is_in(_statistic(path), still)}
    if not carried:
        return
    reached: set[str] = set()

    def train(variables, images, key):
        return network.apply(variables, images, train=True, mutable=["batch_stats"], rngs=key)

    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    with nn.intercept_methods(_evaluating(still, reached)):
        jax.eval_shape(train, variables, images, jax.random.key(0))
    unknown = sorted(n for n in carried if not _is_in(n, reached))
    if unknown:
        raise errors.InputError(
            f"{field} names parts that carry {unknown[0]}, and only a BatchNorm of Flax Linen is"
            " known to leave what it carries as it is: freeze parts that carry nothing"
        )
