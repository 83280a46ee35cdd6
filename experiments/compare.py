"""Compares methods: trains each with several seeds, all with the same teacher.

    python experiments/compare.py --config=configs/digits.py --methods=ce,kd,rrd,rrd+kd --seeds=5

A run of one method with one seed is a cell; its folder is <workdir>/<method>/seed<k>. A second
start of the same command skips cells that are finished and goes on with one that was stopped. The
table goes to <workdir>/table.md, every result to <workdir>/results.json; both have all cells of
this config that are finished in the folder, also those that this start did not ask for.

Every field of the config can be set as for rrd_jax.main. An option of an objective holds for the
methods that have the objective; the config string must then name it, as in digits.py:crd+rrd+kd.
"""

import dataclasses
import math
import pathlib
import runpy
import statistics
from collections.abc import Iterable
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from rrd_jax import cli, console, errors, job, main, parallel, report
from rrd_jax.config import parse
from rrd_jax.recipe import Job
from rrd_jax.run import Result, finished

Cell = tuple[str, int]  # method and seed

_METHODS = flags.DEFINE_list("methods", ["ce", "kd", "rrd", "rrd+kd"], "Methods of configs.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds 0 to this number less one.", lower_bound=1)


def cell_config(method: str, seed: int) -> ConfigDict:
    """The config of the command line, for one method and one seed."""
    flag = flags.FLAGS["config"]
    path, _, argument = config_flags.get_config_filename(flag).partition(":")
    config = runpy.run_path(path)["get_config"](",".join(filter(None, [argument, method])))
    if config.method != method:
        raise errors.InputError(
            f"--methods has '{method}', which is no method: the config's is still"
            f" '{config.method}'; python -m rrd_jax.objectives lists what methods are made of"
        )
    for field, value in config_flags.get_override_values(flag).items():
        part = field.split(".")
        if part[0].startswith("teacher"):
            continue  # the teacher is copied as a whole, below
        if part[0] == "objectives" and part[1] not in config.objectives:
            continue  # an option of another method
        config.update_from_flattened_dict({field: value})
    config.seed, config.baseline = seed, False
    # Cross-entropy alone has a teacher too: the table says how often the two agree.
    with config.ignore_type():
        config.teacher = main.CONFIG.value.teacher
    return config


def cell_job(method: str, seed: int) -> Job:
    """The job of a cell; its run is labelled with the method and the seed."""
    plan = parse(cell_config(method, seed))
    training = dataclasses.replace(plan.student.training, label=f"{method}, seed {seed}")
    return dataclasses.replace(plan, student=dataclasses.replace(plan.student, training=training))


def grid(methods: list[str], seeds: int) -> dict[Cell, Job]:
    """The jobs of each method with each seed, seed by seed.

    Raises:
      InputError: a method is unknown, or named twice.
    """
    if not methods or not all(methods):
        raise errors.InputError(
            f"--methods={','.join(methods)} names no method; give some, such as --methods=ce,rrd"
        )
    _check_fields()
    cells = {}
    for seed in range(seeds):
        jobs = {}
        for i, method in enumerate(methods):
            jobs[i] = cell_job(method, seed)
            for other in range(i):
                if _content(jobs[i]) == _content(jobs[other]):
                    raise errors.InputError(
                        f"--methods names the same method twice, as '{methods[other]}' and as"
                        f" '{method}'; name it once"
                    )
            cells[method, seed] = jobs[i]
    _check_options(methods, cells.values())
    return cells


def _check_fields() -> None:
    """Raises an InputError for flags and fields that a grid sets itself, or does not look at."""
    ours = flags.FLAGS.flags_by_module_dict().get(main.__name__, [])
    for flag in ours:
        if flag.present and flag.name not in ("config", "workdir"):
            raise errors.InputError(f"--{flag.name} is of rrd_jax.main; a grid has no use for it")
    for field in config_flags.get_override_values(flags.FLAGS["config"]):
        if field in ("seed", "method", "baseline"):
            raise errors.InputError(
                f"--config.{field} has no effect on a grid: --seeds and --methods say what it runs"
            )


def _check_options(methods: list[str], cells: Iterable[Job]) -> None:
    """Raises an InputError for an option of an objective that no method has."""
    known = {choice.name for plan in cells for choice in plan.student.training.objectives}
    for field in config_flags.get_override_values(flags.FLAGS["config"]):
        section, _, rest = field.partition(".")
        if section == "objectives" and rest.partition(".")[0] not in known:
            raise errors.InputError(
                f"--config.{field} is of none of the methods {', '.join(methods)}"
            )


def _content(plan: Job) -> dict[str, Any]:
    """The fields of a job but for what it is called."""
    fields = plan.student.fields.items()
    return {name: value for name, value in fields if name not in ("name", "method")}


