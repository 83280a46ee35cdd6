"""Networks with frozen parts, which have no gradient and keep their running statistics."""

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
    """Returns the paths of the parameters that match a pattern, if they can be frozen.

    Args:
      network: a network of `networks.create`.
      image_shape: (H, W, channels).
      pattern: see `parts.matching`.
      head: the paths of the classifier.
      field: the pattern's field in messages.

    Raises:
      InputError: see `parts.matching`; or the parts have carried variables other than those of
        Linen's BatchNorm.
    """
    frozen = parts.matching(network, image_shape, pattern, frozenset(head), field)
    _check_statistics(network, image_shape, frozen, field)
    return frozen


class _Frozen(NamedTuple):
    """A Network with frozen parts, made of the functions of another Network."""

    init: Any
    init_with_output: Any
    apply: Any
    dtype: Any


def freeze(network: Network, frozen: Collection[str]) -> Network:
    """Returns a network with the same variables, whose frozen parameters have no gradient.

    In training, frozen batch norms use their running statistics and do not update them.

    Args:
      network: a network of `networks.create` or `networks.remat`.
      frozen: the paths of the frozen parameters.
    """

    def apply(variables, images, *, train=False, mutable=False, rngs=None):
        options = {"train": train, "mutable": mutable, "rngs": rngs}
        if not train:
            return network.apply(variables, images, **options)
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jax.lax.stop_gradient(leaf) if leaf_name(path) in frozen else leaf,
            variables["params"],
        )
        modules = _frozen_modules(variables["params"], frozen)
        with nn.intercept_methods(_evaluate_frozen(modules, set())):
            result = network.apply(variables | {"params": params}, images, **options)
        if not mutable:
            return result
        outputs, changed = result
        return outputs, _with_statistics(changed, variables, modules)

    return _Frozen(network.init, network.init_with_output, apply, network.dtype)


def _frozen_modules(params: Any, frozen: Collection[str]) -> frozenset[str]:
    """Returns the paths of the modules whose parameters are all frozen."""
    is_frozen: dict[str, bool] = {}
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        words = leaf_name(path).split("/")
        for i in range(1, len(words)):
            module = "/".join(words[:i])
            is_frozen[module] = is_frozen.get(module, True) and "/".join(words) in frozen
    return frozenset(module for module, value in is_frozen.items() if value)


def _is_in(name: str, modules: Collection[str]) -> bool:
    words = name.split("/")
    return any("/".join(words[:i]) in modules for i in range(1, len(words) + 1))


def _with_statistics(changed: Mapping[str, Any], before: Mapping[str, Any], modules: Any) -> Any:
    """Returns the changed collections with the previous statistics in frozen modules."""

    def keep(path, new, old):
        return old if _is_in(_statistic_path(path), modules) else new

    stats = changed["batch_stats"], before["batch_stats"]
    return changed | {"batch_stats": jax.tree_util.tree_map_with_path(keep, *stats)}


def _statistic_path(path: Any) -> str:
    """Returns the path of a carried variable, without a nested collection batch_stats."""
    return leaf_name(path).removeprefix("batch_stats/")


def _evaluate_frozen(modules: Collection[str], reached: set[str]) -> Any:
    """Returns an interceptor that runs batch norms in frozen modules in evaluation mode.

    Args:
      modules: the paths of the frozen modules.
      reached: receives the paths of the batch norms that were called.
    """

    def intercept(call, args, kwargs, context):
        module = context.module
        name = "/".join(module.path)
        if context.method_name != "__call__" or not _is_in(name, modules):
            return call(*args, **kwargs)
        if isinstance(module, layers.BatchNorm):
            reached.add(name)
            return call(*args, **kwargs | {"train": False})
        if isinstance(module, nn.BatchNorm):
            reached.add(name)
            kwargs = {k: v for k, v in kwargs.items() if k != "use_running_average"}
            # The flag may be set as a field or as an argument, but not as both.
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
    """Raises an InputError for carried variables in frozen modules that are not batch norms."""
    variables = summarize(network, image_shape).variables
    modules = _frozen_modules(variables["params"], frozen)
    leaves = jax.tree_util.tree_leaves_with_path(variables["batch_stats"])
    carried = {
        _statistic_path(path) for path, _ in leaves if _is_in(_statistic_path(path), modules)
    }
    if not carried:
        return
    reached: set[str] = set()

    def train(variables, images, key):
        return network.apply(variables, images, train=True, mutable=["batch_stats"], rngs=key)

    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    with nn.intercept_methods(_evaluate_frozen(modules, reached)):
        jax.eval_shape(train, variables, images, jax.random.key(0))
    unknown = sorted(n for n in carried if not _is_in(n, reached))
    if unknown:
        raise errors.InputError(
            f"{field} matches parts that carry {unknown[0]}, but only the statistics of Flax"
            " Linen's BatchNorm can be frozen; freeze parts without carried variables"
        )
