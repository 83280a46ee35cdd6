r"""Measures the time of a step of rrd over patches relative to a step of rrd over images.

    python -m experiments.dense_costs --student=resnet50
    python -m experiments.dense_costs --student=mobilenetv4_conv_small --turns=16 --parts

The steps are those of configs/dense.py with a cached teacher, compiled as in a run, with random
images, weights and cached outputs. In each turn, one step of each form runs, in alternating order,
in one process. The relative time is the median of the ratios of all turns, of wall time and of
processor time. Reading images is not included. The table is printed in Markdown.
"""

import os
import runpy
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from absl import app, flags

from experiments.benchmark import machine
from experiments.profile import compiled_step
from rrd_jax.cpu import footprint
from rrd_jax.terminal import cli, tables

_TEACHER = flags.DEFINE_string("teacher", "vit_small_patch14_dinov2", "Teacher network.")
_STUDENT = flags.DEFINE_string("student", "mobilenetv4_conv_small", "Student network.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images per step.", lower_bound=1)
_SIDE = flags.DEFINE_integer("side", 224, "Height and width of the images.", lower_bound=1)
_TURNS = flags.DEFINE_integer("turns", 8, "Turns of one step of each form.", lower_bound=1)
_PARTS = flags.DEFINE_bool(
    "parts", False, "Also measures each of the two losses over patches alone."
)

_BASELINE = "images"
# Options of rrd, by the form's name in the table.
_FORMS: Mapping[str, Mapping[str, Any]] = {
    _BASELINE: {"over": "images"},
    "both": {"over": "both"},
}
_PART_FORMS: Mapping[str, Mapping[str, Any]] = {
    "both, no memory of patches": {"over": "both", "weight_memory": 0.0},
    "both, no relations within images": {"over": "both", "weight_within": 0.0},
}


class Seconds(NamedTuple):
    """The seconds of a step: wall time, and processor time of all cores."""

    wall: float
    processor: float


def ratios(times: list[Seconds], baseline: list[Seconds]) -> list[Seconds]:
    """Returns the times relative to those of the baseline in the same turn."""
    return [
        Seconds(*(a / b for a, b in zip(pair, other, strict=True)))
        for pair, other in zip(times, baseline, strict=True)
    ]


def measure(steps: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, list[Seconds]]:
    """Returns the times of each step in each turn, after one step of each for warm-up."""
    times: dict[str, list[Seconds]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    names = list(steps)
    for turn in range(turns):
        for name in names[:: -1 if turn % 2 else 1]:
            wall, processor = time.perf_counter(), time.process_time()
            steps[name]()
            seconds = Seconds(time.perf_counter() - wall, time.process_time() - processor)
            times[name].append(seconds)
    return times


def table(times: Mapping[str, list[Seconds]], peaks: Mapping[str, int]) -> str:
    """Returns a row for each form: relative times, their range, and the memory of a step."""
    rows = []
    for name, values in times.items():
        wall, processor = zip(*ratios(values, times[_BASELINE]), strict=True)
        rows.append(
            [
                *(name, f"{statistics.median(wall):.3f}", f"{min(wall):.3f} {max(wall):.3f}"),
                f"{statistics.median(processor):.3f}",
                f"{peaks[name] / 1e6:.0f}",
            ]
        )
    header = ["rrd over", "relative time", "min, max", "relative processor time", "memory, MB"]
    return tables.markdown(header, rows)


def _prepare(options: Mapping[str, Any]) -> compiled_step.Step:
    config = runpy.run_path("configs/dense.py")["get_config"](f"{_TEACHER.value}-{_STUDENT.value}")
    config.objectives.rrd.update(options)
    fields = {
        "baseline": False,
        "data.image_size": _SIDE.value,
        "data.views.count": 2,
        "train.batch_size": _BATCH_SIZE.value,
        # The weights are random: the step is not that of a teacher to be trained.
        "teacher.use_labels": True,
        "teacher.image_size": None,
        "teacher.cache": "on",
        "teacher.cache_place": "device",
    }
    config.update_from_flattened_dict(fields)
    return compiled_step.prepare(config, explicit=tuple(fields), examples=_BATCH_SIZE.value)


def _job() -> None:
    forms, steps, peaks = {}, {}, {}
    for name, options in {**_FORMS, **(_PART_FORMS if _PARTS.value else {})}.items():
        forms[name] = step = _prepare(options)
        peaks[name] = footprint.measure(step.compiled).peak
        steps[name] = lambda step=step: jax.block_until_ready((step(), step.state))
    times = measure(steps, _TURNS.value)
    about = forms[_BASELINE].about
    print(
        f"{table(times, peaks)}\n\n{machine.processor(about['device'])}, {os.cpu_count()} cores;"
        f" {machine.versions('jax', 'jaxlib')}. {about['teacher']}, to {about['student']}, batch"
        f" {about['batch']}, {_SIDE.value} px; medians of {_TURNS.value} turns."
    )


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
