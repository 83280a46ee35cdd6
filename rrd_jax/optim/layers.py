"""Layer decay: lower learning rates for the blocks of a network that come first.

Blocks are found in the paths of the parameters, and their order in what the network computes, so
that any network works: blocks_3/attn/kernel, layer1_0/conv1/kernel, Block_2/..., blocks/3/...
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import optax

from rrd_jax import errors
from rrd_jax.networks import jaxprs

_NUMBERED = re.compile(r"(.*?)[_.]?\d+(?:[_.]\d+)*")
_PARTS = ("block", "blocks")
_NEVER = float("inf")


def block_scales(
    decay: float, apply: Callable[[Any, Any], Any], params: Any, images: Any, name: str
) -> Any:
    """The factor of each parameter's learning rate.

    Blocks are numbered 1 to n in the order in which the network uses them. What it uses before is
    layer 0, its classifier is layer n + 1. Norms after the last block count with it, and what
    stands between two blocks with the second, as timm has it.

    Args:
      decay: in (0, 1].
      apply: (params, images) -> anything that is computed from both; only traced.
      params: arrays or shapes.
      images: likewise.
      name: of the network, for the message of an error.

    Returns:
      A tree like params of decay ** (n + 1 - layer).

    Raises:
      InputError: decay is out of its range, or the network has no numbered blocks.

    References:
      Bao et al., arXiv 2106.08254; timm's `param_groups_layer_decay`.
    """
    check_decay(decay)
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    paths = _without_common_start([tuple(map(_name, path)) for path, _ in leaves])
    uses = first_uses(apply, params, images)
    blocks = [
        block if use < _NEVER else () for block, use in zip(_blocks(paths), uses, strict=True)
    ]
    if not any(blocks):
        raise errors.InputError(
            f"optimizer.layer_decay is {decay}, but '{name}' has no numbered blocks such as"
            " blocks_3 or layer1_0; set it to 1"
        )
    layers = _layers(paths, blocks, uses)
    last = max(layers)
    return structure.unflatten([decay ** (last - layer) for layer in layers])


def check_decay(decay: float) -> None:
    """Raises an InputError for a layer decay out of its range."""
    if not 0 < decay <= 1:
        raise errors.InputError(
            f"optimizer.layer_decay is {decay}, but must be in (0, 1]; 1 is for none"
        )


def scaled(transformation: optax.GradientTransformation, scales: Any, name: str) -> Any:
    """The transformation, with the updates of params[name] times these factors."""

    def scale(updates, params):
        del params
        return updates | {name: jax.tree.map(lambda u, s: u * s, updates[name], scales)}

    return optax.chain(transformation, optax.stateless(scale))


def _layers(
    paths: list[tuple[str, ...]], blocks: list[tuple[str, ...]], uses: list[float]
) -> list[int]:
    """The layer of each parameter, of its path, its block, and when it is first used."""
    starts: dict[tuple[str, ...], float] = {}
    for block, use in zip(blocks, uses, strict=True):
        if block:
            starts[block] = min(use, starts.get(block, _NEVER))
    order = sorted(starts, key=lambda block: starts[block])
    layer = {block: i for i, block in enumerate(order, start=1)}
    outside = [i for i, block in enumerate(blocks) if not block and uses[i] < _NEVER]
    # The classifier is the module that is used last, if no block comes after it.
    final = max(outside, key=lambda i: uses[i], default=None)
    head = paths[final][0] if final is not None and uses[final] > starts[order[-1]] else None

    def place(i):
        if blocks[i]:
            return layer[blocks[i]]
        if uses[i] < starts[order[0]]:
            return 0
        if uses[i] == _NEVER or (paths[i][0] == head and uses[i] > starts[order[-1]]):
            return len(order) + 1
        after = [layer[block] for block in order if starts[block] >= uses[i]]
        return after[0] if after else len(order)

    return [place(i) for i in range(len(paths))]


def _blocks(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The path to the block that each parameter is in; () for none.

    A block is a numbered module that holds modules; where there is none, one that holds parameters
    and is called block, layer or stage.
    """
    holders = [[m for m in _numbered(path) if len(m[0]) < len(path) - 1] for path in paths]
    if any(holders):
        found = {_choose(modules, holders) for modules in holders if modules}
    else:
        found = {prefix for path in paths for prefix, family in _numbered(path) if _called(family)}
    # What is in a group of blocks but in none of them, such as downsampling, is in no block.
    groups = {block[:length] for block in found for length in range(1, len(block))}
    found -= groups

    def of(path):  # parameters of the block itself belong to it too
        prefixes = (path[:length] for length in range(len(path) - 1, 0, -1))
        return next((prefix for prefix in prefixes if prefix in found), ())

    return [of(path) for path in paths]


