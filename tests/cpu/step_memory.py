"""Prints the estimated and the measured memory of a config's train step, as JSON.

The argument is a JSON list: a file of configs/ with a config string after the colon, config fields,
and the number of steps.
"""

import ctypes
import gc
import json
import pathlib
import runpy
import sys
import time
from typing import Any

import jax

from experiments.profile import compiled_step
from rrd_jax.cpu import footprint


def _main(path: str, fields: dict[str, Any], calls: int) -> None:
    file, _, argument = path.partition(":")
    config = runpy.run_path(f"configs/{file}")["get_config"](argument)
    config.update_from_flattened_dict(fields)
    config.baseline = False
    step = compiled_step.prepare(
        config, explicit=tuple(fields), examples=2 * config.train.batch_size
    )
    needed = footprint.measure(step.compiled)
    jax.block_until_ready((step.state, step.teacher, step.batch))
    before = _resident_bytes()
    # The value 5 resets VmHWM.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    for _ in range(calls):
        jax.block_until_ready(step())
    measured = _status("VmHWM") - before + needed.arguments
    figures = {"estimated": needed.peak, "libraries": needed.libraries, "measured": measured}
    print(json.dumps(figures))


def _resident_bytes() -> int:
    """Returns the resident bytes of this process once the allocator has returned free memory."""
    gc.collect()
    size, last = _status("VmRSS"), 0
    while size != last:
        # Separate threads free the arrays.
        time.sleep(0.2)
        ctypes.CDLL(None).malloc_trim(0)
        size, last = _status("VmRSS"), size
    return size


def _status(name: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    _main(*json.loads(sys.argv[1]))
