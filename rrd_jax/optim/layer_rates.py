"""Layer decay: lower learning rates for earlier blocks of a network.

Blocks are found in the parameters' paths, such as blocks_3/attn/kernel, layer1_0/conv1/kernel,
Block_2/... or blocks/3/..., and ordered by their first use in the traced forward pass, so that
custom networks work too.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from rrd_jax import errors
from rrd_jax.networks import jaxprs

_NUMBERED = re.compile(r"(.*?)[_.]?\d+(?:[_.]\d+)*")
_PARTS = ("block", "blocks")
_NEVER = float("inf")


def block_scales(
    decay: float,
    apply: Callable[[Any, Any], Any],
    params: Any,
    images: Any,
    name: str,
    *,
    pattern: str = "",
    head: Sequence[str] = (),
) -> Any:
    """Computes the factor of each parameter's learning rate.

    Blocks are numbered 1 to n in the order in which the network uses them. Parameters used before
    the first block are layer 0, the classifier is layer n + 1. As in timm, norms after the last
    block belong to that block, and parameters between two blocks to the second one.

    Args:
      decay: factor per layer, in (0, 1].
      apply: the forward pass, (params, images) -> outputs; only traced.
      params: parameters, as arrays or shapes.
      images: images, as an array or a shape.
      name: name of the network, for error messages.
      pattern: regular expression for the blocks among the paths of modules, such as
        stages_[0-9]+_[0-9]+; "" to find numbered modules.
      head: modules of the classifier, such as ("head", "head_dist"); empty for the module that is
        used last.

    Returns:
      A tree like params, with decay ** (n + 1 - layer) for each parameter.

    Raises:
      InputError: decay is out of range, or the network has no numbered blocks.

    References:
      Bao et al., arXiv 2106.08254; timm's `param_groups_layer_decay`.
    """
    check_decay(decay)
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    paths = _without_common_start([tuple(map(_name, path)) for path, _ in leaves])
    uses = first_uses(apply, params, images)
    blocks = _match_blocks(paths, pattern) if pattern else find_blocks(paths)
    blocks = [block if use < _NEVER else () for block, use in zip(blocks, uses, strict=True)]
    if not any(blocks):
        raise errors.InputError(
            f"optimizer.layer_decay is {decay}, but '{name}' has no numbered blocks such as"
            " blocks_3 or layer1_0; set it to 1"
        )
    layers = _layers(paths, blocks, uses, head)
    last = max(layers)
    return structure.unflatten([decay ** (last - layer) for layer in layers])


def check_decay(decay: float) -> None:
    """Raises an InputError for a layer decay that is out of range."""
    if not 0 < decay <= 1:
        raise errors.InputError(
            f"optimizer.layer_decay is {decay}, but must be in (0, 1]; 1 disables it"
        )


def scaled(transformation: optax.GradientTransformation, scales: Any, name: str) -> Any:
    """Returns the transformation with the updates of params[name] multiplied by `scales`."""

    def scale(updates, params):
        del params
        return updates | {name: jax.tree.map(lambda u, s: u * s, updates[name], scales)}

    return optax.chain(transformation, optax.stateless(scale))


def _match_blocks(paths: list[tuple[str, ...]], pattern: str) -> list[tuple[str, ...]]:
    """Returns the part of each path that the pattern matches, as a block; () for no match."""
    matches = (re.match(pattern, "/".join(path)) for path in paths)
    return [(match[0],) if match else () for match in matches]


def _layers(
    paths: list[tuple[str, ...]],
    blocks: list[tuple[str, ...]],
    uses: list[float],
    head: Sequence[str],
) -> list[int]:
    """Returns the layer of each parameter, given its path, its block and its first use."""
    starts: dict[tuple[str, ...], float] = {}
    for block, use in zip(blocks, uses, strict=True):
        if block:
            starts[block] = min(use, starts.get(block, _NEVER))
    order = sorted(starts, key=lambda block: starts[block])
    layer = {block: i for i, block in enumerate(order, start=1)}
    outside = [i for i, block in enumerate(blocks) if not block and uses[i] < _NEVER]
    # The classifier is the module used last, unless a block follows it.
    final = max(outside, key=lambda i: uses[i], default=None)
    if not head and final is not None and uses[final] > starts[order[-1]]:
        head = (paths[final][0],)

    def layer_of(i):
        if blocks[i]:
            return layer[blocks[i]]
        if uses[i] < starts[order[0]]:
            return 0
        if uses[i] == _NEVER or (paths[i][0] in head and uses[i] > starts[order[-1]]):
            return len(order) + 1
        after = [layer[block] for block in order if starts[block] >= uses[i]]
        return after[0] if after else len(order)

    return [layer_of(i) for i in range(len(paths))]


def find_blocks(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Returns the path of the block that contains each parameter; () for no block.

    A block is a numbered module that contains modules. In a network without such modules, it is a
    module named block, layer or stage that contains parameters.
    """
    holders = [[m for m in _numbered(path) if len(m[0]) < len(path) - 1] for path in paths]
    if any(holders):
        blocks = {_choose(modules, holders) for modules in holders if modules}
    else:
        blocks = {
            prefix for path in paths for prefix, family in _numbered(path) if _is_block_name(family)
        }
    # Parameters of a group outside its blocks, such as downsampling layers, belong to no block.
    groups = {block[:length] for block in blocks for length in range(1, len(block))}
    blocks -= groups

    def block_of(path):
        prefixes = (path[:length] for length in range(len(path) - 1, 0, -1))
        return next((prefix for prefix in prefixes if prefix in blocks), ())

    return [block_of(path) for path in paths]


