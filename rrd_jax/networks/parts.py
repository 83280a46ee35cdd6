"""Parts of a network by name: its stem, its stages, and whatever a pattern names."""

import functools
import re
from collections.abc import Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.networks import jaxprs
from rrd_jax.networks.contract import Network
from rrd_jax.networks.summary import leaf_name, summarize


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
    names = [leaf_name(path) for path, _ in leaves]
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
        inner = jaxprs.called(equation)
        if inner is not None:
            results = _dependence(inner, operands)
        else:
            union = 0
            for operand in operands:
                union |= operand
            results = [union] * len(equation.outvars)
        known.update(zip(equation.outvars, results, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


@functools.cache  # it traces the network, and many ask
def matching(
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
      InputError: it is no pattern; a part of it names nothing; or it names all there is.
    """
    known = parts(network, image_shape, head)
    variables = summarize(network, image_shape).variables
    names = [
        leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    ]
    named: set[str] = set()
    for piece in _alternatives(pattern):
        found = known.get(piece) or {n for n in names if _matches(piece, n, field)}
        if not found:
            modules = dict.fromkeys(n.split("/")[0] for n in names)
            raise errors.InputError(
                f"{field} is '{pattern}', but the network has no '{piece}';"
                f" {errors.hint(piece, [*known, *modules])}known parts:"
                f" {', '.join(known) or 'none'}; modules: {', '.join(modules)}"
            )
        named |= found
    if named == set(names):
        raise errors.InputError(
            f"{field} is '{pattern}', which is all of the network: nothing of it is left to train"
        )
    return frozenset(named)


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
    except (re.error, OverflowError, RecursionError) as error:
        raise errors.InputError(
            f"{field} has '{piece}', which is no regular expression ({error})"
        ) from error
    return any(expression.fullmatch("/".join(words[:i])) for i in range(1, len(words) + 1))
