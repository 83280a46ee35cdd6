"""Matches the convolutions of a compiled program with the convolutions of the networks.

The compiler may swap image and kernel, and drops parts that read only padding. The sizes of the
three arrays do not change, in the forward convolution and in its two gradients.
"""

import collections
import math
from collections.abc import Iterable
from typing import NamedTuple

from experiments.profile import names
from rrd_jax.cpu import hlo
from rrd_jax.cpu.hlo import Convolution, Program

FORWARD, IMAGE_GRADIENT, KERNEL_GRADIENT = "forward", "gradient of images", "gradient of kernel"


class Match(NamedTuple):
    """The forward convolution that an instruction belongs to.

    Attributes:
      direction: one of the constants above, or "gradient" if unknown.
      label: shape of the forward convolution.
      flops: floating-point operations of the instruction.
    """

    direction: str
    label: str
    flops: int


class ForwardConvolutions:
    """The forward convolutions of a program.

    Args:
      program: the program as JAX wrote it, before compilation.
    """

    def __init__(self, program: Program):
        self._by_path = collections.defaultdict(list)
        self._by_sizes = collections.defaultdict(list)
        for instruction in program.instructions.values():
            convolution = hlo.parse_convolution(program, instruction)
            op_name = convolution and names.find_op_name(program, instruction)
            if op_name and not names.is_backward(op_name):
                self._by_path[_layer(op_name), _sizes(convolution)].append(convolution)
                self._by_sizes[_sizes(convolution)].append(convolution)

    def match(self, convolution: Convolution, op_name: str) -> Match:
        """Returns the forward convolution that a convolution of the compiled program belongs to.

        Args:
          convolution: the convolution, as the compiler wrote it.
          op_name: result of `names.find_op_name` for the convolution.
        """
        backward = names.is_backward(op_name)
        forward = self._find(op_name, _sizes(convolution))
        if forward is None:
            direction = "gradient" if backward else FORWARD
            return Match(direction, _label(convolution), convolution.flops)
        direction = FORWARD
        if backward:
            equal_sizes = forward.image.size == forward.kernel.size
            # The gradient of a kernel has a large window, the images, and a small result.
            is_large = math.prod(convolution.window) > math.prod(convolution.output_size)
            is_kernel = is_large if equal_sizes else convolution.result.size == forward.kernel.size
            direction = KERNEL_GRADIENT if is_kernel else IMAGE_GRADIENT
        return Match(direction, _label(forward), forward.flops)

    def _find(self, op_name: str, sizes: tuple[int, ...]) -> Convolution | None:
        """Returns a forward convolution with three arrays of these sizes, of this layer first."""
        matches = self._by_path.get((_layer(op_name), sizes)) or self._by_sizes.get(sizes)
        return matches[0] if matches else None


def _layer(op_name: str) -> tuple[str, ...]:
    return names.path(op_name)[:-1]


def _sizes(convolution: Convolution) -> tuple[int, ...]:
    arrays = (convolution.image, convolution.kernel, convolution.result)
    return tuple(sorted(array.size for array in arrays))


def _label(convolution: Convolution) -> str:
    """Returns the shape of a forward convolution."""
    channels = f"{convolution.image_channels} to {convolution.features} channels"
    label = f"{_sides(convolution.window)}, {channels}, {_sides(convolution.output_size)} positions"
    if max(convolution.stride, default=1) > 1:
        label += f", stride {max(convolution.stride)}"
    return f"{label}, {convolution.groups} groups" if convolution.groups > 1 else label


def _sides(lengths: Iterable[int]) -> str:
    return "x".join(map(str, lengths))