def _numbered(path: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    """The numbered modules that a parameter is in: their paths, and names without the number."""
    modules, family = [], ""
    for depth, name in enumerate(path[:-1]):
        match = _NUMBERED.fullmatch(name)
        # A bare number is an index into the list before it.
        family = (match[1] or family if match else name).lower()
        if match:
            modules.append((path[: depth + 1], family))
    return modules


def _called(family: str) -> bool:
    return bool(re.search(r"(block|layer|stage)s?$", family))


def _choose(modules, of_all):
    """Which of the numbered modules that are in each other is the block.

    It is the outermost that is called so, unless that is but a group of blocks: a stage, or one in
    which every parameter is in a numbered module again. A block may hold an MlpBlock_0 itself.
    """
    called = [module for module in modules if _called(module[1])] or modules[:1]
    block, family = called[0]
    for inner, inner_family in called[1:]:
        inside = [other for other in of_all if any(prefix == block for prefix, _ in other)]
        is_group = all(
            any(len(prefix) > len(block) and _called(name) for prefix, name in other)
            for other in inside
        )
        if not (is_group or family in ("stage", "stages") or inner_family in _PARTS):
            break
        block, family = inner, inner_family
    return block


def _name(entry: Any) -> str:
    """Of an entry of a path: a dict's key, a list's index or an attribute."""
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _without_common_start(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Paths without the modules that all of them begin with."""
    while all(len(path) > 1 for path in paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return paths


def first_uses(apply: Callable[[Any, Any], Any], params: Any, images: Any) -> list[float]:
    """When each parameter, in tree order, first meets what is computed from the images.

    That is the number of operations before; infinity for never. Casts and reshapes of parameters
    are no use of them: a network may cast all of them at its start.
    """
    jaxpr = jax.make_jaxpr(apply)(params, images).jaxpr
    count = len(jax.tree.leaves(params))
    uses, clock = [_NEVER] * count, 0

    def walk(jaxpr, inputs):
        """Returns, of each output, the parameters that it is made of alone; None for data."""
        nonlocal clock
        made_of = dict(zip(jaxpr.invars, inputs, strict=True))

        def of(atom):  # a literal is made of no parameter
            return frozenset() if hasattr(atom, "val") else made_of.get(atom)

        for equation in jaxpr.eqns:
            operands, clock = [of(atom) for atom in equation.invars], clock + 1
            inner = jaxprs.called(equation)
            if inner is not None:
                outputs = walk(inner, operands)
            elif None in operands:
                for index in frozenset().union(*filter(None, operands)):
                    uses[index] = min(uses[index], clock)
                outputs = [None] * len(equation.outvars)
            else:
                outputs = [frozenset().union(*operands)] * len(equation.outvars)
            made_of.update(zip(equation.outvars, outputs, strict=True))
        return [of(atom) for atom in jaxpr.outvars]

    data = [None] * (len(jaxpr.invars) - count)
    walk(jaxpr, [*(frozenset([i]) for i in range(count)), *data])
    return uses
