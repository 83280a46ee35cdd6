"""What an instruction has to compute: floating-point operations of convolutions and products.

A convolution of B images, a kernel of H x W taps, C channels a group to D features at P places has
2 B P H W C D operations, and each of its two gradients has as many. Taps on the zeros of padding
count, as in papers; the holes of a dilated image, which XLA writes the gradient of a stride with,
do not. XLA's own estimates leave padding out, and most of what is in custom calls.
"""

import dataclasses
import json
import math
import re

from experiments.profile.hlo import Array, Instruction, Program

_WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")
_LABELS = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")
_GROUPS = re.compile(r"\b(?:feature_group_count|batch_group_count)=(\d+)")
_CONFIG = re.compile(r"\bbackend_config=(\{.*\})")


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution as the compiler writes it; of a gradient it is another one than the network's.

    Attributes:
      image: what the window walks over.
      kernel: what it holds.
      result: what it makes.
      places: of the result, of each spatial axis.
      window: taps, likewise.
      stride: of the window.
      spread: what lies between two pixels of the image: a stride, of the gradient of images.
      spacing: between two taps of the window: a stride, of the gradient of a kernel.
      channels: that each value of the result sums over.
      lhs_channels: of the image.
      features: of the result.
      images: of the result's batch axis.
      groups: that channels are split into.
    """

    image: Array
    kernel: Array
    result: Array
    places: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    spread: tuple[int, ...]
    spacing: tuple[int, ...]
    channels: int
    lhs_channels: int
    features: int
    images: int
    groups: int = 1
    low: tuple[int, ...] = ()

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        axes = (self.places, self.window, self.stride, self.spread, self.spacing, self.low)
        taps = math.prod(_taps(*axis) for axis in zip(*axes, strict=True))
        return 2 * self.images * self.features * self.channels * taps


def _taps(places: int, window: int, stride: int, spread: int, spacing: int, low: int) -> int:
    """Pairs of a place and a tap that meet no hole between two pixels, along one axis."""
    if spread == 1:
        return places * window
    return sum(
        (place * stride + tap * spacing - low) % spread == 0
        for place in range(places)
        for tap in range(window)
    )


def flops(program: Program, instruction: Instruction) -> int:
    """Operations of an instruction's convolutions and products, those inside it too."""
    return sum(_flops(program, inner) for inner in program.inside(instruction))


def _flops(program: Program, instruction: Instruction) -> int:
    if found := convolution(program, instruction):
        return found.flops
    if depth := contracted(program, instruction):
        return 2 * instruction.result.size * depth
    return 0


def convolution(program: Program, instruction: Instruction) -> Convolution | None:
    """The convolution that an instruction is; None for none."""
    target = custom_target(instruction)
    if target == "__onednn$convolution":
        return _onednn(program, instruction)
    if instruction.opcode != "convolution" and not target.startswith("__cudnn$conv"):
        return None
    labels = _LABELS.search(instruction.attributes)
    if labels is None:
        return None
    image, kernel = (program.operand(instruction, i) for i in (0, 1))
    result = instruction.result
    # cuDNN's gradients are described by the convolution whose gradients they are.
    if target == "__cudnn$convBackwardInput":
        image, result = result, image
    elif target == "__cudnn$convBackwardFilter":
        kernel, result = result, kernel
    groups = _GROUPS.findall(instruction.attributes)
    return _described(image, kernel, result, labels.groups(), instruction.attributes, groups)


def _described(image, kernel, result, labels, attributes, groups) -> Convolution:
    lhs, rhs, out = labels
    axes = sorted(character for character in out if character.isdigit())
    window = _window(attributes, len(axes))
    return Convolution(
        image,
        kernel,
        result,
        places=tuple(result.shape[out.index(axis)] for axis in axes),
        window=tuple(kernel.shape[rhs.index(axis)] for axis in axes),
        stride=window["stride"],
        spread=window["lhs_dilate"],
        spacing=window["rhs_dilate"],
        low=window["pad"],
        channels=kernel.shape[rhs.index("i")],
        lhs_channels=image.shape[lhs.index("f")],
        features=result.shape[out.index("f")],
        images=result.shape[out.index("b")],
        groups=max(map(int, groups), default=1),
    )


def _window(attributes: str, axes: int) -> dict[str, tuple[int, ...]]:
    """What of a window differs from axis to axis; of padding, the zeros before the first pixel."""
    found = _WINDOW.search(attributes)
    given = dict(pair.split("=") for pair in found.group(1).split()) if found else {}
    window = {
        name: tuple(map(int, given[name].split("x"))) if name in given else (1,) * axes
        for name in ("stride", "lhs_dilate", "rhs_dilate")
    }
    pads = re.findall(r"(-?\d+)_-?\d+", given.get("pad", ""))
    return window | {"pad": tuple(map(int, pads)) or (0,) * axes}


def _onednn(program: Program, instruction: Instruction) -> Convolution:
    config = json.loads(_config(instruction))["onednn_conv_config"]
    image, kernel = (program.operand(instruction, i) for i in (0, 1))
    result, window = instruction.result, config["window"]
    axes, filters = len(result.shape) - 2, config["kernel"]["filter"]

    def numbers(name):
        return tuple(map(int, window.get(name) or ())) or (1,) * axes

    def lengths(array, description):
        return tuple(array.shape[int(axis)] for axis in description["spatial_dims"])

    out = config["output"]["data"]
    return Convolution(
        image,
        kernel,
        result,
        places=lengths(result, out),
        window=lengths(kernel, filters),
        stride=numbers("strides"),
        spread=(1,) * axes,
        spacing=numbers("window_dilations"),
        low=(0,) * axes,
        channels=kernel.shape[int(filters["input_feature_dim"])],
        lhs_channels=image.shape[int(config["input"]["data"]["feature_dim"])],
        features=result.shape[int(out["feature_dim"])],
        images=result.shape[int(out["batch_dim"])],
        groups=int(config.get("feature_groups", 1)),
    )


def contracted(program: Program, instruction: Instruction) -> int:
    """The length of the axes that a matrix product sums over; 0 for what is none."""
    if instruction.opcode == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        numbers = re.findall(r"\d+", axes.group(1)) if axes else []
        shape = program.operand(instruction, 0).shape
        return math.prod(shape[int(axis)] for axis in numbers)
    target = custom_target(instruction)
    if not any(part in target for part in ("onednn$matmul", "cublas", "dot", "gemm")):
        return 0
    # Of B products [M, K] by [K, N]: BMK * BKN / BMN = B K^2.
    left, right = (program.operand(instruction, i) for i in (0, 1))
    result = instruction.result
    batch = math.prod(result.shape[:-2])
    return math.isqrt(max(left.size * right.size // max(result.size * batch, 1), 0))


def custom_target(instruction: Instruction) -> str:
    """What a custom call calls; "" for another instruction."""
    found = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return found.group(1) if found and instruction.opcode == "custom-call" else ""


def _config(instruction: Instruction) -> str:
    """The JSON that a backend has left with an instruction."""
    found = _CONFIG.search(instruction.attributes)
    return found.group(1) if found else "{}"
