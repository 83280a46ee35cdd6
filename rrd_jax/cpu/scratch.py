"""What a CPU's libraries take for themselves in a step, beside XLA's plan of its memory.

A convolution that oneDNN is not handed is Eigen's: a product of patches of the images with the
kernel. What it keeps of them lies in memory that it asks the system for, as XLA's plan cannot know.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from rrd_jax.cpu import hlo

# Eigen packs a product's operands in slices of so many summed terms at most. Of the few products
# with very many terms, the gradients of kernels, two slices are there at once; of others, as
# measured, one.
_SLICE = 320


class Scratch(NamedTuple):
    """The memory of one instruction.

    Attributes:
      bytes: that it takes while it runs.
      instruction: whose it is.
    """

    bytes: int
    instruction: hlo.Instruction


def largest(text: str) -> Scratch | None:
    """The most that one of a program's convolutions takes; None where it has none of Eigen's.

    They are few, and follow each other in most programs: two at once are not expected.

    Args:
      text: of a program compiled for a CPU.
    """
    return max(_each(text), default=None, key=lambda scratch: scratch.bytes)


def _each(text: str) -> Iterator[Scratch]:
    for instruction, convolution in hlo.convolutions(text):
        if instruction.opcode == "convolution":
            terms = _transposed if _is_transposed(convolution) else _patches
            yield Scratch(convolution.result.item * terms(convolution), instruction)


def _is_transposed(convolution: hlo.Convolution) -> bool:
    """Whether Eigen multiplies each pixel of the image with the kernel, and adds the patches up.

    That is the gradient of images where the stride is more than one.
    """
    others = (*convolution.stride, *convolution.spacing, convolution.groups)
    return max(convolution.spread) > 1 and max(others) == 1


def _transposed(convolution: hlo.Convolution) -> int:
    """Numbers of all patches, and of the packed image."""
    pixels = convolution.image.size // convolution.lhs_channels
    patch = math.prod(convolution.window) * convolution.features
    return pixels * (patch + min(convolution.lhs_channels, 2 * _SLICE))


def _patches(convolution: hlo.Convolution) -> int:
    """Numbers of packed patches, which are the rows of the product, and of the packed kernel."""
    patch = math.prod(convolution.window) * convolution.channels
    places = math.prod(convolution.places)
    slices = 2 if math.prod(convolution.window) > places else 1
    rows = convolution.images * places + convolution.features // convolution.groups
    return rows * min(patch, slices * _SLICE)
