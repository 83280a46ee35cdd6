"""Measures what each form of a convolution on a CPU saves of a whole train step.

    taskset -c 1 python -m experiments.cpu_forms --row=cifar --without="strided;pixel;level 2"

One process builds the step with all forms, and once more without each of the named ones. All steps
take turns, round by round. Times are CPU times of the process, because other processes share the
machine. A form is a name of `rrd_jax.cpu.convolutions.Way`, or one of `_OTHERS`.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys
import time
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).parent / "speed_peers"))

import ours

from rrd_jax.cpu import compiling, convolutions
from rrd_jax.jobs import program

_CIFAR = {"config": "configs/cifar100.py", "side": 32, "classes": 100, "batch_size": 32}
_CIFAR |= {"teacher": "resnet8x4", "student": "resnet8"}
_IMAGENET = {"config": "configs/imagenet_r34_r18.py", "side": 96, "classes": 1000, "batch_size": 8}
_IMAGENET |= {"teacher": "resnet8"}
_HALF = {"halves": ["student", "teacher"]}
_ROWS = {
    "cifar": (_CIFAR, "rrd+kd"),
    "cifar_bfloat16": (_CIFAR | _HALF, "rrd+kd"),
    "imagenet_bfloat16": (_IMAGENET | _HALF | {"student": "resnet18"}, "ce"),
    "mobilenet": (_IMAGENET | {"student": "mobilenet_v3_small"}, "ce"),
    "regnet": (_IMAGENET | {"student": "regnet_y_400mf"}, "ce"),
}
_WAYS = {way.name: way for way in convolutions._WAYS}
_PLAIN = {"_usual_by_kernel": convolutions._whole_by_kernel}


def _build_without_onednn(*arguments, build=program.build, **options):
    return build(*arguments, **options | {"onednn_from": sys.maxsize})


_OTHERS = {
    "kernel gradients": (convolutions, _PLAIN),
    "all forms": (convolutions, {"_WAYS": (_WAYS["others"],)} | _PLAIN),
    "apart": (convolutions, {"apart": lambda x: x}),
    "YNNPACK's types": (compiling, {"_OPTIONS": {}}),
    "level 2": (compiling, {"_LEVEL": {}}),
    "oneDNN": (program, {"build": _build_without_onednn}),
}


def _left_out(name):
    """Returns a context in which a form is left out; in "" none is."""
    if not name:
        return contextlib.nullcontext()
    if name in _OTHERS:
        module, attributes = _OTHERS[name]
        return mock.patch.multiple(module, **attributes)
    ways = tuple(way for way in convolutions._WAYS if way.name != name)
    return mock.patch.object(convolutions, "_WAYS", ways)


def main() -> None:
    """Prints the CPU time of a step, and that without each form as a multiple of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=_ROWS, required=True)
    parser.add_argument("--without", default="")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    task, case = _ROWS[options.row]
    sizes = {"examples": 2 * task["batch_size"], "queue_size": 16_384, "halves": []}
    setting = ours._Setting(sizes | task)
    steps = {}
    for name in ["", *filter(None, options.without.split(";"))]:
        compiling.options.cache_clear()
        with _left_out(name):
            steps[name] = ours._Case(setting, case)
    compiling.options.cache_clear()
    times = {name: [] for name in steps}
    for i in range(options.rounds):
        for name in list(steps)[:: -1 if i % 2 else 1]:
            start = time.process_time()
            count = steps[name].make_epochs(5)
            times[name].append((time.process_time() - start) / count)
    for name, seconds in times.items():
        ratios = sorted(t / base for t, base in zip(seconds, times[""], strict=True))
        print(
            f"{name or 'all forms in place':24} {1000 * statistics.median(seconds):8.1f} ms"
            f" {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    main()
