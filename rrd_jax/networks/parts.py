"""The parts of a network that `freeze` may name: stem, stages, backbone and patterns."""

import functools
import re
from collections.abc import Collection, Iterator

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.networks import jaxprs
from rrd_jax.networks.contract import Network
from rrd_jax.networks.summary import leaf_name, summarize


def parts(
    network: Network, image_shape: tuple[int, ...], head: Collection[str]
) -> dict[str, frozenset[str]]:
    """Returns the parameters of each part, as paths such as layer1_0/conv1/kernel.

    The stem contains the parameters that the first map depends on, `stage1` the additional ones
    that the second map depends on, and so on. The backbone contains all parameters except the
    classifier. A network without maps has no stages.

    Args:
      network: a network of `networks.create`.
      image_shape: (H, W, channels).
      head: the paths of the classifier; if empty, the result has no backbone.
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
    earlier, stages = 0, {}
    for i, used in enumerate(
        jaxprs.reached(jaxpr, [*(1 << n for n in range(len(leaves))), *others])
    ):
        new = frozenset(name for n, name in enumerate(names) if (used & ~earlier) >> n & 1)
        earlier |= used
        if new:
            stages[f"stage{i}" if i else "stem"] = new
    return stages | ({"backbone": frozenset(names) - set(head)} if head else {})


# The cache avoids tracing the network again for each caller.
@functools.cache
def matching(
    network: Network,
    image_shape: tuple[int, ...],
    pattern: str,
    head: frozenset[str],
    field: str = "freeze",
) -> frozenset[str]:
    """Returns the paths of the parameters that match a pattern.

    Args:
      network: a network of `networks.create`.
      image_shape: (H, W, channels).
      pattern: names of `parts`, or regular expressions for whole paths of modules or parameters,
        separated by |.
      head: the paths of the classifier.
      field: the pattern's field in messages.

    Raises:
      InputError: the pattern is invalid, one of its alternatives matches nothing, or the pattern
        matches all parameters.
    """
    named_parts = parts(network, image_shape, head)
    variables = summarize(network, image_shape).variables
    names = [
        leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    ]
    selected: set[str] = set()
    for piece in _alternatives(pattern):
        matches = named_parts.get(piece) or {n for n in names if _matches(piece, n, field)}
        if not matches:
            modules = dict.fromkeys(n.split("/")[0] for n in names)
            raise errors.InputError(
                f"{field} is '{pattern}', but the network has no '{piece}';"
                f" {errors.hint(piece, [*named_parts, *modules])}known parts:"
                f" {', '.join(named_parts) or 'none'}; modules: {', '.join(modules)}"
            )
        selected |= matches
    if selected == set(names):
        raise errors.InputError(
            f"{field} is '{pattern}', which matches the whole network; leave at least one parameter"
            " to train"
        )
    return frozenset(selected)


def _alternatives(pattern: str) -> Iterator[str]:
    """Yields the pieces of a pattern, split at each | outside brackets."""
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
    """Returns True if a regular expression matches the path of a parameter or of its modules."""
    words = name.split("/")
    try:
        expression = re.compile(piece)
    except (re.error, OverflowError, RecursionError) as error:
        raise errors.InputError(
            f"{field} contains '{piece}', which is not a valid regular expression ({error});"
            " correct the expression"
        ) from error
    return any(expression.fullmatch("/".join(words[:i])) for i in range(1, len(words) + 1))
