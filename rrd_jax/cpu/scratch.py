"""Scratch memory that Eigen allocates for convolutions on a CPU, outside of XLA's memory plan.

Eigen computes all convolutions that XLA does not hand to oneDNN. Eigen multiplies patches of the
images by the kernel, and allocates memory for packed patches that XLA does not count.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from rrd_jax.cpu import hlo

# Eigen packs the operands of a product in slices of at most this many summed terms. According to
# measurements, two slices exist at the same time in products with very many terms, which are the
# gradients of kernels, and one slice in other products.
_SLICE = 320


class Scratch(NamedTuple):
    """The scratch memory of one instruction.

    Attributes:
      bytes: memory allocated while the instruction runs.
      instruction: the instruction.
    """

    bytes: int
    instruction: hlo.Instruction


def largest_scratch(text: str) -> Scratch | None:
    """Returns the convolution with the most scratch memory; None if Eigen computes no convolution.

    Programs have few convolutions, most of which run one after the other. The estimate assumes that
    no two convolutions run at the same time.

    Args:
      text: a program compiled for a CPU.
    """
    return max(_eigen_scratch(text), default=None, key=lambda scratch: scratch.bytes)


def _eigen_scratch(text: str) -> Iterator[Scratch]:
    for instruction, convolution in hlo.find_convolutions(text):
        if instruction.opcode == "convolution":
            terms = _transposed_terms if _is_transposed(convolution) else _forward_terms
            yield Scratch(convolution.result.itemsize * terms(convolution), instruction)


def _is_transposed(convolution: hlo.Convolution) -> bool:
    """Returns True if Eigen multiplies each pixel by the kernel and adds up the patches.

    Eigen does this for the gradient of the images if the stride of the convolution is above 1.
    """
    factors = (*convolution.stride, *convolution.rhs_dilation, convolution.groups)
    return max(convolution.lhs_dilation) > 1 and max(factors) == 1


def _transposed_terms(convolution: hlo.Convolution) -> int:
    """Returns the number of elements of all patches and of the packed image."""
    pixels = convolution.image.size // convolution.image_channels
    patch = math.prod(convolution.window) * convolution.features
    return pixels * (patch + min(convolution.image_channels, 2 * _SLICE))


def _forward_terms(convolution: hlo.Convolution) -> int:
    """Returns the number of elements of the packed patches and of the packed kernel.

    The patches are the rows of the product.
    """
    patch = math.prod(convolution.window) * convolution.channels
    positions = math.prod(convolution.output_size)
    slices = 2 if math.prod(convolution.window) > positions else 1
    rows = convolution.batch * positions + convolution.features // convolution.groups
    return rows * min(patch, slices * _SLICE)
