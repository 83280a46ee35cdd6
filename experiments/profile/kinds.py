"""What each instruction of a train step is, and which part of the step it belongs to."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable

from experiments.profile import counting
from experiments.profile.counting import Convolution
from experiments.profile.hlo import Instruction, Program

CONVOLUTIONS, PRODUCTS, REDUCTIONS = "convolutions", "matrix products", "reductions, pooling"
COPIES, OTHERS = "transposes, copies", "other fusions"
FORWARD, OF_IMAGES, OF_KERNEL = "forward", "gradient of images", "gradient of kernel"
# Opcodes of a fusion that decide what it is, first of all first.
_DECIDING = {
    REDUCTIONS: ("reduce", "reduce-window", "select-and-scatter", "sort", "topk"),
    COPIES: ("transpose", "copy", "scatter", "gather"),
}
_MOVING = frozenset(
    "bitcast broadcast concatenate constant convert copy copy-start copy-done get-tuple-element"
    " iota pad parameter reshape reverse slice dynamic-slice dynamic-update-slice transpose"
    " tuple".split()
)
_WRAPPERS = re.compile(r"\b(?:jvp|transpose|vmap|jit|pjit|checkpoint|remat)\(([^()]*)\)")
_FAR = 16  # instructions that are looked at for a name
_RUNNERS = ("while", "conditional", "call", "async-start", "async-done", "async-update")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What an instruction is.

    Attributes:
      kind: of work, one of the constants above.
      part: of the step: input, teacher, student, objective <name>, update, or "" for none.
      backward: whether it is of a gradient.
      label: for convolutions and products, their shape; "" for others.
      direction: of a convolution; "" for others.
      count: how many convolutions or products it is.
      flops: of these.
      dtype: of what it reads.
      op_name: what JAX called it, or what it is made for.
      runs_others: whether it is a loop or a call, whose instructions have times of their own.
    """

    kind: str
    part: str
    backward: bool
    label: str = ""
    direction: str = ""
    count: int = 0
    flops: int = 0
    dtype: str = ""
    op_name: str = ""
    runs_others: bool = False


def classify(program: Program) -> dict[str, Entry]:
    """What each instruction is, by its name."""
    forward = _forward_sizes(program)
    return {
        name: _entry(program, instruction, forward)
        for name, instruction in program.instructions.items()
    }


def _entry(program: Program, instruction: Instruction, forward: "_Sizes") -> Entry:
    op_name = name_of(program, instruction)
    part, backward = part_of(op_name), is_backward(op_name)
    shared = {"part": part, "backward": backward, "op_name": op_name}
    if instruction.opcode in _RUNNERS:
        return Entry(OTHERS, runs_others=True, **shared)
    inside = list(program.inside(instruction))
    shared["dtype"] = _widest(program, instruction)
    convolutions = [(i, c) for i in inside if (c := counting.convolution(program, i))]
    products = [i for i in inside if counting.contracted(program, i)]
    flops = sum(counting.flops(program, i) for i in {*products, *(i for i, _ in convolutions)})
    if convolutions:
        direction, label = _joint(
            described(c, name_of(program, i) or op_name, forward) for i, c in convolutions
        )
        found = {"label": label, "direction": direction, "count": len(convolutions)}
        return Entry(CONVOLUTIONS, **shared, **found, flops=flops)
    if products:
        label = " and ".join(sorted({_product(program, i) for i in products}))
        if part in ("student", "teacher") and is_of_convolution(op_name):
            direction = _direction_of_product(op_name, products, forward)
            return Entry(CONVOLUTIONS, **shared, label=f"as product {label}", direction=direction,
                         flops=flops, count=len(products))  # fmt: skip
        return Entry(PRODUCTS, **shared, label=label, flops=flops, count=len(products))
    return Entry(_plain_kind(inside), **shared)


def _plain_kind(inside: list[Instruction]) -> str:
    opcodes = {i.opcode for i in inside}
    for kind, deciding in _DECIDING.items():
        if opcodes.intersection(deciding):
            return kind
    return COPIES if opcodes <= _MOVING else OTHERS


def _widest(program: Program, instruction: Instruction) -> str:
    """The type of the largest array it reads or makes."""
    read = [program.instructions[name].result for name in instruction.operands
            if name in program.instructions]  # fmt: skip
    return max([*read, instruction.result], key=lambda array: array.size).dtype


