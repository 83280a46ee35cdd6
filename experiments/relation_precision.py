"""What passes of bfloat16 lose of RRD's loss and gradient, against float64, without a TPU.

    python -m experiments.relation_precision

A TPU multiplies float32 in passes of bfloat16: `Precision.HIGH` are three of them, `HIGHEST` six.
A CPU computes both in float32, so the passes are made here one by one (`experiments.passes`) for
the form that a TPU is given. The table goes to <workdir>/relation_precision.md.
"""

import functools
import itertools
import os
import pathlib
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for a start by path, without -m

import numpy as np
from absl import app, flags

from experiments import passes
from rrd_jax.evaluation.rows import unit
from rrd_jax.run_folder import report
from rrd_jax.terminal import cli

_ROWS = flags.DEFINE_list("rows", ["1024", "16384", "65536"], "Sizes K of the memory.")
_BATCH = flags.DEFINE_integer("batch", 32, "Images.", lower_bound=1)
_DIM = flags.DEFINE_integer("dim", 128, "Length D of an embedding.", lower_bound=1)
_WORKDIR = flags.DEFINE_string("workdir", "runs/relation-precision", "Results.")
_FEATURES = 256  # in front of the student's projection
_TEMPERATURES = ((1.0, 1.0), (0.1, 0.1), (0.04, 0.1), (0.1, 0.02), (0.02, 0.02))
# Passes of similarities, and of what follows from weights.
_PRODUCTS = {
    f"{similarities}, {weights}": functools.partial(passes.product, similarities, weights)
    for similarities, weights in ((6, 6), (6, 3), (3, 3))
}
# With rows known to have length 1, as RRD's are; and as rows of any length are compared.
_FORMS = {name: (product, False) for name, product in _PRODUCTS.items()}
_FORMS["6, 3, maximum"] = _PRODUCTS["6, 3"], True


def arrays(rows: int, kind: str) -> tuple[np.ndarray, ...]:
    """Features [B, F], kernel [F, D], teacher [B, D] and memory [K, D], float32.

    Of "random" all directions are alike; of "classes" each row is near one of 100 directions, and
    the student is near its teacher.
    """
    rng = np.random.default_rng(rows)

    def normal(*shape):
        return rng.standard_normal(shape)

    batch, dim = _BATCH.value, _DIM.value
    centres = unit(normal(100, dim)) if kind == "classes" else np.zeros((100, dim))
    scale = 0.6 if kind == "classes" else 1.0
    teacher, memory = (
        unit(centres[rng.integers(100, size=n)] + scale * normal(n, dim) / np.sqrt(dim))
        for n in (batch, rows)
    )
    kernel = normal(_FEATURES, dim) / np.sqrt(_FEATURES)
    near = teacher + 0.5 * normal(batch, dim) / np.sqrt(dim) if kind == "classes" else None
    features = normal(batch, _FEATURES) if near is None else near @ np.linalg.pinv(kernel)
    return tuple(a.astype(np.float32) for a in (features, kernel, teacher, memory))


def _rows() -> list[list[str]]:
    table = []
    for rows, kind in itertools.product(map(int, _ROWS.value), ("random", "classes")):
        given = arrays(rows, kind)
        for temperatures, name in itertools.product(_TEMPERATURES, _FORMS):
            product, has_maximum = _FORMS[name]
            errors = passes.compare(given, temperatures, product, has_maximum=has_maximum)
            row = [f"{rows:,}", kind, "{:g}, {:g}".format(*temperatures), name]
            table.append(row + [f"{error:.1e}" for error in errors])
            print(" | ".join(table[-1]), flush=True)
    return table


def _job() -> None:
    header = ["K", "embeddings", "temperatures", "passes", *passes.ERRORS]
    text = report.table(header, _rows())
    folder = pathlib.Path(_WORKDIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    report.write_whole(folder / "relation_precision.md", text + "\n")
    print(f"\n{text}\n\nkept in {folder / 'relation_precision.md'}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; nothing is kept")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
