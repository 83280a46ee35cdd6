"""Small jobs that cover every part of the trainer, and digests of their results.

    python -m tests.frozen [--only=NAME,...] [--write=FILE] [--against=FILE] [--record]

Prints one line per job: its name, a digest of its final states and metrics, and its last losses.
With equal package versions on equal CPUs, a refactoring must not change a line: --write keeps the
results before it, and --against compares those after it. --record writes the figures of the jobs to
tests/golden/frozen.json.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import sys
import tempfile
from typing import Any

RECORD = pathlib.Path(__file__).parent / "golden" / "frozen.json"
_PAIR = "resnet8-resnet8"
# Name: (config, argument, fields). The job "teacher" runs first and provides the teacher.
JOBS = {
    "teacher": ("digits", "smoke,resnet8,ce", {}),
    "rrd_kd": ("digits", f"smoke,{_PAIR},rrd+kd", {"teacher.cache": "off"}),
    "own_teacher": ("digits", f"smoke,{_PAIR},rrd", {"teacher.checkpoint": "", "baseline": True}),
    "two_teachers": (
        "digits",
        "smoke,resnet8+wrn_16_1-resnet8,rrd+kd+sp",
        {"teacher.checkpoint": ""},
    ),
    "cached": ("digits", f"smoke,{_PAIR},rrd+crd+kd", {"teacher.cache": "on"}),
    "banks": (
        "digits",
        f"smoke,{_PAIR},rrd+crd",
        {"objectives.rrd.memory": "momentum_reference", "objectives.crd.memory": "bank"},
    ),
    "momentum": (
        "digits",
        f"smoke,{_PAIR},rrd+dcd",
        {"objectives.rrd.memory": "momentum", "objectives.rrd.preset": "sharp_teacher"},
    ),
    "stages": ("digits", f"smoke,{_PAIR},ab+ft", {}),
    "maps": ("digits", f"smoke,{_PAIR},fitnet+at+vid+semckd+reviewkd+srrl+ssim", {}),
    "simkd": ("digits", f"smoke,{_PAIR},simkd", {}),
    "mixup": ("digits", f"smoke,{_PAIR},dkd+rkd", {"data.mix": "mixup"}),
    "accumulated": (
        "digits",
        f"smoke,{_PAIR},rrd+wsld",
        {"train.accumulate": 2, "train.ema": 0.9, "optimizer.clip_norm": 1.0},
    ),
    "devices": (
        "digits",
        f"smoke,{_PAIR},rrd+kd",
        {"shard_parameters": True, "train.ema": 0.9, "devices": 8},
    ),
    "dispatch": (
        "digits",
        f"smoke,{_PAIR},rrd",
        {"train.steps_per_dispatch": 3, "train.remat": "convolutions"},
    ),
    "streamed": (
        "cifar10",
        f"smoke,{_PAIR},pkt+cc",
        {"data.feed": "streamed", "teacher.checkpoint": ""},
    ),
    "imagenet": (
        "imagenet_r34_r18",
        "smoke,resnet18-resnet18,rrd",
        {"space_to_depth": True, "teacher.checkpoint": ""},
    ),
    "resumed": ("digits", f"smoke,{_PAIR},rrd+kd", {"train.save_every": 2, "stop_after": 4}),
}
_SPEEDS = (
    *("images_per_second", "step_milliseconds", "model_teraflops_per_second"),
    "input_wait_percent",
)
# After three steps, test losses can reach several hundred and depend chaotically on rounding.
_CHAOTIC = 5.0


def run(name: str, folder: pathlib.Path) -> dict[str, Any]:
    """Runs a job in `folder`/name; returns its metrics and the digests of its states."""
    import jax
    import pytest

    from rrd_jax import parallel
    from rrd_jax.config import parse
    from rrd_jax.jobs import evaluate
    from tests import launch

    config_name, argument, fields = JOBS[name]
    config = launch.get_config(config_name, argument)
    fields = {"baseline": False, "teacher.checkpoint": str(folder / "teacher"), **fields}
    devices, stop_after = fields.pop("devices", 1), fields.pop("stop_after", 0)
    if name == "teacher" or isinstance(config.teacher, list):
        fields.pop("teacher.checkpoint")
    config.update_from_flattened_dict(fields)
    workdir = folder / name
    make_mesh = functools.partial(parallel.make_mesh, jax.devices()[:devices])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "make_mesh", make_mesh)
        if stop_after:
            launch.preempt(config, workdir, stop_after)
        launch.run(config, workdir)
        evaluated = evaluate.run(parse(config), workdir)
    return _results(workdir, evaluated)


def _results(workdir: pathlib.Path, evaluated: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [{k: v for k, v in row.items() if k != "checkpoint"} for row in evaluated]
    results: dict[str, Any] = {"eval": rows}
    for path in sorted(workdir.rglob("metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        step = max(int(p.name) for p in (path.parent / "checkpoints").glob("[0-9]*"))
        meta = json.loads((path.parent / "checkpoints" / f"{step}/meta/metadata").read_text())
        results[str(path.parent.relative_to(workdir))] = {
            "metrics": [{k: v for k, v in row.items() if k not in _SPEEDS} for row in rows],
            "states": meta["digests"],
        }
    return results


def digest(results: dict[str, Any]) -> str:
    """Returns a digest of the results of `run`, exact to the last bit."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]


def figures(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the losses and accuracies of the first epoch of each run of a job.

    Later epochs are left out because they amplify differences in rounding between machines.
    """
    first = {name: run["metrics"][0] for name, run in results.items() if name != "eval"}
    return {
        name: {
            key: value
            for key, value in row.items()
            if key.startswith("train/loss") or key in ("train/top1", "test/top1", "test/loss")
            if key != "test/loss" or value < _CHAOTIC
        }
        for name, row in first.items()
    }


def record(results: dict[str, Any], path: pathlib.Path = RECORD) -> None:
    """Writes the figures of jobs over those that were recorded."""
    recorded = json.loads(path.read_text()) if path.exists() else {}
    recorded |= {name: figures(result) for name, result in results.items()}
    path.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


def run_all(names: list[str], expected: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Runs jobs and prints a line for each.

    Args:
      names: keys of JOBS.
      expected: results by job to compare with; {} for no comparison.

    Returns:
      The results by job, and the names of the jobs whose results changed.
    """
    results, changed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(["teacher", *names]):
            with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
                results[name] = json.loads(json.dumps(run(name, pathlib.Path(folder))))
            unchanged = not expected or expected[name] == results[name]
            changed += [] if unchanged else [name]
            last = results[name]["."]["metrics"][-1]
            losses = "  ".join(f"{k} {v:.8g}" for k, v in last.items() if "loss" in k)
            mark = "" if unchanged else "CHANGED "
            print(f"{name:12} {digest(results[name])} {mark}{losses}", flush=True)
    return results, changed


def main() -> None:
    """Runs jobs, prints their digests and compares the results with those of an earlier run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(JOBS))
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--against", type=pathlib.Path)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    from absl import flags, logging

    logging.set_verbosity(logging.ERROR)
    jax.config.update("jax_num_cpu_devices", 8)
    flags.FLAGS(["frozen"])
    expected = json.loads(options.against.read_text()) if options.against else {}
    results, changed = run_all(options.only.split(","), expected)
    if options.write:
        options.write.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    if options.record:
        record(results)
    sys.exit(f"changed: {', '.join(changed)}" if changed else 0)


if __name__ == "__main__":
    main()
