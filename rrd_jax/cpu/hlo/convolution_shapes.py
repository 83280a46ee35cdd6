"""The shapes of the convolutions of a compiled program, in XLA, oneDNN or cuDNN."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator

from rrd_jax.cpu.hlo.parser import Array, Instruction, Program, parse

_WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")
_LABELS = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")
_GROUPS = re.compile(r"\b(?:feature_group_count|batch_group_count)=(\d+)")
_CALL = re.compile(r" (?:convolution|custom-call)\(([^)]*)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_ASSIGNED = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = ")
_CONFIG = re.compile(r"\bbackend_config=(\{.*\})")


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution as XLA writes it; gradients are convolutions of other shapes.

    Tuples have one number for each spatial axis.

    Attributes:
      image: the left operand, over which the window moves.
      kernel: the right operand, the values of the window.
      result: the result.
      output_size: spatial size of the result.
      window: number of taps.
      stride: stride of the window.
      lhs_dilation: distance between two pixels of the image. In the gradient of images, this is the
        stride of the forward convolution.
      rhs_dilation: distance between two taps of the window. In the gradient of a kernel, this is
        the stride of the forward convolution.
      channels: channels of the kernel, over which each value of the result sums.
      image_channels: channels of the image.
      features: channels of the result.
      batch: size of the result's batch axis.
      groups: number of groups into which the channels are split.
      padding_low: padding before the first pixel.
    """

    image: Array
    kernel: Array
    result: Array
    output_size: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    channels: int
    image_channels: int
    features: int
    batch: int
    groups: int = 1
    padding_low: tuple[int, ...] = ()

    @property
    def flops(self) -> int:
        """Number of floating-point operations."""
        axes = (
            self.output_size,
            self.window,
            self.stride,
            self.lhs_dilation,
            self.rhs_dilation,
            self.padding_low,
        )
        taps = math.prod(_taps(*axis) for axis in zip(*axes, strict=True))
        return 2 * self.batch * self.features * self.channels * taps


def _taps(
    output_size: int,
    window: int,
    stride: int,
    lhs_dilation: int,
    rhs_dilation: int,
    padding_low: int,
) -> int:
    """Returns the number of pairs of an output position and a tap that read a pixel, on one axis.

    Pairs that read the zeros between the pixels of a dilated image are not counted.
    """
    if lhs_dilation == 1:
        return output_size * window
    return sum(
        (position * stride + tap * rhs_dilation - padding_low) % lhs_dilation == 0
        for position in range(output_size)
        for tap in range(window)
    )


def find_convolutions(text: str) -> Iterator[tuple[Instruction, Convolution]]:
    """Yields the convolutions of a compiled program that are separate instructions.

    For speed, only the lines of convolutions and of their operands are parsed.

    Args:
      text: the program.
    """
    lines = text.splitlines()
    calls = [_CALL.search(line) for line in lines]
    operands = {name for call in calls if call for name in _NAME.findall(call[1])}
    selected = [
        line
        for line, call in zip(lines, calls, strict=True)
        if call or ((assigned := _ASSIGNED.match(line)) and assigned[1] in operands)
    ]
    program = parse("\n".join(["convolutions {", *selected]))
    for instruction in program.instructions.values():
        if convolution := parse_convolution(program, instruction):
            yield instruction, convolution


def parse_convolution(program: Program, instruction: Instruction) -> Convolution | None:
    """Returns the shapes of an instruction's convolution; None for other instructions."""
    target = custom_call_target(instruction)
    if target == "__onednn$convolution":
        return _onednn(program, instruction)
    if instruction.opcode != "convolution" and not target.startswith("__cudnn$conv"):
        return None
    labels = _LABELS.search(instruction.attributes)
    if labels is None:
        return None
    image, kernel = (program.operand(instruction, i) for i in (0, 1))
    result = instruction.result
    # cuDNN describes a gradient by the attributes of the forward convolution.
    if target == "__cudnn$convBackwardInput":
        image, result = result, image
    elif target == "__cudnn$convBackwardFilter":
        kernel, result = result, kernel
    groups = _GROUPS.findall(instruction.attributes)
    return _from_labels(image, kernel, result, labels.groups(), instruction.attributes, groups)


def _from_labels(image, kernel, result, labels, attributes, groups) -> Convolution:
    lhs, rhs, out = labels
    axes = sorted(character for character in out if character.isdigit())
    window = _window(attributes, len(axes))
    return Convolution(
        image,
        kernel,
        result,
        output_size=tuple(result.shape[out.index(axis)] for axis in axes),
        window=tuple(kernel.shape[rhs.index(axis)] for axis in axes),
        stride=window["stride"],
        lhs_dilation=window["lhs_dilate"],
        rhs_dilation=window["rhs_dilate"],
        padding_low=window["pad"],
        channels=kernel.shape[rhs.index("i")],
        image_channels=image.shape[lhs.index("f")],
        features=result.shape[out.index("f")],
        batch=result.shape[out.index("b")],
        groups=max(map(int, groups), default=1),
    )


def _window(attributes: str, axes: int) -> dict[str, tuple[int, ...]]:
    """Returns strides, dilations and, as "pad", the padding before the first pixel, by axis."""
    match = _WINDOW.search(attributes)
    fields = dict(pair.split("=") for pair in match.group(1).split()) if match else {}
    window = {
        name: tuple(map(int, fields[name].split("x"))) if name in fields else (1,) * axes
        for name in ("stride", "lhs_dilate", "rhs_dilate")
    }
    pads = re.findall(r"(-?\d+)_-?\d+", fields.get("pad", ""))
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
        output_size=lengths(result, out),
        window=lengths(kernel, filters),
        stride=numbers("strides"),
        lhs_dilation=(1,) * axes,
        rhs_dilation=numbers("window_dilations"),
        padding_low=(0,) * axes,
        channels=kernel.shape[int(filters["input_feature_dim"])],
        image_channels=image.shape[int(config["input"]["data"]["feature_dim"])],
        features=result.shape[int(out["feature_dim"])],
        batch=result.shape[int(out["batch_dim"])],
        groups=int(config.get("feature_groups", 1)),
    )


def custom_call_target(instruction: Instruction) -> str:
    """Returns the target of a custom call; "" for other instructions."""
    match = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return match.group(1) if match and instruction.opcode == "custom-call" else ""


def _config(instruction: Instruction) -> str:
    """Returns an instruction's backend config, which is JSON."""
    match = _CONFIG.search(instruction.attributes)
    return match.group(1) if match else "{}"
