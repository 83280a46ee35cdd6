"""Robust evaluation of a student and its teacher on the test split, for `--mode=eval` of main."""

import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rrd_jax import parallel, user_paths
from rrd_jax.evaluation import calibration
from rrd_jax.run_folder import atomic_write
from rrd_jax.teacher.frozen import FrozenNetwork
from rrd_jax.terminal import console, tables
from rrd_jax.training.choices import RobustnessChoice

FILE = "robustness.json"
_TEACHER = "teacher"

Networks = Mapping[str, FrozenNetwork]


def run(
    choice: RobustnessChoice, networks: Networks, folder: pathlib.Path, checkpoint_name: str = ""
) -> dict[str, Any]:
    """Carries out the evaluations of eval.robust, prints tables and writes FILE.

    The file keeps the results of earlier evaluations of the same weights and images.

    Args:
      choice: the evaluations.
      networks: the student and its teacher, by their labels in tables; one may be missing.
      folder: the run folder. No file is written if the folder does not exist.
      checkpoint_name: best, last or a step, which is part of the file's name; "" for the newest.

    Returns:
      The content of the file: `networks` and a section for each evaluation.
    """
    networks = _with_classes(networks)
    if not networks:
        return {}
    origin = {
        "networks": {label: list(network.origins) for label, network in networks.items()},
        "data": next(iter(networks.values())).dataset.pixels_version,
    }
    path = folder / (FILE.replace(".", f"@{checkpoint_name}.") if checkpoint_name else FILE)
    earlier = user_paths.read_object(path) or {}
    is_same = all(earlier.get(name) == value for name, value in origin.items())
    results = (earlier if is_same else {}) | origin
    for name in choice.names:
        start = time.perf_counter()
        results[name], table = _EVALUATIONS[name](choice, networks)
        results[name]["seconds"] = round(time.perf_counter() - start, 1)
        console.print_table(*table, before="\n")
    if parallel.is_main() and folder.is_dir():
        atomic_write.write_json(path, results)
        console.say(f"results of eval.robust: {path}")
    return results


def _with_classes(networks: Networks) -> dict[str, FrozenNetwork]:
    """Returns the networks with the classes of the data; prints a note about the others."""
    for label, network in networks.items():
        if not network.compares:
            console.note(
                f"eval.robust skips the {label}, whose outputs are not the classes of the data:"
                " its calibration and accuracy, and the agreement with it, are not available"
            )
    return {label: network for label, network in networks.items() if network.compares}


def _calibration(
    choice: RobustnessChoice, networks: Networks
) -> tuple[dict[str, Any], tables.Table]:
    """Measures calibration on all test images."""
    results = {}
    for label, network in networks.items():
        outputs = network.logits(network.dataset.test)
        values = calibration.measure(outputs["logits"], outputs["label"])
        results[label] = {name: _plain(value) for name, value in values.items()}
    header = ("calibration", "ECE (%)", "NLL (nats)", "Brier score")
    rows = [
        (label, f"{100 * x['ece']:.2f}", f"{x['nll']:.4f}", f"{x['brier']:.4f}")
        for label, x in results.items()
    ]
    return {"networks": results, "bins": calibration.BINS}, (header, rows)


def _plain(value: np.ndarray | float) -> Any:
    """Returns a value as JSON, with None for NaN."""
    if isinstance(value, np.ndarray):
        return [_plain(x) for x in value.tolist()]
    return None if np.isnan(value) else value


_EVALUATIONS: Mapping[str, Callable] = {"calibration": _calibration}
