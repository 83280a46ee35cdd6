"""Runs a study: a grid of methods, pairs, fields and seeds, with shared teachers.

    python -m experiments.study --study=experiments/studies/digits.py --dry_run
    python -m experiments.study --study=experiments/studies/digits.py --jobs=2
    python -m experiments.study --study=experiments/studies/digits.py --launch=slurm --gpus=1
    python -m experiments.study --config=configs/digits.py --methods=ce,kd,rrd --seeds=5
    python -m experiments.page --study=runs/study-digits --output=report.html

Each run has a workdir below that of the study, like one of rrd_jax.main. The same command resumes
a study: finished runs are kept, interrupted runs resume, and failed runs are retried. A run that
fails does not stop the others. Any number of these commands may share a folder, on one machine or
several: each run and each teacher is made by one of them.

The exit code is 0 if all runs have finished, 2 if some have failed; other codes are those of
rrd_jax.main.
"""

import dataclasses
import os
import pathlib
import shlex
import sys
import time
from typing import TYPE_CHECKING

from absl import app, flags

from rrd_jax import errors
from rrd_jax.terminal import cli, console

if TYPE_CHECKING:
    from experiments.study.plan import Plan

_STUDY = flags.DEFINE_string(
    "study", None, "A file of experiments/studies, or your own; :smoke behind it for a small form."
)
_CONFIG = flags.DEFINE_string(
    "config", None, "In place of a study: a launch file as rrd_jax.main has it, and --methods."
)
_METHODS = flags.DEFINE_list(
    "methods", ["ce", "kd", "rrd", "rrd+kd"], "Of --config; all are compared with the first."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Of the study. Default: runs/study-<name>.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Lists the runs, what of them exists, and about how long the rest takes."
)
_ONLY = flags.DEFINE_list(
    "only", [], "Patterns of cells, as --dry_run lists them, such as 'methods/rrd*' or '*/seed0'."
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 0, "Seeds 0 to this number less one, in place of the study's.", lower_bound=0
)
_MAX_RUNS = flags.DEFINE_integer(
    "max_runs", 0, "Runs that are trained at most; 0 for all.", lower_bound=0
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "FIELD=VALUE for the configs of all runs, such as data.dir=/data; {teacher} and {student} stand"
    " for the networks' names, as in teacher.checkpoint=weights/{teacher}.pth; an option of an"
    " objective is set where the objective is. Repeatable.",
)
_LAUNCH = flags.DEFINE_enum("launch", "local", ["local", "slurm"], "Where the runs are made.")
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "Of --launch=local: runs side by side, which share cores and GPUs.", lower_bound=1
)
_PARTITION = flags.DEFINE_string("partition", "", "Of --launch=slurm, as the options below.")
_MINUTES = flags.DEFINE_integer(
    "minutes", 0, "Time limit of a task, at which it is queued again; 0 for a day.", lower_bound=0
)
_GPUS = flags.DEFINE_integer("gpus", 0, "Of a task.", lower_bound=0)
_CPUS = flags.DEFINE_integer("cpus", 0, "Of a task.", lower_bound=0)
_MEMORY = flags.DEFINE_string("memory", "", "Of a task, such as 32G.")
_TASKS = flags.DEFINE_integer("tasks", 64, "Tasks that run at once, at most.", lower_bound=1)
_SBATCH = flags.DEFINE_multi_string(
    "sbatch", [], "NAME=VALUE, any other option of sbatch, such as account=lab. Repeatable."
)
_WAIT = flags.DEFINE_bool("wait", True, "Whether to wait for Slurm's tasks.")
# What the workers are started with.
_WORKER = flags.DEFINE_bool("worker", False, "For workers, which the command starts itself.")
_LAUNCH_ID = flags.DEFINE_string("launch_id", "", "Likewise.")
_TEACHER = flags.DEFINE_string("teacher", "", "Likewise: the folder of the teacher to train.")
_RUN = flags.DEFINE_string("run", "", "Likewise: the name of the run to make.")
_FOR_WORKERS = ("worker", "launch_id", "teacher", "run")


def main(argv: list[str]) -> None:
    """Runs the study, or is one of its workers."""
    del argv
    if not _STUDY.value and not _CONFIG.value:
        cli.stop(1, "--study is missing; for example --study=experiments/studies/digits.py")
    if _STUDY.value and _CONFIG.value:
        cli.stop(1, "--study has configs of its own; leave --config out")
    if _CONFIG.value and not all(_METHODS.value or [""]):
        cli.stop(1, f"--methods={','.join(_METHODS.value)} names none; such as --methods=ce,rrd")
    stopped = "stopped; finished runs are kept, and the same command goes on with the others"
    cli.guard(_worker if _WORKER.value else _study, stopped=stopped)


