"""Times and traces a train step, and classifies its instructions."""

import pathlib
import statistics
import time
from typing import Any

import jax

from experiments.profile import figures, kinds, timeline
from experiments.profile.compiled_step import Step
from rrd_jax.cpu import hlo


def profile(step: Step, folder: pathlib.Path, steps: int) -> dict[str, Any]:
    """Returns the figures of a step.

    Args:
      step: the step.
      folder: folder for the trace.
      steps: number of steps to trace, rounded up to a multiple of the steps per call.

    Returns:
      The JSON of `figures.collect`, with the time of a step in milliseconds, outside of and during
      the trace.
    """
    calls = -(-steps // step.count)

    def repeat() -> None:
        for number in range(calls):
            with jax.profiler.StepTraceAnnotation("train", step_num=number):
                logged = step()
        jax.block_until_ready((logged, step.state))

    for _ in range(2):
        jax.block_until_ready(step())
    times = [_timed(repeat) / calls for _ in range(3)]
    program = hlo.parse(step.compiled.as_text())
    written = hlo.parse(step.lowered.as_text("hlo", debug_info=True))
    entries = kinds.classify(program, written)
    runners = {name for name, entry in entries.items() if entry.is_runner}
    traced: list[float] = []
    path = timeline.record(folder, lambda: traced.append(_timed(repeat)))
    types = sorted({entry.dtype for entry in entries.values() if entry.flops}, reverse=True)
    peaks = {dtype: figures.peak_rate(dtype) for dtype in types or ["f32"]}
    trace = timeline.read(path, program.name, runners)
    collected = figures.collect(entries, trace, calls * step.count, peaks)
    return {
        "about": step.about,
        "steps": calls * step.count,
        "milliseconds": 1000 * statistics.median(times) / step.count,
        "traced": 1000 * traced[0] / (calls * step.count),
        **collected,
    }


def _timed(action: Any) -> float:
    """Returns the seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
