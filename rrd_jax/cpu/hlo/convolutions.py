"""The convolutions of a compiled program: their shapes, whoever computes them."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator

from rrd_jax.cpu.hlo.program import Array, Instruction, Program, parse

_WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")
_LABELS = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")
_GROUPS = re.compile(r"\b(?:feature_group_count|batch_group_count)=(\d+)")
_CALL = re.compile(r" (?:convolution|custom-call)\(([^)]*)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_ASSIGNED = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = ")
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


def convolutions(text: str) -> Iterator[tuple[Instruction, Convolution]]:
    """The convolutions of a compiled program that are instructions of their own.

    Args:
      text: of the program. Only what they and their operands are is parsed, which is quick.
    """
    lines = text.splitlines()
    is_one = [_CALL.search(line) for line in lines]
    operands = {name for match in is_one if match for name in _NAME.findall(match[1])}
    kept = [
        line
        for line, match in zip(lines, is_one, strict=True)
        if match or ((found := _ASSIGNED.match(line)) and found[1] in operands)
    ]
    program = parse("\n".join(["of_them {", *kept]))
    for instruction in program.instructions.values():
        if found := convolution(program, instruction):
            yield instruction, found


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


def custom_target(instruction: Instruction) -> str:
    """What a custom call calls; "" for another instruction."""
    found = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return found.group(1) if found and instruction.opcode == "custom-call" else ""


def _config(instruction: Instruction) -> str:
    """The JSON that a backend has left with an instruction."""
    found = _CONFIG.search(instruction.attributes)
    return found.group(1) if found else "{}"
