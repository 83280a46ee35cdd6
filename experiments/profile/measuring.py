"""The figures of a step: it is timed, traced, and its instructions are told apart."""

import pathlib
import statistics
import time
from typing import Any

import jax

from experiments.profile import figures, kinds, timeline
from experiments.profile.setting import Step
from rrd_jax.cpu import hlo


def profile(step: Step, folder: pathlib.Path, steps: int) -> dict[str, Any]:
    """The figures of a step.

    Args:
      step: of `setting.prepare`.
      folder: receives the trace.
      steps: to trace, about; calls of several steps are whole.
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
    runners = {name for name, entry in entries.items() if entry.runs_others}
    traced: list[float] = []
    path = timeline.record(folder, lambda: traced.append(_timed(repeat)))
    types = sorted({entry.dtype for entry in entries.values() if entry.flops}, reverse=True)
    peaks = {dtype: figures.peak_rate(dtype) for dtype in types or ["f32"]}
    times_of = timeline.read(path, program.name, runners)
    found = figures.collect(entries, times_of, calls * step.count, peaks)
    return {
        "about": step.about,
        "steps": calls * step.count,
        "milliseconds": 1000 * statistics.median(times) / step.count,
        "traced": 1000 * traced[0] / (calls * step.count),
        **found,
    }


def _timed(action: Any) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
