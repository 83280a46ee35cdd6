"""The figures of a profile: sums of instructions' times by what they are."""

import collections
import time
from typing import Any

import jax
import jax.numpy as jnp

from experiments.profile import kinds
from experiments.profile.kinds import Entry
from experiments.profile.timeline import Timeline

_TYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16, "f16": jnp.float16, "f64": jnp.float64}
_PARTS = ("teacher", "student", "student, backwards")
_KINDS = (
    kinds.CONVOLUTIONS, kinds.PRODUCTS, kinds.REDUCTIONS, kinds.COPIES, kinds.OTHERS,
)  # fmt: skip
UNKNOWN = Entry("not in the program's text", "", False)


def peak_rate(dtype: str, side: int = 0) -> float:
    """FLOP/s of one large matrix product of a type, on one device, the best of eight.

    Args:
      dtype: such as f32.
      side: of the matrices; 0 for what is large on the platform.
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
    """What the tables show, in milliseconds a step.

    Args:
      entries: what each instruction is.
      timeline: of a trace.
      steps: that were traced.
      peaks: FLOP/s by type, of a device.

    Returns:
      JSON: `parts`, which add up to `window`, from the first instruction to the last; `groups` of
      equal convolutions and products, and `instructions`, both with the slowest first.
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
    """Milliseconds by kind, for the networks by whose they are; and of the rest of the step."""
    networks = {kind: dict.fromkeys(_PARTS, 0.0) for kind in _KINDS}
    rest: dict[str, float] = collections.defaultdict(float)
    for _, entry, milliseconds, _ in rows:
        if entry.part in ("teacher", "student") and entry.kind in networks:
            whose = entry.part + (", backwards" if entry.backward else "")
            networks[entry.kind][whose] += milliseconds
        else:
            rest[_rest(entry)] += milliseconds
    named = [
        {"what": kind, **times, "all": sum(times.values())} for kind, times in networks.items()
    ]
    order = sorted(rest, key=lambda what: (not what.startswith("objective"), what))
    return named + [{"what": what, "all": rest[what]} for what in order]


def _rest(entry: Entry) -> str:
    """What a row of the table calls an instruction that is of no network."""
    if entry is UNKNOWN:
        return entry.kind
    return {"input": "input, augmentation", "": "of no part"}.get(entry.part, entry.part)


def _groups(
    rows: list[tuple[str, Entry, float, float]], peaks: dict[str, float]
) -> list[dict[str, Any]]:
    """Equal convolutions and products together, with their rates; the dearest first."""
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
