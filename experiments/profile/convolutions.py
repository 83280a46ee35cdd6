"""The convolutions of the networks behind those that a compiler makes of them.

A compiler may swap a convolution's image and kernel, and leaves out what meets padding alone. What
stays are the sizes of the three arrays, whichever of them is made of the other two.
"""

import collections
import math
from collections.abc import Iterable
from typing import NamedTuple

from experiments.profile import names
from rrd_jax.cpu import hlo
from rrd_jax.cpu.hlo import Convolution, Program

FORWARD, OF_IMAGES, OF_KERNEL = "forward", "gradient of images", "gradient of kernel"


class Described(NamedTuple):
    """Which convolution it is, of which direction, and its floating-point operations."""

    direction: str
    label: str
    flops: int


class Known:
    """The forward convolutions of a program.

    Args:
      program: as JAX wrote it.
    """

    def __init__(self, program: Program):
        self._by_path = collections.defaultdict(list)
        self._by_sizes = collections.defaultdict(list)
        for instruction in program.instructions.values():
            found = hlo.convolution(program, instruction)
            op_name = found and names.of(program, instruction)
            if op_name and not names.is_backward(op_name):
                self._by_path[_layer(op_name), _sizes(found)].append(found)
                self._by_sizes[_sizes(found)].append(found)

    def described(self, found: Convolution, op_name: str) -> Described:
        """What a convolution of the compiled program is.

        Args:
          found: as the compiler wrote it.
          op_name: of it, or of what it is made for.
        """
        backward = names.is_backward(op_name)
        as_written = _direction(found) if backward else FORWARD
        forward = self._find(op_name, _sizes(found))
        if forward is None:
            return Described(as_written, _label(found, as_written), found.flops)
        direction = _made(found.result.size, forward) if backward else FORWARD
        return Described(direction or as_written, _label(forward, FORWARD), forward.flops)

    def described_product(
        self, sizes: tuple[int, int, int], op_name: str, label: str, flops: int
    ) -> Described:
        """What a product in a convolution's place is.

        Args:
          sizes: of its two operands and its result.
          op_name: of it.
          label: its shape.
          flops: its floating-point operations.
        """
        backward = names.is_backward(op_name)
        forward = self._find(op_name, tuple(sorted(sizes)))
        if forward is None:
            return Described("gradient" if backward else FORWARD, f"as product {label}", flops)
        direction = (_made(sizes[2], forward) or "gradient") if backward else FORWARD
        return Described(direction, f"{_label(forward, FORWARD)}, as product", forward.flops)

    def _find(self, op_name: str, sizes: tuple[int, ...]) -> Convolution | None:
        """The forward convolution of three such arrays, of the same layer if there is one."""
        found = self._by_path.get((_layer(op_name), sizes)) or self._by_sizes.get(sizes)
        return found[0] if found else None


def _made(size: int, forward: Convolution) -> str:
    """Which gradient has this size; "" where both have."""
    if forward.image.size == forward.kernel.size == size:
        return ""
    return OF_KERNEL if size == forward.kernel.size else OF_IMAGES


def _layer(op_name: str) -> tuple[str, ...]:
    return names.path(op_name)[:-1]


def _sizes(found: Convolution) -> tuple[int, ...]:
    return tuple(sorted((found.image.size, found.kernel.size, found.result.size)))


def _direction(found: Convolution) -> str:
    """Of a gradient: a kernel has fewer places than the images that its window walks over."""
    return OF_KERNEL if math.prod(found.window) > math.prod(found.places) else OF_IMAGES


def _label(found: Convolution, direction: str) -> str:
    """The shape of the network's convolution."""
    if direction == OF_KERNEL:  # the window is the gradient of the result
        taps, places, stride = found.places, found.window, found.spacing
        channels = found.images, found.features
    elif direction == OF_IMAGES:
        taps, stride = found.window, found.spread
        places = tuple(-(-n // by) for n, by in zip(found.places, stride, strict=True))
        channels = found.features, found.lhs_channels
    else:
        taps, places, stride = found.window, found.places, found.stride
        channels = found.lhs_channels, found.features
    label = f"{_sides(taps)}, {channels[0]} to {channels[1]} channels, {_sides(places)} places"
    if max(stride, default=1) > 1:
        label += f", stride {max(stride)}"
    return f"{label}, {found.groups} groups" if found.groups > 1 else label


def _sides(lengths: Iterable[int]) -> str:
    return "x".join(map(str, lengths))
