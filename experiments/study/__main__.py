"""Runs a study: a grid of methods, pairs, fields and seeds, with shared teachers.

    python -m experiments.study --study=experiments/studies/digits.py --dry_run
    python -m experiments.study --study=experiments/studies/digits.py --jobs=2
    python -m experiments.study --study=experiments/studies/digits.py --launch=slurm --gpus=1
    python -m experiments.study --config=configs/digits.py --methods=ce,kd,rrd --seeds=5
    python -m experiments.page --study=runs/study-digits --output=report.html

The workdir of each run is inside the workdir of the study, and has the layout that rrd_jax.main
writes. The same command resumes a study: finished runs are kept, interrupted runs resume, and
failed runs are retried. A failed run does not stop the study. Any number of these commands can
share a folder, on one machine or several: exactly one of them trains each run and each teacher.

The exit code is 0 if all runs have finished and 2 if some have failed; other exit codes are the
same as for rrd_jax.main.
"""

from rrd_jax.terminal import interrupts

if __name__ == "__main__":
    # A signal during the imports ends the program with its exit code.
    interrupts.install()

import dataclasses
import os
import pathlib
import shlex
import sys
import time
from typing import TYPE_CHECKING

from absl import app, flags

from rrd_jax import errors, user_paths
from rrd_jax.terminal import cli, console, path_flags

if TYPE_CHECKING:
    from experiments.study.plan import Plan

_STUDY = flags.DEFINE_string(
    "study",
    None,
    "A study file, such as experiments/studies/digits.py; append :smoke for a small form.",
)
_CONFIG = flags.DEFINE_string(
    "config", None, "A launch file as for rrd_jax.main, instead of --study; compares --methods."
)
_METHODS = flags.DEFINE_list(
    "methods", ["ce", "kd", "rrd", "rrd+kd"], "Methods for --config; the first is the baseline."
)
_WORKDIR = path_flags.define_path(
    "workdir", None, "The folder of the study; default runs/study-<name>.", bucket=True
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Lists the runs, their progress and the estimated remaining time."
)
_ONLY = flags.DEFINE_list(
    "only", [], "Patterns of cells that --dry_run lists, such as 'methods/rrd*' or '*/seed0'."
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 0, "Number of seeds, from 0; 0 for the study's seeds.", lower_bound=0
)
_MAX_RUNS = flags.DEFINE_integer(
    "max_runs", 0, "Trains at most this number of runs; 0 for all.", lower_bound=0
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "FIELD=VALUE for the configs of all runs, such as data.dir=/data; {teacher} and {student} are"
    " replaced by the networks' names, as in teacher.checkpoint=weights/{teacher}.pth; an option of"
    " an objective applies to the runs with this objective. Repeatable.",
)
_LAUNCH = flags.DEFINE_enum("launch", "local", ["local", "slurm"], "Where the runs are executed.")
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "For --launch=local: concurrent runs, which share cores and GPUs.", lower_bound=1
)
_PARTITION = flags.DEFINE_string("partition", "", "For --launch=slurm: the partition.")
_MINUTES = flags.DEFINE_integer(
    "minutes",
    0,
    "For Slurm: time limit of a task, which is then requeued; 0 for a day.",
    lower_bound=0,
)
_GPUS = flags.DEFINE_integer("gpus", 0, "For Slurm: GPUs of a task.", lower_bound=0)
_CPUS = flags.DEFINE_integer("cpus", 0, "For Slurm: cores of a task.", lower_bound=0)
_MEMORY = flags.DEFINE_string("memory", "", "For Slurm: memory of a task, such as 32G.")
_TASKS = flags.DEFINE_integer(
    "tasks", 64, "For Slurm: maximum number of concurrent tasks.", lower_bound=1
)
_SBATCH = flags.DEFINE_multi_string(
    "sbatch",
    [],
    "For Slurm: NAME=VALUE, another option of sbatch, such as account=lab. Repeatable.",
)
_WAIT = flags.DEFINE_bool("wait", True, "For Slurm: waits until the tasks have ended.")
# Flags that the command passes to the workers.
_WORKER = flags.DEFINE_bool("worker", False, "Internal: starts a worker process.")
_LAUNCH_ID = flags.DEFINE_string("launch_id", "", "Internal: the name of the launch.")
_TEACHER = flags.DEFINE_string("teacher", "", "Internal: the folder of the teacher to train.")
_RUN = flags.DEFINE_string("run", "", "Internal: the name of the run to execute.")
_WORKER_FLAGS = ("worker", "launch_id", "teacher", "run")


def main(argv: list[str]) -> None:
    """Runs the study, or a worker process of the study."""
    del argv
    if not _STUDY.value and not _CONFIG.value:
        cli.stop(1, "--study is missing; for example --study=experiments/studies/digits.py")
    if _STUDY.value and _CONFIG.value:
        cli.stop(1, "--study and --config are both set; pass one of them")
    if _CONFIG.value and not all(_METHODS.value or [""]):
        cli.stop(
            1,
            f"--methods={','.join(_METHODS.value)} has an empty name; for example --methods=ce,rrd",
        )
    if user_paths.bucket_url(_WORKDIR.value or ""):
        cli.stop(
            1,
            f"--workdir={_WORKDIR.value} is in a bucket, which has no locks for runs that share"
            " teachers; pass a folder on a disk, and copy it to the bucket when the study has"
            " ended: experiments.page reads it there",
        )
    stopped = "stopped; finished runs are kept; run the same command again to resume"
    if _WORKER.value:
        return cli.guard(_run_worker, stopped=stopped, polls=True)
    cli.guard(_run_study, stopped=stopped)


