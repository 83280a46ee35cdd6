"""Compares methods: trains each with several seeds, all with the same teacher.

    python experiments/compare.py --config=configs/digits.py --methods=ce,kd,rrd,rrd+kd --seeds=5

A run of one method with one seed is a cell; its folder is <workdir>/<method>/seed<k>. A second
start of the same command skips cells that are finished and goes on with one that was stopped. The
table goes to <workdir>/table.md, every result to <workdir>/results.json.

Every field of the config can be set as for rrd_jax.main. An option of an objective holds for the
methods that have the objective; the config string must then name it, as in digits.py:crd+rrd+kd.
"""

import dataclasses
import math
import pathlib
import runpy
import statistics

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from rrd_jax import cli, errors, job, main, parallel, report
from rrd_jax.config import parse
from rrd_jax.recipe import Job
from rrd_jax.run import Result

_METHODS = flags.DEFINE_list("methods", ["ce", "kd", "rrd", "rrd+kd"], "Methods of configs.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds 0 to this number less one.", lower_bound=1)


def cell_config(method: str, seed: int) -> ConfigDict:
    """The config of the command line, for one method and one seed."""
    flag = flags.FLAGS["config"]
    path, _, argument = config_flags.get_config_filename(flag).partition(":")
    config = runpy.run_path(path)["get_config"](",".join(filter(None, [argument, method])))
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


def run_grid(folder: pathlib.Path, cells: dict[tuple[str, int], Job]) -> dict[str, list[Result]]:
    """Trains the teacher, then all cells in their order; what is finished is read back.

    Args:
      folder: of the whole grid.
      cells: a job for each method and seed; all have the same data and teacher.

    Returns:
      The results by method, seed by seed.

    Raises:
      InputError: the jobs have no teacher, or as `job.run`.
      DivergedError: as `job.run`.
      PreemptedError: as `job.run`.
    """
    first = next(iter(cells.values()))
    if not first.teachers:
        raise errors.InputError("the config has no teacher; name a pair TEACHER-STUDENT")
    setting = job.prepare(first.student)
    _, teacher = job.get_teacher(first, folder, setting)
    results: dict[str, list[Result]] = {method: [] for method, _ in cells}
    for (method, seed), plan in cells.items():
        cell_folder = folder / method / f"seed{seed}"
        with job.claim(cell_folder, plan, plan.student):
            result = job.train(plan.student, cell_folder, setting, teacher)
        print(f"[{result.label}] test top-1 {result.top1:.2f}", flush=True)
        results[method].append(result)
    return results


def summary(results: dict[str, list[Result]]) -> str:
    """A table with a row for each method: means and sample standard deviations over its seeds.

    The last column is the difference of the mean to the first method's, with its standard error.
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
        gain = statistics.fmean(top1) - statistics.fmean(baseline)
        error = math.sqrt((_variance(top1) + _variance(baseline)) / len(top1))
        rows.append(
            (
                method,
                str(len(runs)),
                _mean_std(top1),
                _mean_std([run.best_top1 for run in runs]),
                _mean_std([run.agreement for run in runs]),
                f"{gain:+.2f} +- {error:.2f}" if rows else "-",
            )
        )
    return report.table(header, rows)


def _variance(values: list[float]) -> float:
    return statistics.variance(values) if len(values) > 1 else math.nan


def _mean_std(values: list[float]) -> str:
    return f"{statistics.fmean(values):.2f} +- {math.sqrt(_variance(values)):.2f}"


def _job() -> None:
    parallel.enable_compilation_cache()
    parallel.check_platform()
    parallel.check_jaxlib()
    folder = pathlib.Path(main.WORKDIR.value or f"runs/compare-{main.CONFIG.value.name}")
    seeds, methods = range(_SEEDS.value), _METHODS.value
    cells = {(method, seed): cell_job(method, seed) for seed in seeds for method in methods}
    results = run_grid(folder, cells)
    text = summary(results)
    report.write_whole(folder / "table.md", text + "\n")
    rows = {method: [run._asdict() for run in runs] for method, runs in results.items()}
    report.write_json(folder / "results.json", rows)
    print(f"\n{text}\n\nkept in {folder / 'table.md'} and {folder / 'results.json'}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job)


if __name__ == "__main__":
    app.run(_main, flags_parser=main.parse_flags)
