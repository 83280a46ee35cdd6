"""Measures how long saving a checkpoint to a bucket holds up a training step.

    python -m experiments.bucket_saves

saves a state of 100 million parameters to emulated buckets of Google Cloud Storage and S3 on this
machine, and prints a table. The emulators and the upload share the cores of the machine.
"""

import os
import pathlib
import tempfile
import time
from typing import Any

from absl import app, flags, logging

_PARAMETERS = flags.DEFINE_integer("parameters", 100, "Millions of parameters.", lower_bound=1)
_SAVES = flags.DEFINE_integer("saves", 3, "Number of measured saves.", lower_bound=1)


def measure(folder: Any, millions: int, saves: int) -> tuple[float, float, float]:
    """Returns median seconds: of digests, for which a save blocks, and until it is complete."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rrd_jax import checkpoints
    from rrd_jax.training.state import TrainState

    def state(step: int) -> TrainState:
        layers = {
            f"layer{i}": jax.random.normal(jax.random.key(i), (1000, 1000)) for i in range(millions)
        }
        empty = dict.fromkeys(TrainState.__dataclass_fields__)
        values = {"step": jnp.int32(step), "params": {"student": layers}, "key": jax.random.key(0)}
        values |= {"batch_stats": {"student": {}}, "ema": {}, "opt_state": (), "frozen": {}}
        return TrainState(**empty | values | {"memory": {}, "classifier": ""})

    digests, blocked, total = [], [], []
    with checkpoints.Checkpoints(folder) as manager:
        for step in range(saves + 1):
            current = jax.block_until_ready(state(step))
            start = time.monotonic()
            checkpoints.leaf_sums(current.params)
            digests.append(time.monotonic() - start)
            start = time.monotonic()
            manager.save(current, {"epoch": step})
            blocked.append(time.monotonic() - start)
            manager.wait()
            total.append(time.monotonic() - start)
    # The first save opens the folder.
    return tuple(float(np.median(times[1:])) for times in (digests, blocked, total))


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    logging.set_verbosity(logging.WARNING)
    from rrd_jax import buckets
    from tests import servers

    millions, saves = _PARAMETERS.value, _SAVES.value
    header = ("folder", "save takes (s)", "step waits (s)", "of which digests (s)")
    print("|", " | ".join([*header, "wait without digests (%)"]), "|")
    print("|---|---|---|---|---|")

    def report(name: str, folder: Any) -> None:
        digests, waited, seconds = measure(folder, millions, saves)
        share = 100 * max(waited - digests, 0) / seconds
        print(
            f"| {name} | {seconds:.2f} | {waited:.2f} | {digests:.2f} | {share:.1f} |", flush=True
        )

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch
        report("this machine", pathlib.Path(scratch, "run"))
        for start in (servers.start_gcs, servers.start_s3):
            with start() as server:
                os.environ |= server.environment
                url = server.bucket()
                report(url[:5], buckets.path(f"{url}/run"))


if __name__ == "__main__":
    app.run(main)