@errors.field_errors()
def _make_plan(platform: str | None) -> "Plan":
    from experiments.study import design, plan, validation

    if _STUDY.value:
        study = plan.load(_STUDY.value)
    else:
        study = design.comparison(_CONFIG.value, _METHODS.value, _SEEDS.value or 3)
        validation.check(study)
    folder = pathlib.Path(_WORKDIR.value or f"runs/study-{study.name}")
    return plan.make(study, folder, seeds=_SEEDS.value, fields=_SET.value, platform=platform)


def _run_worker() -> None:
    from experiments.study import local

    local.prepare_worker()
    from experiments.study import work
    from rrd_jax import parallel

    parallel.enable_compilation_cache()
    parallel.check_platform()
    parallel.check_jaxlib()
    plan = _make_plan(None).only(_ONLY.value)
    worker = work.Worker(plan, _LAUNCH_ID.value, _MAX_RUNS.value)
    console.say(local.READY)
    if _TEACHER.value:
        worker.train_teacher(_TEACHER.value)
    elif _RUN.value:
        worker.execute(_RUN.value)
    else:
        worker.work()


def _run_study() -> None:
    import jax

    # The workers use the accelerators.
    jax.config.update("jax_platforms", "cpu")
    from experiments.study import progress, work

    attempted: set[str] = set()
    failed = 0
    while True:
        full_plan = _make_plan("cpu")
        plan = full_plan.only(_ONLY.value)
        if _DRY_RUN.value:
            progress.print_plan(plan, _TASKS.value if _LAUNCH.value == "slurm" else _JOBS.value)
            return
        full_plan.write()
        # Each launch may finish runs that select the levels of another grid.
        remaining = [
            name
            for name, run in plan.runs.items()
            if name not in attempted and not work.is_done(plan, run)
        ]
        if _MAX_RUNS.value:
            remaining = remaining[: max(0, _MAX_RUNS.value - len(attempted))]
        if not remaining:
            break
        attempted.update(remaining)
        launch = f"{time.time():.0f}-{os.getpid()}"
        launchers = {"local": _launch_local, "slurm": _launch_slurm}
        failed += launchers[_LAUNCH.value](plan, remaining, launch)
    failed += progress.print_results(plan)
    folder = shlex.quote(str(plan.folder))
    console.say(f"\nreport: python -m experiments.page --study={folder} --output=report.html")
    if failed:
        sys.exit(2)


def _worker_flags() -> list[str]:
    """Returns the flags of this command that its workers need."""
    defined = flags.FLAGS.flags_by_module_dict()[sys.argv[0]]
    present = [flag for flag in defined if flag.present and flag.name not in _WORKER_FLAGS]
    return [text for flag in present for text in flag.serialize().split("\n")]


def _worker_command(launch: str, *options: str) -> list[str]:
    """Returns the command of a worker for the same study."""
    program = [sys.executable, "-m", "experiments.study"]
    return [*program, *_worker_flags(), f"--launch_id={launch}", "--worker", *options]


def _launch_local(plan: "Plan", remaining: list[str], launch: str) -> int:
    """Executes runs on this machine; returns the number of failures that no folder records."""
    from experiments.study import local, progress

    jobs = min(_JOBS.value, len(remaining))
    # --max_runs is divided between the workers.
    shares = [len(remaining[i::jobs]) if _MAX_RUNS.value else 0 for i in range(jobs)]
    commands = [_worker_command(launch, f"--max_runs={share}") for share in shares]
    logs = [plan.folder / "logs" / f"{launch}-{i}.log" for i in range(jobs)]
    display = progress.Progress(plan, launch)
    local.run(commands, logs, display.update)
    display.finish()
    return 0


def _launch_slurm(plan: "Plan", remaining: list[str], launch: str) -> int:
    """Executes runs with Slurm; returns the number of failures that no folder records."""
    from experiments.study import progress, slurm, work

    options = slurm.Options(
        partition=_PARTITION.value,
        minutes=_MINUTES.value,
        gpus=_GPUS.value,
        cpus=_CPUS.value,
        memory=_MEMORY.value,
        max_tasks=_TASKS.value,
        sbatch=dict(_parse_sbatch(text) for text in _SBATCH.value),
    )
    runs = {name: plan.runs[name] for name in remaining}
    part = dataclasses.replace(plan, runs=runs)
    teachers = [
        path
        for path, (run, i) in part.teachers().items()
        if not work.is_finished(plan.folder / path, run.job.teachers[i].part.training.epochs)
    ]
    stages = {
        "teachers": {path: _worker_command(launch, f"--teacher={path}") for path in teachers},
        "runs": {
            name: _worker_command(launch, f"--run={name}")
            for name, run in runs.items()
            if not run.follows
        },
        "following": {
            name: _worker_command(launch, f"--run={name}")
            for name, run in runs.items()
            if run.follows
        },
    }
    jobs = slurm.submit(plan.folder, stages, options)
    ids = " ".join(sorted({job.job_id.split("_")[0] for job in jobs}))
    console.say(f"slurm: {len(teachers)} teachers and {len(runs)} runs submitted as jobs {ids}")
    if not _WAIT.value:
        return 0
    display = progress.Progress(plan, launch)
    try:
        problems = slurm.wait(jobs, display.update)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"stopped waiting; Slurm continues jobs {ids}; run `scancel {ids}` to cancel them"
        ) from error
    display.finish()
    for problem in dict.fromkeys(problems):
        console.warn(f"a Slurm task failed: {problem}")
    return len(problems)


def _parse_sbatch(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise errors.FieldError(
            f"--sbatch={text} is not NAME=VALUE; for example --sbatch=account=lab"
        )
    return name.replace("-", "_"), value


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