def run_grid(folder: pathlib.Path, cells: dict[Cell, Job]) -> dict[str, list[Result]]:
    """Trains the teacher, then all cells in their order; what is finished is read back.

    Args:
      folder: of the whole grid.
      cells: a job for each method and seed; all have the same data and teacher.

    Returns:
      The results by method, seed by seed, with those of other cells that the folder has.

    Raises:
      InputError: the jobs have no teacher, the folder has results of another config, or as
        `job.run`.
      DivergedError: as `job.run`.
      PreemptedError: as `job.run`.
    """
    first = next(iter(cells.values()))
    if not first.teachers:
        raise errors.InputError("the config has no teacher; name a pair TEACHER-STUDENT")
    kept = _kept(folder / "results.json")
    setting = job.prepare(first.student)
    job.describe(setting.dataset, folder)
    results = _others(folder, cells, setting.dataset.version)
    for cell in kept:
        if cell not in results and cell not in cells:
            raise errors.InputError(
                f"{folder / 'results.json'} has '{cell[0]}' with seed {cell[1]}, which is not"
                " finished there with the config given now: pass that config's values, or another"
                " --workdir"
            )
    _, teacher = job.get_teacher(first, folder, setting)
    for (method, seed), plan in cells.items():
        cell_folder = _folder(folder, (method, seed))
        with job.claim(cell_folder, plan, plan.student):
            result = job.train(plan.student, cell_folder, setting, teacher)
        print(f"[{result.label}] test top-1 {result.top1:.2f}", flush=True)
        results[method, seed] = result
    # A gain is over the first method of the first start.
    methods = dict.fromkeys(method for method, _ in [*kept, *cells, *results])
    by_seed = sorted(results.items(), key=lambda item: item[0][1])
    return {
        method: [result for (other, _), result in by_seed if other == method] for method in methods
    }


def _folder(folder: pathlib.Path, cell: Cell) -> pathlib.Path:
    method, seed = cell
    return folder / method / f"seed{seed}"


def _others(folder: pathlib.Path, cells: dict[Cell, Job], version: str) -> dict[Cell, Result]:
    """The results of finished cells in the folder that are not asked for, of this config."""
    results = {}
    for path in sorted(folder.glob("*/seed*")):
        method, seed = path.parent.name, path.name.removeprefix("seed")
        if not seed.isdecimal() or (method, int(seed)) in cells:
            continue
        cell = (method, int(seed))
        try:
            plan = cell_job(*cell)
            result = finished(path, plan.student.training.epochs, version)
            if result is not None:
                with job.claim(path, plan, plan.student):  # which compares the configs
                    results[cell] = result
        except errors.InputError as error:
            console.warn(f"{path} is not in the table: {error}")
    return results


def _kept(path: pathlib.Path) -> list[Cell]:
    """The cells whose results an earlier start has written."""
    try:
        methods = errors.read_json(path) if path.exists() else {}
        return [
            (method, int(run["label"].rpartition("seed ")[2]))
            for method, runs in methods.items()
            for run in runs
        ]
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise errors.InputError(
            f"{path} is damaged ({type(error).__name__}); move it away: the results of finished"
            " cells are read from their folders"
        ) from error


def summary(results: dict[str, list[Result]]) -> str:
    """A table with a row for each method: means and sample standard deviations over its seeds.

    The last column is the difference of the mean to the first method's, with its standard error;
    there is none where a method has one seed.
    """
    header = (
        "method",
        "n",
        "test top-1, last epoch",
        "best epoch",
        "agreement with teacher",
        f"gain over {next(iter(results))} +- standard error",
    )
    baseline = [result.top1 for result in next(iter(results.values()))]
    rows = []
    for method, runs in results.items():
        top1 = [run.top1 for run in runs]
        rows.append(
            (
                method,
                str(len(runs)),
                _mean_std(top1),
                _mean_std([run.best_top1 for run in runs]),
                _mean_std([run.agreement for run in runs]),
                _gain(top1, baseline) if rows else "-",
            )
        )
    return report.table(header, rows)


def _gain(top1: list[float], baseline: list[float]) -> str:
    gain = f"{statistics.fmean(top1) - statistics.fmean(baseline):+.2f}"
    if min(len(top1), len(baseline)) == 1:
        return f"{gain} +- -"
    parts = (statistics.variance(values) / len(values) for values in (top1, baseline))
    return f"{gain} +- {math.sqrt(sum(parts)):.2f}"


def _mean_std(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} +- {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _job() -> None:
    parallel.enable_compilation_cache()
    parallel.check_platform()
    parallel.check_jaxlib()
    folder = pathlib.Path(main.WORKDIR.value or f"runs/compare-{main.CONFIG.value.name}")
    results = run_grid(folder, grid(_METHODS.value, _SEEDS.value))
    text = summary(results)
    report.write_whole(folder / "table.md", text + "\n")
    rows = {method: [run._asdict() for run in runs] for method, runs in results.items()}
    report.write_json(folder / "results.json", rows)
    console.print_markdown(text, before="\n")
    console.say(f"\nkept in {folder / 'table.md'} and {folder / 'results.json'}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job)


if __name__ == "__main__":
    app.run(_main, flags_parser=main.parse_flags)