def _plan(platform: str | None) -> "Plan":
    from experiments.study import design, plan, validation

    if _STUDY.value:
        study = plan.load(_STUDY.value)
    else:
        study = design.comparison(_CONFIG.value, _METHODS.value, _SEEDS.value or 3)
        validation.check(study)
    folder = pathlib.Path(_WORKDIR.value or f"runs/study-{study.name}")
    return plan.make(study, folder, seeds=_SEEDS.value, fields=_SET.value, platform=platform)


def _worker() -> None:
    from experiments.study import local

    local.begin()
    from experiments.study import work
    from rrd_jax import parallel

    parallel.enable_compilation_cache()
    parallel.check_platform()
    parallel.check_jaxlib()
    plan = _plan(None).only(_ONLY.value)
    worker = work.Worker(plan, _LAUNCH_ID.value, _MAX_RUNS.value)
    console.say(local.READY)
    if _TEACHER.value:
        worker.teach(_TEACHER.value)
    elif _RUN.value:
        worker.make(_RUN.value)
    else:
        worker.work()


def _study() -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # devices are left to the workers
    from experiments.study import local, progress, work

    local.end_at_sigterm()
    whole = _plan("cpu")
    plan = whole.only(_ONLY.value)
    if _DRY_RUN.value:
        progress.print_plan(plan, _TASKS.value if _LAUNCH.value == "slurm" else _JOBS.value)
        return
    whole.write()
    failed = 0
    left = [name for name, run in plan.runs.items() if not work.is_done(plan, run)]
    left = left[: _MAX_RUNS.value or None]
    if left:
        launch = f"{time.time():.0f}-{os.getpid()}"
        launchers = {"local": _launch_local, "slurm": _launch_slurm}
        failed += launchers[_LAUNCH.value](plan, left, launch)
    failed += progress.print_results(plan)
    where = shlex.quote(str(plan.folder))
    console.say(f"\nthe page: python -m experiments.page --study={where} --output=report.html")
    if failed:
        sys.exit(2)


def _flags() -> list[str]:
    """Returns the flags of this command, for its workers."""
    ours = flags.FLAGS.flags_by_module_dict()[sys.argv[0]]
    given = [flag for flag in ours if flag.present and flag.name not in _FOR_WORKERS]
    return [text for flag in given for text in flag.serialize().split("\n")]


def _command(launch: str, *more: str) -> list[str]:
    """Returns the command of a worker for the same study."""
    program = [sys.executable, "-m", "experiments.study"]
    return [*program, *_flags(), f"--launch_id={launch}", "--worker", *more]


def _launch_local(plan: "Plan", left: list[str], launch: str) -> int:
    """Makes the remaining runs; returns the number of failures that no folder records."""
    from experiments.study import local, progress

    jobs = min(_JOBS.value, len(left))
    # --max_runs is divided between the workers.
    shares = [len(left[i::jobs]) if _MAX_RUNS.value else 0 for i in range(jobs)]
    commands = [_command(launch, f"--max_runs={share}") for share in shares]
    logs = [plan.folder / "logs" / f"{launch}-{i}.log" for i in range(jobs)]
    shown = progress.Progress(plan, launch)
    local.run(commands, logs, shown.update)
    shown.finish()
    return 0


def _launch_slurm(plan: "Plan", left: list[str], launch: str) -> int:
    """Makes the remaining runs with Slurm; returns like `_launch_local`."""
    from experiments.study import progress, slurm, work

    options = slurm.Options(
        partition=_PARTITION.value,
        minutes=_MINUTES.value,
        gpus=_GPUS.value,
        cpus=_CPUS.value,
        memory=_MEMORY.value,
        most=_TASKS.value,
        more=dict(_sbatch(text) for text in _SBATCH.value),
    )
    runs = {name: plan.runs[name] for name in left}
    part = dataclasses.replace(plan, runs=runs)
    teachers = [
        path
        for path, (run, i) in part.teachers().items()
        if not work.is_finished(plan.folder / path, run.job.teachers[i].part.training.epochs)
    ]
    stages = {
        "teachers": {path: _command(launch, f"--teacher={path}") for path in teachers},
        "runs": {n: _command(launch, f"--run={n}") for n, run in runs.items() if not run.after},
        "following": {n: _command(launch, f"--run={n}") for n, run in runs.items() if run.after},
    }
    jobs = slurm.submit(plan.folder, stages, options)
    ids = " ".join(sorted({job.job_id.split("_")[0] for job in jobs}))
    console.say(f"{len(teachers)} teachers and {len(runs)} runs are jobs {ids} of Slurm")
    if not _WAIT.value:
        return 0
    shown = progress.Progress(plan, launch)
    try:
        problems = slurm.wait(jobs, shown.update)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"stopped waiting; Slurm goes on with jobs {ids}, which `scancel {ids}` would end"
        ) from error
    shown.finish()
    for problem in dict.fromkeys(problems):
        console.warn(f"a task of Slurm failed: {problem}")
    return len(problems)


def _sbatch(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise errors.InputError(f"--sbatch={text} is not NAME=VALUE, such as --sbatch=account=lab")
    return name.replace("-", "_"), value


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
