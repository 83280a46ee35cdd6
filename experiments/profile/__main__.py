r"""Prints where the time of a train step goes: by kind of instruction, and which is worst.

    python -m experiments.profile --config=configs/cifar100.py:resnet32x4-resnet8x4,rrd+kd
    python -m experiments.profile --config=configs/digits.py --config.train.batch_size=32 \
      --steps=20 --format=json --workdir=runs/profile

The step is that of the config's student, compiled as a run compiles it, on random images of the
config's size and with random weights: neither the data nor the teacher's weights need be there.
The feed of images is left out. Times are of JAX's profiler, for each instruction of the compiled
program; on a CPU, `taskset -c 0` before the command keeps instructions from running side by side,
when they share the time. The trace stays in <workdir>/profile, if there is a workdir.
"""

import contextlib
import json
import pathlib
import statistics
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from absl import app, flags
from ml_collections import config_flags

from rrd_jax import cli

if TYPE_CHECKING:
    from experiments.profile.setting import Step

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/, as rrd_jax.main has it; fields by --config.<field>=<value>"
)
_STEPS = flags.DEFINE_integer("steps", 10, "Steps that are traced, after two.", lower_bound=1)
_EXAMPLES = flags.DEFINE_integer(
    "examples", 0, "Random images of the training split; 0 for four batches.", lower_bound=0
)
_ROWS = flags.DEFINE_integer(
    "rows", 20, "Convolutions and products that are shown; 0 for all.", lower_bound=0
)
_FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "json has every instruction.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Receives the trace, profile.md, profile.json and the program's text."
)


def main(argv: list[str]) -> None:
    """Profiles the step of --config."""
    del argv
    if _CONFIG.value is None:
        cli.stop(1, "--config is missing; for example --config=configs/digits.py")
    cli.guard(_job, stopped="stopped")


def _job() -> None:
    from experiments.profile import setting, text
    from rrd_jax import parallel, report

    parallel.check_platform()
    parallel.check_jaxlib()
    asked = config_flags.get_override_values(flags.FLAGS["config"])
    with contextlib.redirect_stdout(sys.stderr):  # what is said of the config is no figure
        step = setting.prepare(_CONFIG.value, asked, _EXAMPLES.value)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_WORKDIR.value or temporary)
        figures = profile(step, folder / "profile", _STEPS.value)
    table = text.of(figures, _ROWS.value)
    if _WORKDIR.value:
        report.write_whole(folder / "profile.md", table + "\n")
        report.write_whole(folder / "program.txt", step.compiled.as_text())
        report.write_json(folder / "profile.json", figures)
    print(json.dumps(figures) if _FORMAT.value == "json" else table)
    if _WORKDIR.value:
        kept = f"kept in {folder}: profile.md, profile.json, program.txt, profile/"
        print(kept, file=sys.stderr)  # which leaves JSON alone


def profile(step: "Step", folder: pathlib.Path, steps: int) -> dict[str, Any]:
    """The figures of a step.

    Args:
      step: of `setting.prepare`.
      folder: receives the trace.
      steps: to trace, about; calls of several steps are whole.
    """
    import jax

    from experiments.profile import figures, hlo, kinds, timeline

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


if __name__ == "__main__":
    sys.path.insert(0, "")
    app.run(main, flags_parser=lambda argv: cli.parse_flags(argv, _CONFIG))