def name_of(program: Program, instruction: Instruction) -> str:
    """What JAX called an instruction; of one that XLA made, what it is made for, or made of.

    XLA writes the gradient of a kernel as a convolution of its own, turns its images round for it
    first, and only what turns the result back keeps the name.
    """
    if instruction.op_name or instruction.opcode in ("parameter", "constant"):
        return instruction.op_name
    waiting, seen = [instruction], set()
    while waiting and len(seen) < _FAR:
        current = waiting.pop(0)
        if current.op_name:
            return current.op_name
        seen.add(current.name)
        waiting += [r for r in program.readers(current) if r.name not in seen]
    inside = [i for i in program.inside(instruction) if i.opcode != "parameter"]
    return next((inner.op_name for inner in reversed(inside) if inner.op_name), "")


def path_of(op_name: str) -> tuple[str, ...]:
    """Scopes and primitive of an op_name, without the transformations around them."""
    before = None
    while before != op_name:
        before, op_name = op_name, _WRAPPERS.sub(r"\1", op_name)
    return tuple(part for part in op_name.split("/") if part)


def part_of(op_name: str) -> str:
    """The part of the step that `rrd_jax.step` opened a scope for; "" for none."""
    for scope in path_of(op_name):
        if scope in ("input", "teacher", "student", "update"):
            return scope
        if scope.startswith("objective_"):
            return f"objective {scope.removeprefix('objective_')}"
    return ""


def is_backward(op_name: str) -> bool:
    """Whether it is of a gradient; what is computed a second time for one is not."""
    return "transpose(" in op_name and "rematted_computation" not in op_name


def is_of_convolution(op_name: str) -> bool:
    """Whether a layer that convolves, or the primitive, is in the path."""
    return any("conv" in scope or scope.startswith("downsample") for scope in path_of(op_name))


# By the path of a layer: sizes of images and of kernels that its forward convolutions read.
_Sizes = dict[tuple[str, ...], tuple[set[int], set[int]]]


def _forward_sizes(program: Program) -> _Sizes:
    sizes: _Sizes = collections.defaultdict(lambda: (set(), set()))
    for instruction in program.instructions.values():
        found = counting.convolution(program, instruction)
        op_name = found and name_of(program, instruction)
        if op_name and not is_backward(op_name):
            images, kernels = sizes[path_of(op_name)[:-1]]
            images.add(found.image.size)
            kernels.add(found.kernel.size)
    return sizes


def described(found: Convolution, op_name: str, forward: _Sizes) -> tuple[str, str]:
    """Direction of a convolution, and the shape of the network's convolution behind it."""
    direction = _direction(found, op_name, forward)
    if direction == OF_KERNEL:  # the window is the gradient of the result
        taps, places, stride = found.places, found.window, found.spacing
        channels = found.images if found.groups == 1 else found.features
        shape = channels, found.features
    elif direction == OF_IMAGES:
        shape = found.features, found.lhs_channels
        taps, stride = found.window, found.spread
        places = tuple(-(-n // by) for n, by in zip(found.places, stride, strict=True))
    else:
        taps, places, stride = found.window, found.places, found.stride
        shape = found.lhs_channels, found.features
    label = f"{_sides(taps)}, {shape[0]} to {shape[1]} channels, {_sides(places)} places"
    if max(stride, default=1) > 1:
        label += f", stride {max(stride)}"
    if found.groups > 1:
        label += f", {found.groups} groups"
    return direction, label


def _direction(found: Convolution, op_name: str, forward: _Sizes) -> str:
    if not is_backward(op_name):
        return FORWARD
    images, kernels = forward.get(path_of(op_name)[:-1], (set(), set()))
    is_image, is_kernel = found.result.size in images, found.result.size in kernels
    if is_image == is_kernel:  # not known: a kernel has fewer places than the images
        is_kernel = math.prod(found.window) > math.prod(found.places)
    return OF_KERNEL if is_kernel else OF_IMAGES


def _direction_of_product(op_name: str, products: list[Instruction], forward: _Sizes) -> str:
    if not is_backward(op_name):
        return FORWARD
    images, kernels = forward.get(path_of(op_name)[:-1], (set(), set()))
    sizes = {product.result.size for product in products}
    if sizes & kernels and not sizes & images:
        return OF_KERNEL
    return OF_IMAGES if sizes & images else "gradient"


def _joint(described: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Of the convolutions of one instruction."""
    directions, labels = zip(*described, strict=True)
    if len(labels) == 1:
        return directions[0], labels[0]
    same = len(set(directions)) == 1
    return directions[0] if same else "several", f"{len(labels)} in one fusion"


def _product(program: Program, instruction: Instruction) -> str:
    """[M, K] by [K, N], as M x K x N; of several at once, with their number before it."""
    depth, result = counting.contracted(program, instruction), instruction.result
    left = program.operand(instruction, 0).size
    rows = max(left // max(depth, 1), 1)
    return f"{rows} x {depth} x {max(result.size // rows, 1)}"


def _sides(lengths: Iterable[int]) -> str:
    return "x".join(map(str, lengths))