def _numbered(path: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    """Returns the path and unnumbered name of each numbered module on a parameter's path."""
    modules, family = [], ""
    for depth, name in enumerate(path[:-1]):
        match = _NUMBERED.fullmatch(name)
        # A bare number indexes the list named by the entry before it.
        family = (match[1] or family if match else name).lower()
        if match:
            modules.append((path[: depth + 1], family))
    return modules


def _is_block_name(family: str) -> bool:
    return bool(re.search(r"(block|layer|stage)s?$", family))


def _choose(modules, all_modules):
    """Returns the path of the block among nested numbered modules.

    The block is the outermost module with a block's name, unless that module is a group of blocks:
    a stage, or a module whose parameters are all in numbered modules. A block may itself contain,
    for example, an MlpBlock_0.
    """
    named = [module for module in modules if _is_block_name(module[1])] or modules[:1]
    block, family = named[0]
    for inner, inner_family in named[1:]:
        inside = [other for other in all_modules if any(prefix == block for prefix, _ in other)]
        is_group = all(
            any(len(prefix) > len(block) and _is_block_name(name) for prefix, name in other)
            for other in inside
        )
        if not (is_group or family in ("stage", "stages") or inner_family in _PARTS):
            break
        block, family = inner, inner_family
    return block


def _name(entry: Any) -> str:
    """Returns a path entry as text: a dict's key, a list's index or an attribute."""
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _without_common_start(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Strips the modules that all paths begin with."""
    while all(len(path) > 1 for path in paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return paths


def first_uses(apply: Callable[[Any, Any], Any], params: Any, images: Any) -> list[float]:
    """Returns the time at which each parameter is first combined with image data, in tree order.

    Times are numbers of preceding operations; infinity for an unused parameter. Casts and reshapes
    of parameters are not counted, because a network may cast all parameters at its start.
    """
    jaxpr = jax.make_jaxpr(apply)(params, images).jaxpr
    count = len(jax.tree.leaves(params))
    uses, clock = [_NEVER] * count, 0

    def walk(jaxpr, inputs):
        """Returns the parameters that each output is computed from; None if images are involved."""
        nonlocal clock
        sources = dict(zip(jaxpr.invars, inputs, strict=True))

        def source(atom):
            # Literals have no source.
            return frozenset() if hasattr(atom, "val") else sources.get(atom)

        for equation in jaxpr.eqns:
            operands, clock = [source(atom) for atom in equation.invars], clock + 1
            inner = jaxprs.called(equation)
            if inner is not None:
                outputs = walk(inner, operands)
            elif None in operands:
                for index in frozenset().union(*filter(None, operands)):
                    uses[index] = min(uses[index], clock)
                outputs = [None] * len(equation.outvars)
            else:
                outputs = [frozenset().union(*operands)] * len(equation.outvars)
            sources.update(zip(equation.outvars, outputs, strict=True))
        return [source(atom) for atom in jaxpr.outvars]

    data = [None] * (len(jaxpr.invars) - count)
    walk(jaxpr, [*(frozenset([i]) for i in range(count)), *data])
    return uses
