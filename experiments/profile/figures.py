"""The figures of a profile: times of instructions, summed by kind and part."""

import collections
import time
from typing import Any

import jax
import jax.numpy as jnp

from experiments.profile import kinds
from experiments.profile.kinds import Entry
from experiments.profile.timeline import Timeline

_TYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16, "f16": jnp.float16, "f64": jnp.float64}
_PARTS = ("teacher", "student", "student, backward")
_KINDS = (
    kinds.CONVOLUTIONS, kinds.PRODUCTS, kinds.REDUCTIONS, kinds.COPIES, kinds.OTHERS,
)  # fmt: skip
UNKNOWN = Entry("not in the program's text", "", False)


def peak_rate(dtype: str, side: int = 0) -> float:
    """Returns the FLOP/s of one large matrix product on one device, the best of eight.

    Args:
      dtype: type of the matrices in HLO, such as f32.
      side: side of the square matrices; 0 for 2048 on a CPU and 8192 elsewhere.
    """
    side = side or (2048 if jax.default_backend() == "cpu" else 8192)
    square = jnp.ones((side, side), _TYPES.get(dtype, jnp.float32))
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(square, square))
    times = []
    for _ in range(8):
        start = time.perf_counter()
        jax.block_until_ready(multiply(square, square))
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def collect(
    entries: dict[str, Entry],
    timeline: Timeline,
    steps: int,
    peaks: dict[str, float],
) -> dict[str, Any]:
    """Returns the contents of the tables, in milliseconds per step.

    Args:
      entries: classes of the instructions, by name.
      timeline: the times of a trace.
      steps: number of traced steps.
      peaks: FLOP/s of a device, by type.

    Returns:
      JSON with `parts`, which add up with `idle` to `window`, the time from the first instruction
      to the last; with `groups` of equal convolutions and products; and with `instructions`. The
      slowest groups and instructions come first.
    """
    rows = []
    for name, seconds in timeline.seconds.items():
        entry = entries.get(name, UNKNOWN)
        rows.append((name, entry, 1000 * seconds / steps, timeline.calls[name] / steps))
    parts = _parts(rows)
    idle = 1000 * (timeline.window - timeline.busy) / steps
    groups = _groups(rows, peaks)
    rows.sort(key=lambda row: -row[2])
    return {
        "window": 1000 * timeline.window / steps,
        "idle": idle,
        "parts": parts,
        "groups": groups,
        "instructions": [
            {"name": name, "kind": entry.kind, "part": entry.part, "milliseconds": milliseconds,
             "calls": calls, "op_name": entry.op_name}
            for name, entry, milliseconds, calls in rows
        ],
        "peaks": {dtype: rate / 1e9 for dtype, rate in peaks.items()},
    }  # fmt: skip


def _parts(rows: list[tuple[str, Entry, float, float]]) -> list[dict[str, Any]]:
    """Returns the milliseconds of the networks by kind and network, and of the rest of the step."""
    networks = {kind: dict.fromkeys(_PARTS, 0.0) for kind in _KINDS}
    rest: dict[str, float] = collections.defaultdict(float)
    for _, entry, milliseconds, _ in rows:
        if entry.part in ("teacher", "student") and entry.kind in networks:
            column = entry.part + (", backward" if entry.backward else "")
            networks[entry.kind][column] += milliseconds
        else:
            rest[_row_name(entry)] += milliseconds
    rows_of_networks = [
        {"what": kind, **times, "all": sum(times.values())} for kind, times in networks.items()
    ]
    order = sorted(rest, key=lambda what: (not what.startswith("objective"), what))
    return rows_of_networks + [{"what": what, "all": rest[what]} for what in order]


def _row_name(entry: Entry) -> str:
    """Returns the name of the table row for an instruction outside of the networks."""
    if entry is UNKNOWN:
        return entry.kind
    return {"input": "input, augmentation", "": "unknown part"}.get(entry.part, entry.part)


def _groups(
    rows: list[tuple[str, Entry, float, float]], peaks: dict[str, float]
) -> list[dict[str, Any]]:
    """Returns groups of equal convolutions and products with their rates, the slowest first."""
    groups: dict[tuple, dict[str, Any]] = {}
    for _, entry, milliseconds, calls in rows:
        if not entry.flops:
            continue
        key = (entry.kind, entry.part, entry.direction, entry.label, entry.dtype)
        group = groups.setdefault(
            key,
            dict(zip(("kind", "part", "direction", "shape", "type"), key, strict=True))
            | {"count": 0, "milliseconds": 0.0, "gigaflop": 0.0},
        )
        group["count"] += calls * entry.count
        group["milliseconds"] += milliseconds
        group["gigaflop"] += calls * entry.flops / 1e9
    for group in groups.values():
        peak = peaks.get(group["type"]) or next(iter(peaks.values()), 0.0)
        group["rate"] = 1000 * group["gigaflop"] / max(group["milliseconds"], 1e-9)
        group["of_peak"] = 1e9 * group["rate"] / peak if peak else 0.0
    return sorted(groups.values(), key=lambda group: -group["milliseconds"])
