"""A study of small networks on a few random images, and functions that read its results."""

import json
import pathlib
import sys

from tests import launch

ROOT = pathlib.Path(__file__).parent.parent.parent
_PAIR = "tests.tiny:NETWORK-tests.tiny:NETWORK"
_STUDY = """
from experiments.study import design


def get_study(argument=""):
    grid = design.Grid(
        name="methods",
        question="Which method is best?",
        config="configs/digits.py",
        argument="smoke,{pair}",
        factors=(design.methods("ce", "rrd"),),
        seeds=(0, 1),
        fields={{"train.epochs": 6, "teacher.epochs": 4, "teacher.cache": "on"}},
        baseline="ce",
        measures=(),
    )
    return design.Study(name="small", title="Small", grids=(grid,))
"""


def write(folder: pathlib.Path) -> pathlib.Path:
    """Writes the file of a study with four runs that share a teacher."""
    path = folder / "small.py"
    path.write_text(_STUDY.format(pair=_PAIR))
    return path


def command(study: pathlib.Path, workdir: pathlib.Path, *flags: str) -> list[str]:
    """Returns the command of a user in the repository's root."""
    program = [sys.executable, "-m", "experiments.study"]
    return [*program, f"--study={study}", f"--workdir={workdir}", *flags]


def folders(workdir: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folders of all runs and teachers, by name."""
    return {f"{p.parent.name}/{p.name}": p for p in workdir.glob("[rt][ue]*s/*") if p.is_dir()}


def last_step(folder: pathlib.Path) -> int:
    """Returns the step of a run's newest checkpoint; 0 without a checkpoint."""
    names = [path.name for path in (folder / "checkpoints").glob("[0-9]*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def ends(workdir: pathlib.Path) -> dict[str, tuple]:
    """Returns the digests of the final arrays and all metrics of each run and teacher."""
    return {
        name: (launch.digests(folder, last_step(folder)), launch.rows(folder))
        for name, folder in folders(workdir).items()
    }


def starts(workdir: pathlib.Path) -> dict[str, int]:
    """Returns the number of starts of each run and teacher."""
    return {
        name: json.loads((folder / "attempts.json").read_text())["starts"]
        for name, folder in folders(workdir).items()
    }
