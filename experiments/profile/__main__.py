r"""Prints where the time of a train step goes: by kind of instruction.

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
import sys
import tempfile

from absl import app, flags
from ml_collections import config_flags

from rrd_jax.terminal import cli

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
    from experiments.profile import measuring, setting, text
    from rrd_jax import parallel
    from rrd_jax.run_folder import atomic_write

    parallel.check_platform()
    parallel.check_jaxlib()
    asked = config_flags.get_override_values(flags.FLAGS["config"])
    with contextlib.redirect_stdout(sys.stderr):  # what is said of the config is no figure
        step = setting.prepare(_CONFIG.value, asked, _EXAMPLES.value)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_WORKDIR.value or temporary)
        figures = measuring.profile(step, folder / "profile", _STEPS.value)
    table = text.of(figures, _ROWS.value)
    if _WORKDIR.value:
        atomic_write.write_text(folder / "profile.md", table + "\n")
        atomic_write.write_text(folder / "program.txt", step.compiled.as_text())
        atomic_write.write_json(folder / "profile.json", figures)
    print(json.dumps(figures) if _FORMAT.value == "json" else table)
    if _WORKDIR.value:
        kept = f"kept in {folder}: profile.md, profile.json, program.txt, profile/"
        print(kept, file=sys.stderr)  # which leaves JSON alone


if __name__ == "__main__":
    sys.path.insert(0, "")
    app.run(main, flags_parser=lambda argv: cli.parse_flags(argv, _CONFIG))
