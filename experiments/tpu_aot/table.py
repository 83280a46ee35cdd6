"""What compiled TPU programs say of themselves: their collectives, and a table of their figures."""

import math
import re
from typing import Any

from rrd_jax.terminal import tables

_HBM = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}  # GB a chip
_COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)
_ARRAY = re.compile(r"\b[a-z]+[a-z\d]*\[[\d,]*\]")


def collectives(text: str) -> dict[str, list[list[str]]]:
    """By kind, the arrays that each collective of an HLO module returns, as ["f32[64,128]"]."""
    arrays: dict[str, dict[str, list[str]]] = {}
    for line in text.split("\n"):
        if match := _COLLECTIVE.search(line):
            # A collective that is fused with a product is in several lines, of the same channel.
            channel = re.search(r"channel_id=(\d+)", line)
            by_channel = arrays.setdefault(match[2], {})
            by_channel[channel[0] if channel else line] = _ARRAY.findall(match[1])
    return {kind: list(by_channel.values()) for kind, by_channel in sorted(arrays.items())}


def cycles(text: str) -> int:
    """What XLA expects the instructions of an HLO module to take, one after the other.

    A guess of the compiler, good for choosing between two ways to write the same: a loop's body
    counts once, and nothing is said of what runs side by side.
    """
    return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', text)))


def summary(results: dict[str, dict[str, Any]]) -> str:
    """A row for each step; sizes and FLOPs are of one chip."""
    header = (
        "step",
        "chips",
        "batch",
        "HBM, GB",
        "peak, MB",
        "arguments",
        "outputs",
        "temporaries",
        "program",
        "GFLOP by XLA",
        "counted",
        "MB moved",
        "Mcycles guessed",
        "collectives: number, largest array",
        "compiled in s",
    )
    rows = []
    for name, figures in results.items():
        names = ("peak", "arguments", "outputs", "temporaries", "program")
        rows.append(
            (
                name,
                f"{figures['chips']} {figures['kind']}",
                figures["batch_size"],
                _HBM.get(figures["kind"], "?"),
                *(f"{figures['bytes'][part] / 1e6:.1f}" for part in names),
                f"{figures['flops']['xla'] / 1e9:.1f}",
                f"{figures['flops']['counted'] / 1e9:.1f}",
                f"{figures['moved'] / 1e6:.0f}",
                f"{figures['cycles'] / 1e6:.2f}",
                "; ".join(_described(*item) for item in figures["collectives"].items()) or "-",
                f"{figures['seconds']:.0f}",
            )
        )
    return tables.markdown(header, rows)


def _described(kind: str, returned: list[list[str]]) -> str:
    largest = max((array for arrays in returned for array in arrays), key=_bytes)
    return f"{len(returned)} {kind}, {largest}"


def _bytes(array: str) -> int:
    dtype, shape = array.removesuffix("]").split("[")
    width = 8 if dtype == "pred" else int(re.sub(r"\D*(\d+).*", r"\1", dtype))
    return math.prod(int(n) for n in shape.split(",") if n) * width // 8
