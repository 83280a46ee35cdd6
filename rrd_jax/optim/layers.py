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

_NUMBERED = re.compile(r"(.*?)[_.]?\d+(?:[_.]\d+)*")
_CALLED = re.compile(r"(block|layer|stage)s?$")
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
    if not any(map(_block, paths)):
        raise errors.InputError(
            f"optimizer.layer_decay is {decay}, but '{name}' has no numbered blocks such as"
            " blocks_3 or layer1_0; set it to 1"
        )
    layers = _layers(paths, first_uses(apply, params, images))
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


def _layers(paths: list[tuple[str, ...]], uses: list[float]) -> list[int]:
    """The layer of each parameter, of its path and of when it is first used."""
    blocks = [_block(path) for path in paths]
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


def _block(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path to the block that a parameter is in; () for none.

    A block is a numbered module that holds modules. Of several in each other it is the innermost
    that is called a block, layer or stage, or else the outermost. A numbered module that is called
    so may hold parameters alone, if it is in no other block.
    """
    numbered = []
    for depth, name in enumerate(path[:-1]):
        if match := _NUMBERED.fullmatch(name):
            family = match[1] or (path[depth - 1] if depth else "")
            numbered.append((path[: depth + 1], bool(_CALLED.search(family.lower()))))
    holders = [entry for entry in numbered if len(entry[0]) < len(path) - 1]
    called = [block for block, is_called in holders if is_called]
    if holders:
        return called[-1] if called else holders[0][0]
    return next((block for block, is_called in numbered if is_called), ())


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
            inner = _inner(equation)
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


def _inner(equation: Any) -> Any:
    """The program that an operation such as jit or remat calls with its own operands, or None."""
    for value in equation.params.values():
        program = getattr(value, "jaxpr", value)
        if hasattr(program, "eqns") and len(program.invars) == len(equation.invars):
            return program if len(program.outvars) == len(equation.outvars) else None
    return None
