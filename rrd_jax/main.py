"""Runs the job of a config.

    python -m rrd_jax.main --config=configs/digits.py --workdir=runs/digits
    python -m rrd_jax.main --config=configs/digits.py --config.optimizer.learning_rate=0.1
    python -m rrd_jax.main --config=configs/digits.py --workdir=runs/digits --mode=eval

A second start of the same command goes on where the first one stopped. The exit code is 0 at the
end of the job, 1 for a bad flag or config field, 2 for other bad input, 3 when the loss is not
finite, 69 for a platform or device that is not there, 70 for an error of this program, 74 for a
full disk, 75 when the same command goes on as it is (SIGTERM, whose state is saved; a device or
process that is lost), 130 after Ctrl-C (saved too), 141 when nobody reads the output any more.

On several hosts the same command is started on each; the workdir lies on a disk that all share.
Cloud TPU, Slurm, Open MPI and Kubernetes tell the processes of each other; elsewhere --coordinator,
--processes and --process_id do.
"""

import contextlib
import json
import os
import pathlib

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from rrd_jax.terminal import cli

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/, with the options its docstring names behind a colon. Fields are set with"
    " --config.<field>=<value>; --print_config says what each one means.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints and figures go. Default: runs/<config.name>."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval"],
    "train: the whole job. eval: test figures of the student in --workdir, and of its teacher;"
    " --workdir=RUN@best, RUN@last or RUN@STEP for another checkpoint than the newest.",
)
_PROFILE = flags.DEFINE_integer(
    "profile",
    0,
    "Traces so many of the student's steps, once they are compiled, into <workdir>/profile, for"
    " XProf, TensorBoard's profile plugin or Perfetto; a line says which file is for which.",
    lower_bound=0,
)
_PRINT_CONFIG = flags.DEFINE_bool(
    "print_config",
    False,
    "Prints every field of --config with its value, default and meaning, and ends.",
)
_VERSION = flags.DEFINE_bool(
    "version", False, "Prints versions and devices, as a report of an error should, and ends."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, which all processes of a run can reach."
)
_PROCESSES = flags.DEFINE_integer(
    "processes", 0, "Processes of the run. 1: joins no others; 0: as the host says.", lower_bound=0
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", 0, "The number of this process, from 0.", lower_bound=0
)


def parse_flags(argv: list[str]) -> list[str]:
    """For a program with a config; --version does without one."""
    asked = {"--version", "-version"} & set(argv[1:])
    return cli.parse_flags(argv, None if asked else CONFIG, _explain)


def _explain(argv: list[str]) -> str:
    from rrd_jax.config import explain  # what ends well need not wait for it

    return explain(argv)


def main(argv: list[str]) -> None:
    """Runs the job."""
    del argv
    if _VERSION.value:
        return cli.guard(_print_version, stopped="stopped")
    if WORKDIR.value == "":
        cli.stop(1, "--workdir is empty; leave the flag out for runs/<config.name>")
    cli.guard(_print_config if _PRINT_CONFIG.value else _job, folder=_folder)


def _print_version() -> None:
    from rrd_jax import parallel
    from rrd_jax.run_folder import provenance

    print(provenance.versions(), flush=True)
    parallel.check_platform()  # raises where there is no device to name
    print(f"devices: {provenance.devices()}")


def _folder() -> pathlib.Path:
    return pathlib.Path(WORKDIR.value or f"runs/{CONFIG.value.name}")


def _print_config() -> None:
    from rrd_jax.config import describe

    print(describe(CONFIG.value))


def _job() -> None:
    # Here, for flags are read and --help is printed without waiting for JAX.
    from rrd_jax import parallel
    from rrd_jax.comparison import final_summary
    from rrd_jax.config import parse
    from rrd_jax.jobs import evaluate, job
    from rrd_jax.run_folder import startup_time

    startup_time.begin()
    startup_time.phase("imports")
    cache = CONFIG.value.get("compilation_cache", "")
    parallel.enable_compilation_cache(cache if isinstance(cache, str) else "")  # checked later
    parallel.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value)
    parallel.check_platform()
    parallel.check_jaxlib()
    config = CONFIG.value
    folder = _folder()
    _check_agreement(config, folder)
    with contextlib.ExitStack() as stack:
        if not parallel.is_main():  # what all processes would say is said once
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        plan = parse(config, explicit=config_flags.get_override_values(flags.FLAGS["config"]))
        startup_time.phase("checks")
        if _MODE.value == "eval":
            evaluate.run(plan, folder)
        else:
            results = job.run(plan, folder, profile=_PROFILE.value)
            if parallel.is_main():
                final_summary.say(plan, folder, results)


def _check_agreement(config: ConfigDict, folder: pathlib.Path) -> None:
    """Raises an InputError, in all processes, where they were started otherwise."""
    from rrd_jax import parallel

    if parallel.process_share() == (0, 1):
        return
    parallel.check_agreement(
        {
            **parallel.code_version(),
            "config": json.loads(config.to_json_best_effort()),
            "--workdir": str(folder.absolute()),
            "--mode": _MODE.value,
        }
    )


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
