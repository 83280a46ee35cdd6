"""Parts of a network by name, and networks of which some parts stay as they are."""

import functools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.networks import layers
from rrd_jax.networks.contract import Network
from rrd_jax.networks.summary import summarize


def parts(
    network: Network, image_shape: tuple[int, ...], head: Collection[str]
) -> dict[str, frozenset[str]]:
    """The parameters of each part, by paths such as layer1_0/conv1/kernel.

    The stem is what the first map depends on, `stage1` what the second does beside it, and so on;
    the backbone is all but the classifier. A network without maps has no stages.

    Args:
      network: of `networks.create`.
      image_shape: (H, W, channels).
      head: the paths of the classifier; empty where it is not known, and so no backbone either.
    """
    variables = summarize(network, image_shape).variables
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables["params"])
    names = [_name(path) for path, _ in leaves]
    rest = {name: value for name, value in variables.items() if name != "params"}

    def maps(params, rest, images):
        variables = {"params": structure.unflatten(params), **rest}
        return network.apply(variables, images, train=False).maps

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    jaxpr = jax.make_jaxpr(maps)([leaf for _, leaf in leaves], rest, images).jaxpr
    others = [0] * (len(jaxpr.invars) - len(leaves))
    seen, found = 0, {}
    for i, used in enumerate(_dependence(jaxpr, [*(1 << n for n in range(len(leaves))), *others])):
        new = frozenset(name for n, name in enumerate(names) if (used & ~seen) >> n & 1)
        seen |= used
        if new:
            found[f"stage{i}" if i else "stem"] = new
    return found | ({"backbone": frozenset(names) - set(head)} if head else {})


def _dependence(jaxpr: Any, inputs: list[int]) -> list[int]:
    """Which inputs each output depends on, as the bits of a number."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(atom):  # a literal, or a constant, depends on none
        return 0 if hasattr(atom, "val") else known.get(atom, 0)

    for equation in jaxpr.eqns:
        operands = [of(atom) for atom in equation.invars]
        inner = _inner(equation)
        if inner is not None:
            results = _dependence(inner, operands)
        else:
            union = 0
            for operand in operands:
                union |= operand
            results = [union] * len(equation.outvars)
        known.update(zip(equation.outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _inner(equation: Any) -> Any:
    """The program that an operation such as jit calls with its own operands; None for others."""
    for value in equation.params.values():
        program = getattr(value, "jaxpr", value)
        if hasattr(program, "eqns") and len(program.invars) == len(equation.invars):
            return program if len(program.outvars) == len(equation.outvars) else None
    return None


@functools.cache  # it traces the network, and many ask
def frozen_parts(
    network: Network,
    image_shape: tuple[int, ...],
    pattern: str,
    head: frozenset[str],
    field: str = "freeze",
) -> frozenset[str]:
    """The parameters that a pattern names, by path.

    Args:
      network: of `networks.create`.
      image_shape: (H, W, channels).
      pattern: names of `parts`, or regular expressions for whole paths of modules or parameters,
        separated by |.
      head: the paths of the classifier.
      field: what the pattern is called in messages.

    Raises:
      InputError: it is no pattern; a part of it names nothing; nothing is left to train; or what it
        names normalises by statistics in a way that is not known.
    """
    known = parts(network, image_shape, head)
    variables = summarize(network, image_shape).variables
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])]
    frozen: set[str] = set()
    for piece in _alternatives(pattern):
        matching = known.get(piece) or {n for n in names if _matches(piece, n, field)}
        if not matching:
            modules = dict.fromkeys(n.split("/")[0] for n in names)
            raise errors.InputError(
                f"{field} is '{pattern}', but the network has no '{piece}';"
                f" {errors.hint(piece, [*known, *modules])}known parts:"
                f" {', '.join(known) or 'none'}; modules: {', '.join(modules)}"
            )
        frozen |= matching
    if frozen == set(names):
        raise errors.InputError(
            f"{field} is '{pattern}', which is all of the network: nothing of it is left to train"
        )
    _check_statistics(network, image_shape, frozenset(frozen), field)
    return frozenset(frozen)


def _alternatives(pattern: str) -> Iterator[str]:
    """The pieces between those | that stand in no brackets."""
    depth, piece = 0, ""
    for character in pattern:
        depth += (character in "([") - (character in ")]")
        if character == "|" and depth <= 0:
            yield piece
            piece = ""
        else:
            piece += character
    yield piece


def _matches(piece: str, name: str, field: str) -> bool:
    """Whether a regular expression is the path of a parameter, or of a module that it is in."""
    words = name.split("/")
    try:
        expression = re.compile(piece)
    except re.error as error:
        raise errors.InputError(
            f"{field} has '{piece}', which is no regular expression ({error})"
        ) from error
    return any(expression.fullmatch("/".join(words[:i])) for i in range(1, len(words) + 1))


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
            lambda path, leaf: jax.lax.stop_gradient(leaf) if _name(path) in frozen else leaf,
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
        words = _name(path).split("/")
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
    return _name(path).removeprefix("batch_stats/")


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


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
