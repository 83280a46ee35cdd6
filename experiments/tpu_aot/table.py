"""Figures of compiled TPU programs: collectives, estimated cycles and a summary table."""

import math
import re
from typing import Any

from rrd_jax.terminal import tables

# GB per chip.
_HBM = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}
_COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)
_ARRAY = re.compile(r"\b[a-z]+[a-z\d]*\[[\d,]*\]")


def collectives(text: str) -> dict[str, list[list[str]]]:
    """Returns the arrays of each collective of an HLO module, such as ["f32[64,128]"], by kind."""
    arrays: dict[str, dict[str, list[str]]] = {}
    computation = ""
    for line in text.split("\n"):
        if line[:1] == "%":
            computation = line
        if match := _COLLECTIVE.search(line):
            # TPUs compute an all-reduce and the slice of its result at once.
            is_sliced = match[2] == "all-reduce" and "all-reduce-scatter" in computation
            # A gather that is fused with a product has several lines with one channel; combined
            # reductions share a channel, but each has one line.
            channel = None if match[2] == "all-reduce" else re.search(r"channel_id=\d+", line)
            by_channel = arrays.setdefault("reduce-scatter" if is_sliced else match[2], {})
            by_channel[channel[0] if channel else line] = _ARRAY.findall(match[1])
    return {kind: list(by_channel.values()) for kind, by_channel in sorted(arrays.items())}


def cycles(text: str, scope: str = "") -> int:
    """Returns XLA's estimate of the cycles of an HLO module's instructions, run in sequence.

    The estimate serves to compare two ways of writing a program. The body of a loop counts once,
    and parallel execution and collectives are not considered.

    Args:
      text: the HLO module.
      scope: a named scope; "" for all instructions.
    """
    lines = [line for line in text.split("\n") if f"/{scope}/" in line] if scope else [text]
    return sum(int(n) for line in lines for n in re.findall(r'"estimated_cycles":"(\d+)"', line))


def summary(results: dict[str, dict[str, Any]]) -> str:
    """Returns a table with a row for each step; sizes and FLOPs are those of one chip."""
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
        "GFLOP counted",
        "MB moved",
        "estimated Mcycles",
        "of these the teacher's",
        "collectives: number, MB, largest array",
        "compilation, s",
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
                f"{figures['teacher_cycles'] / max(figures['cycles'], 1):.0%}",
                "; ".join(_describe(*item) for item in figures["collectives"].items()) or "-",
                f"{figures['seconds']:.0f}",
            )
        )
    return tables.markdown(header, rows)


def _describe(kind: str, returned: list[list[str]]) -> str:
    arrays = [array for arrays in returned for array in arrays]
    size = sum(map(_bytes, arrays)) / 1e6
    return f"{len(returned)} {kind}, {size:.1f}, {max(arrays, key=_bytes)}"


def _bytes(array: str) -> int:
    dtype, shape = array.removesuffix("]").split("[")
    width = 8 if dtype == "pred" else int(re.sub(r"\D*(\d+).*", r"\1", dtype))
    return math.prod(int(n) for n in shape.split(",") if n) * width // 8
