"""Trains or evaluates the networks of a config.

    python -m rrd_jax.main --config=configs/digits.py --workdir=runs/digits
    python -m rrd_jax.main --config=configs/digits.py --config.optimizer.learning_rate=0.1
    python -m rrd_jax.main --config=configs/digits.py --workdir=runs/digits --mode=eval

Run the same command again to resume a job. Exit codes:

    0 if the job is complete
    1 for an invalid flag or value of a config field
    2 for other invalid input
    3 if a loss is not finite
    69 if the platform or a device is unavailable
    70 for an internal error
    74 for a full disk
    75 after SIGTERM or SIGHUP (the state is saved after the first step) or the loss of a device or
       process; run the command again
    130 after Ctrl-C (the state is saved)
    141 if the reader of the output has closed the pipe

On several hosts, start the same command on each host, with a workdir on a shared disk. On Cloud
TPU, Slurm, Open MPI and Kubernetes, the processes find each other; on other systems, set
--coordinator, --processes and --process_id.
"""

from rrd_jax.terminal import interrupts

if __name__ == "__main__":
    # A signal during the imports ends the program with its exit code.
    interrupts.install()

import contextlib
import json
import os
import pathlib
import sys
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from rrd_jax import user_paths
from rrd_jax.terminal import cli, path_flags

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/, optionally with a colon and a config string, see the file's docstring."
    " Set fields with --config.<field>=<value>; --print_config describes all fields.",
    sys_argv=cli.command_line(sys.argv),
)
WORKDIR = path_flags.define_path(
    "workdir",
    None,
    "The folder of checkpoints and metrics. Default: runs/<config.name>. A folder in a bucket is"
    " gs://BUCKET/FOLDER or s3://BUCKET/FOLDER.",
    bucket=True,
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval"],
    "train: run the complete job. eval: evaluate the student in --workdir and its teacher on the"
    " test split; --workdir=RUN@best, RUN@last or RUN@STEP selects a checkpoint other than the"
    " newest.",
)
_PROFILE = flags.DEFINE_integer(
    "profile",
    0,
    "The number of compiled steps of the student to trace into <workdir>/profile, for XProf,"
    " TensorBoard's profile plugin or Perfetto. The log names the files.",
    lower_bound=0,
)
_PRINT_CONFIG = flags.DEFINE_bool(
    "print_config",
    False,
    "Print every field of --config with its value, default and meaning, and exit.",
)
_VERSION = flags.DEFINE_bool(
    "version", False, "Print versions and devices for a bug report, and exit."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, reachable from all processes of a run."
)
_PROCESSES = flags.DEFINE_integer(
    "processes",
    0,
    "The number of processes of the run. 1: a single process. 0: detected from the environment.",
    lower_bound=0,
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", 0, "The index of this process, from 0.", lower_bound=0
)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; --config is required unless --version is set."""
    is_version = {"--version", "-version"} & set(argv[1:])
    return cli.parse_flags(argv, None if is_version else CONFIG, _explain)


def _explain(argv: list[str]) -> str:
    # The import is deferred because only errors need the explanation.
    from rrd_jax.config import explain

    return explain(argv)


def main(argv: list[str]) -> None:
    """Runs the command that the flags select."""
    del argv
    if _VERSION.value:
        return cli.guard(_print_version, stopped="stopped")
    if WORKDIR.value == "":
        cli.stop(1, "--workdir is empty; omit the flag to use runs/<config.name>")
    if _PRINT_CONFIG.value:
        return cli.guard(_print_config)
    cli.guard(_job, folder=_folder, polls=True)


def _print_version() -> None:
    from rrd_jax import parallel
    from rrd_jax.run_folder import provenance

    print(provenance.versions(), flush=True)
    # Raises an error if the platform has no device.
    parallel.check_platform()
    print(f"devices: {provenance.devices()}")


def _folder() -> pathlib.Path:
    return user_paths.path_of(WORKDIR.value or f"runs/{CONFIG.value.name}")


def _print_config() -> None:
    from rrd_jax.config import describe

    print(describe(CONFIG.value))


def _job() -> None:
    # These imports are deferred so that --help and invalid flags do not wait for JAX.
    from rrd_jax import parallel
    from rrd_jax.comparison import final_summary
    from rrd_jax.config import parse
    from rrd_jax.jobs import evaluate, job
    from rrd_jax.run_folder import startup_time, workdir
    from rrd_jax.weights import files

    interrupts.check()
    startup_time.begin()
    startup_time.phase("imports")
    parallel.enable_compilation_cache(_compilation_cache())
    parallel.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value)
    parallel.check_platform()
    parallel.check_jaxlib()
    config = CONFIG.value
    folder = _folder()
    workdir.check_reachable(folder)
    recorded = workdir.recorded_fields(files.split(folder)[0])
    _check_agreement(config, folder, recorded)
    with contextlib.ExitStack() as stack:
        # Only the first process prints.
        if not parallel.is_main():
            null_device = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(null_device))
        explicit = config_flags.get_override_values(flags.FLAGS["config"])
        plan = parse(config, explicit=explicit, recorded=recorded)
        startup_time.phase("checks")
        interrupts.check()
        if _MODE.value == "eval":
            evaluate.run(plan, folder)
        else:
            results = job.run(plan, folder, profile=_PROFILE.value)
            if parallel.is_main():
                final_summary.print_summary(plan, folder, results)


def _compilation_cache() -> str:
    """Returns the folder of the compilation cache; "" for a value that `parse` reports later."""
    cache = CONFIG.value.get("compilation_cache", "")
    is_path = isinstance(cache, str) and not user_paths.problem(cache)
    return user_paths.expanded(cache) if is_path else ""


def _check_agreement(config: ConfigDict, folder: pathlib.Path, recorded: Any) -> None:
    """Raises an InputError in all processes if their code, configs, flags or workdirs differ."""
    from rrd_jax import parallel

    if parallel.process_share() == (0, 1):
        return
    parallel.check_agreement(
        {
            **parallel.code_version(),
            "config": json.loads(config.to_json_best_effort()),
            "--workdir": str(folder.absolute()),
            "config.json of the workdir": recorded,
            "--mode": _MODE.value,
        }
    )


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
