"""Runs a study: a grid of methods, pairs, fields and seeds, with the teachers that they share.

    python -m experiments.study --study=experiments/studies/digits.py --dry_run
    python -m experiments.study --study=experiments/studies/digits.py --jobs=2
    python -m experiments.study --study=experiments/studies/digits.py --launch=slurm --gpus=1
    python -m experiments.page --study=runs/study-digits --output=report.html

Each run is a workdir below that of the study, as of rrd_jax.main. The same command again goes on
where the last one stopped: what is finished is read back, what was broken off goes on, and what
failed is tried again. A run that fails does not stop the others. Any number of these commands may
share a folder, on one machine or several: a run is made by one of them, and so is a teacher.

The exit code is 0 where all runs are finished, 2 where some have failed, others as those of
rrd_jax.main.
"""

import pathlib
import shlex
import sys
import time

from absl import app, flags

from rrd_jax import cli, console, errors

_STUDY = flags.DEFINE_string(
    "study", None, "A file of experiments/studies, or your own; :smoke behind it for a small form."
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
    "max_runs", 0, "Runs that each worker trains at most; 0 for all.", lower_bound=0
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "FIELD=VALUE for the configs of all runs, such as data.dir=/data; {teacher} and {student} stand"
    " for the networks' names, as in teacher.checkpoint=weights/{teacher}.pth. Repeatable.",
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
    if not _STUDY.value:
        cli.stop(1, "--study is missing; for example --study=experiments/studies/digits.py")
    stopped = "stopped; finished runs are kept, and the same command goes on with the others"
    cli.guard(_worker if _WORKER.value else _study, stopped=stopped)


def _folder(name: str) -> pathlib.Path:
    return pathlib.Path(_WORKDIR.value or f"runs/study-{name}")


def _plan(platform: str | None):
    from experiments.study import plan

    study = plan.load(_STUDY.value)
    made = plan.make(
        study, _folder(study.name), seeds=_SEEDS.value, fields=_SET.value, platform=platform
    )
    return made


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
    if _TEACHER.value:
        worker.teach(_TEACHER.value)
    elif _RUN.value:
        worker.make(_RUN.value)
    else:
        worker.work()


def _study() -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # devices are left to the workers
    whole = _plan("cpu")
    plan = whole.only(_ONLY.value)
    from experiments.study import summary

    if _DRY_RUN.value:
        summary.say_plan(plan, _JOBS.value)
        return
    whole.write()
    _calculate(whole)
    launch = f"{time.time():.0f}-{pathlib.Path('/proc/self').resolve().name}"
    if plan.runs:
        launchers = {"local": _launch_local, "slurm": _launch_slurm}
        launchers[_LAUNCH.value](plan, launch)
    failed = summary.say_results(plan)
    where = shlex.quote(str(plan.folder))
    console.say(f"\nthe page: python -m experiments.page --study={where} --output=report.html")
    if failed:
        sys.exit(2)


def _calculate(plan) -> None:
    """Computes the study's curves, which takes seconds."""
    import dataclasses

    from experiments.study.plan import name_of
    from rrd_jax import report

    for function in plan.study.calculations:
        path = plan.folder / "calculations" / f"{name_of(function)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        report.write_json(path, dataclasses.asdict(function()))


def _flags() -> list[str]:
    """The flags of this command, for its workers."""
    ours = flags.FLAGS.flags_by_module_dict()[sys.argv[0]]
    given = [flag for flag in ours if flag.present and flag.name not in _FOR_WORKERS]
    return [text for flag in given for text in flag.serialize().split("\n")]


def _launch_local(plan, launch: str) -> None:
    from experiments.study import local, progress

    jobs = min(_JOBS.value, len(plan.runs))
    command = local.worker_command(_flags(), launch)
    local.run(command, plan.folder, jobs, progress.Progress(plan, jobs).look)
    console.clear()


def _launch_slurm(plan, launch: str) -> None:
    from experiments.study import local, progress, slurm, work

    options = slurm.Options(
        partition=_PARTITION.value,
        minutes=_MINUTES.value,
        gpus=_GPUS.value,
        cpus=_CPUS.value,
        memory=_MEMORY.value,
        most=_TASKS.value,
        more=dict(_sbatch(text) for text in _SBATCH.value),
    )
    command = local.worker_command(_flags(), launch)
    teachers = {
        path: [*command, f"--teacher={path}"]
        for path, (run, i) in plan.teachers().items()
        if not work.is_finished(plan.folder / path, run.job.teachers[i].part.training.epochs)
    }
    runs = {
        name: [*command, f"--run={name}"]
        for name, run in plan.runs.items()
        if not work.is_finished(plan.folder / "runs" / name, run.epochs)
    }
    jobs = slurm.submit(plan.folder, teachers, runs, options)
    ids = ", ".join(sorted({job.job_id.split("_")[0] for job in jobs}))
    console.say(f"{len(teachers)} teachers and {len(runs)} runs are jobs {ids} of Slurm")
    if _WAIT.value:
        slurm.wait(jobs, progress.Progress(plan, _TASKS.value).look)
        console.clear()


def _sbatch(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise errors.InputError(f"--sbatch={text} is not NAME=VALUE, such as --sbatch=account=lab")
    return name.replace("-", "_"), value


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
