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
            found = hlo.parse_convolution(program, instruction)
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
        forward = self._find(op_name, _sizes(found))
        if forward is None:
            return Described("gradient" if backward else FORWARD, _label(found), found.flops)
        direction = FORWARD
        if backward:
            same = forward.image.size == forward.kernel.size
            # A kernel has fewer places than the images that its window walks over.
            large = math.prod(found.window) > math.prod(found.output_size)
            of_kernel = large if same else found.result.size == forward.kernel.size
            direction = OF_KERNEL if of_kernel else OF_IMAGES
        return Described(direction, _label(forward), forward.flops)

    def _find(self, op_name: str, sizes: tuple[int, ...]) -> Convolution | None:
        """The forward convolution of three such arrays, of the same layer if there is one."""
        found = self._by_path.get((_layer(op_name), sizes)) or self._by_sizes.get(sizes)
        return found[0] if found else None


def _layer(op_name: str) -> tuple[str, ...]:
    return names.path(op_name)[:-1]


def _sizes(found: Convolution) -> tuple[int, ...]:
    return tuple(sorted((found.image.size, found.kernel.size, found.result.size)))


def _label(convolution: Convolution) -> str:
    """Returns the shape of a forward convolution."""
    channels = f"{convolution.image_channels} to {convolution.features} channels"
    label = f"{_sides(convolution.window)}, {channels}, {_sides(convolution.output_size)} places"
    if max(convolution.stride, default=1) > 1:
        label += f", stride {max(convolution.stride)}"
    return f"{label}, {convolution.groups} groups" if convolution.groups > 1 else label


def _sides(lengths: Iterable[int]) -> str:
    return "x".join(map(str, lengths))
