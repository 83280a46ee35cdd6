"""Methods against each other: a grid of methods and seeds that shares one teacher.

    python experiments/compare.py --config=configs/digits.py --methods=ce,kd,rrd,rrd+kd --seeds=5

Any field of the config can be set as for the main job; where options of several objectives are, the
config string names them all, as in digits.py:crd+rrd+kd. Cells that are done are skipped, one that
was stopped goes on. The table goes to <workdir>/table.md, every result to <workdir>/results.json.

With --parallel_seeds=N, N seeds of a method go step by step in one program, on one set of images
and one teacher. That fills an accelerator that small networks leave idle; its speed is then that of
all N together. Each seed has the numbers that it has alone, up to rounding.
"""

import contextlib
import itertools
import math
import pathlib
import runpy
import statistics

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from rrd_jax import cli, errors, main, parallel, recipes, report, runs, train

_METHODS = flags.DEFINE_list("methods", ["ce", "kd", "rrd", "rrd+kd"], "Methods of configs.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds 0 to this number less one.", lower_bound=1)

_TOGETHER = flags.DEFINE_integer(
    "parallel_seeds", 1, "Seeds of a method that are trained at once.", lower_bound=1
)


def cell_config(method: str, seed: int) -> ConfigDict:
    """The config of the command line, for one method and one seed."""
    flag = flags.FLAGS["config"]
    path, _, argument = config_flags.get_config_filename(flag).partition(":")
    config = runpy.run_path(path)["get_config"](",".join(filter(None, [argument, method])))
    for field, value in config_flags.get_override_values(flag).items():
        part = field.split(".")
        if part[0].startswith("teacher"):
            continue  # they are taken over whole, below
        if part[0] == "objectives" and part[1] not in config.objectives:
            continue  # an option of another method
        config.update_from_flattened_dict({field: value})
    config.seed, config.baseline = seed, False
    # A method without a teacher is still compared with it, on the test split.
    with config.ignore_type():
        config.teacher = main.CONFIG.value.teacher
    return config


def run_grid(
    folder: pathlib.Path, methods: list[str], seeds: int, together: int = 1
) -> dict[str, list[runs.Result]]:
    """All cells, the teacher first, and `together` seeds at once; those done are read back."""
    cells = {(m, s): cell_config(m, s) for s in range(seeds) for m in methods}
    for config in cells.values():
        train.check(config)
    first = next(iter(cells.values()))
    if not recipes.teachers(first):
        raise errors.InputError("the config has no teacher; name a pair TEACHER-STUDENT")
    setting = train.prepare(first)
    if together > 1 and not setting.dataset.train.on_device:
        raise errors.InputError(
            f"--parallel_seeds={together} needs training images on the devices, but they are"
            " streamed; set it to 1, or data.feed to resident"
        )
    _, teacher = train.get_teacher(first, folder, setting)
    results: dict[str, list[runs.Result]] = {m: [] for m in methods}
    for start, method in itertools.product(range(0, seeds, together), methods):
        some = range(start, min(start + together, seeds))
        configs = {folder / method / f"seed{seed}": cells[method, seed] for seed in some}
        labels = [f"{method}, seed {seed}" for seed in some]
        with contextlib.ExitStack() as held:
            for own, config in configs.items():
                held.enter_context(train.claim(own, config))
            found = train.train_together(configs, setting, labels, teacher)
        for label, result in zip(labels, found, strict=True):
            print(f"[{label}] test top-1 {result.top1:.2f}", flush=True)
        results[method] += found
    return results


def summary(results: dict[str, list[runs.Result]]) -> str:
    """Mean, sample standard deviation and n; differences to the first method with their error."""
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
    for method, found in results.items():
        top1 = [run.top1 for run in found]
        gain = statistics.fmean(top1) - statistics.fmean(baseline)
        error = math.sqrt((_variance(top1) + _variance(baseline)) / len(top1))
        rows.append(
            (
                method,
                str(len(found)),
                _mean_std(top1),
                _mean_std([run.best_top1 for run in found]),
                _mean_std([run.agreement for run in found]),
                f"{gain:+.2f} +- {error:.2f}" if rows else "-",
            )
        )
    return report.table(header, rows)


def _variance(values: list[float]) -> float:
    return statistics.variance(values) if len(values) > 1 else math.nan


def _mean_std(values: list[float]) -> str:
    return f"{statistics.fmean(values):.2f} +- {math.sqrt(_variance(values)):.2f}"


def _job() -> None:
    parallel.check_jaxlib()
    config = main.CONFIG.value
    folder = pathlib.Path(main.WORKDIR.value or f"runs/compare-{config.name}")
    results = run_grid(folder, _METHODS.value, _SEEDS.value, _TOGETHER.value)
    text = summary(results)
    report.write_whole(folder / "table.md", text + "\n")
    plain = {method: [run._asdict() for run in found] for method, found in results.items()}
    report.write_json(folder / "results.json", plain)
    print(f"\n{text}\n\nkept in {folder / 'table.md'} and {folder / 'results.json'}")


def _main(argv: list[str]) -> None:
    del argv
    parallel.enable_compilation_cache()
    cli.guard(_job)


if __name__ == "__main__":
    app.run(_main, flags_parser=main.parse_flags)
