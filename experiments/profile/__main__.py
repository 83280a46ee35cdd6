r"""Prints the time of a train step by kind of instruction.

    python -m experiments.profile --config=configs/cifar100.py:resnet32x4-resnet8x4,rrd+kd
    python -m experiments.profile --config=configs/digits.py --config.train.batch_size=32 \
      --steps=20 --format=json --workdir=runs/profile

The step of the config's student is compiled as in a run. Images and weights are random, so that
neither the data nor the teacher's weights need to exist. The feed of images is not included. JAX's
profiler times each instruction of the compiled program. On a CPU, instructions that run at the same
time share the time; start the command with `taskset -c 0` to run them one after the other. With
--workdir, the trace is stored in <workdir>/profile.
"""

import contextlib
import json
import pathlib
import sys
import tempfile

from absl import app, flags
from ml_collections import config_flags

from rrd_jax.terminal import cli, path_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, as for rrd_jax.main; set fields by --config.<field>=<value>."
)
_STEPS = flags.DEFINE_integer(
    "steps", 10, "Traced steps, after two calls for warm-up.", lower_bound=1
)
_EXAMPLES = flags.DEFINE_integer(
    "examples",
    0,
    "Random training images; 0 for data.mock_examples, or for four batches without it.",
    lower_bound=0,
)
_ROWS = flags.DEFINE_integer(
    "rows", 20, "Convolutions and products in the table; 0 for all.", lower_bound=0
)
_FORMAT = flags.DEFINE_enum(
    "format", "text", ["text", "json"], "Output format; json has all instructions."
)
_WORKDIR = path_flags.define_path(
    "workdir", "", "Folder for the trace, profile.md, profile.json and program.txt; none if empty."
)


def main(argv: list[str]) -> None:
    """Profiles the step of --config."""
    del argv
    if _CONFIG.value is None:
        cli.stop(
            1, "--config is missing; set a config file, for example --config=configs/digits.py"
        )
    cli.guard(_job, stopped="stopped")


def _job() -> None:
    from experiments.profile import compiled_step, measuring, report
    from rrd_jax import parallel
    from rrd_jax.run_folder import atomic_write

    parallel.check_platform()
    parallel.check_jaxlib()
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    # Messages about the config do not belong to the output.
    with contextlib.redirect_stdout(sys.stderr):
        step = compiled_step.prepare(_CONFIG.value, overrides, _EXAMPLES.value)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_WORKDIR.value or temporary)
        figures = measuring.profile(step, folder / "profile", _STEPS.value)
    table = report.format_profile(figures, _ROWS.value)
    if _WORKDIR.value:
        atomic_write.write_text(folder / "profile.md", table + "\n")
        atomic_write.write_text(folder / "program.txt", step.compiled.as_text())
        atomic_write.write_json(folder / "profile.json", figures)
    print(json.dumps(figures) if _FORMAT.value == "json" else table)
    if _WORKDIR.value:
        # Standard output contains only JSON with --format=json.
        note = f"written to {folder}: profile.md, profile.json, program.txt, profile/"
        print(note, file=sys.stderr)


if __name__ == "__main__":
    sys.path.insert(0, "")
    app.run(main, flags_parser=lambda argv: cli.parse_flags(argv, _CONFIG))
