"""A dozen small jobs, and digests of all that they leave: behaviour that no refactoring changes.

    python -m tests.frozen [--only=NAME,...] [--write=FILE] [--against=FILE]

Prints a line a job: its name, a digest of final states and metrics, and the last losses. The same
versions on the same kind of CPU print the same lines, bit for bit.
"""

import argparse
import hashlib
import json
import os
import pathlib
import runpy
import sys
import tempfile

_PAIR = "resnet8-resnet8"
# Name: (config, argument, fields); "teacher" comes first and teaches the others.
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
_SPEEDS = ("images_per_second", "step_milliseconds", "model_teraflops_per_second")


def run(name: str, folder: pathlib.Path) -> dict:
    """Runs a job in `folder`/name; returns the digests of its states and its metrics."""
    import jax

    from rrd_jax import evaluate, job, parallel
    from rrd_jax.config import parse

    config_name, argument, fields = JOBS[name]
    root = pathlib.Path(__file__).parent.parent
    config = runpy.run_path(str(root / "configs" / f"{config_name}.py"))["get_config"](argument)
    fields = {"baseline": False, "teacher.checkpoint": str(folder / "teacher"), **fields}
    devices, stop_after = fields.pop("devices", 1), fields.pop("stop_after", 0)
    if name == "teacher" or isinstance(config.teacher, list):
        fields.pop("teacher.checkpoint")
    config.update_from_flattened_dict(fields)
    workdir, original = folder / name, parallel.make_mesh
    parallel.make_mesh = lambda: original(jax.devices()[:devices])
    try:
        if stop_after:
            _run_and_stop(config, workdir, stop_after)
        job.run(parse(config), workdir)
        tested = evaluate.run(parse(config), workdir)
    finally:
        parallel.make_mesh = original
    found = {"eval": [{k: v for k, v in row.items() if k != "checkpoint"} for row in tested]}
    for path in sorted(workdir.rglob("metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        run_name = str(path.parent.relative_to(workdir))
        step = max(int(p.name) for p in (path.parent / "checkpoints").glob("[0-9]*"))
        meta = json.loads((path.parent / "checkpoints" / f"{step}/meta/metadata").read_text())
        found[run_name] = {
            "metrics": [{k: v for k, v in r.items() if k not in _SPEEDS} for r in rows],
            "states": meta["digests"],
        }
    return found


def _run_and_stop(config, workdir, step):
    import contextlib

    from rrd_jax import errors, job, parallel
    from rrd_jax.config import parse

    original = parallel.stop_requests
    parallel.stop_requests = lambda: contextlib.nullcontext(lambda at: at >= step)
    try:
        job.run(parse(config), workdir)
    except errors.PreemptedError:
        return
    finally:
        parallel.stop_requests = original
    raise AssertionError("the run was not stopped")


def digest(found: dict) -> str:
    """Of all that `run` returns, to the last bit."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    """Runs jobs, prints their digests, and compares them with those of another run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(JOBS))
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--against", type=pathlib.Path)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    from absl import flags, logging

    logging.set_verbosity(logging.ERROR)
    jax.config.update("jax_num_cpu_devices", 8)
    flags.FLAGS(["frozen"])
    wanted = json.loads(options.against.read_text()) if options.against else {}
    found, changed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(["teacher", *options.only.split(",")]):
            before, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115
            try:
                found[name] = run(name, pathlib.Path(folder))
            finally:
                sys.stdout = before
            same = not wanted or wanted[name] == json.loads(json.dumps(found[name]))
            changed += [] if same else [name]
            last = found[name]["."]["metrics"][-1]
            losses = "  ".join(f"{k} {v:.8g}" for k, v in last.items() if "loss" in k)
            print(
                f"{name:12} {digest(found[name])} {'' if same else 'CHANGED '}{losses}", flush=True
            )
    if options.write:
        options.write.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    sys.exit(f"changed: {', '.join(changed)}" if changed else 0)


if __name__ == "__main__":
    main()
