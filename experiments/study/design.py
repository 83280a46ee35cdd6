"""The definition of a study: questions, and the grids of runs that answer them.

    def get_study(argument=""):
        methods = design.methods("ce", "kd", "rrd")
        gain = design.Grid(
            name="methods",
            question="Which method makes the best student?",
            config="configs/digits.py",
            factors=(methods,),
            seeds=(0, 1, 2),
            baseline="ce",
        )
        return design.Study(name="mine", title="Three methods", grids=(gain,))

A grid has a cell for each combination of the levels of its factors; a cell has a run for each seed.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = ("table", "map", "curve")


@dataclasses.dataclass(frozen=True)
class Level:
    """One of the values of a factor.

    Attributes:
      name: in tables and figures.
      argument: its part of the config string, such as "rrd+kd", or "".
      fields: of the config, by path.
      value: its place on an axis, or None where it has none.
      config: the launch file in place of the grid's, or "".
    """

    name: str
    argument: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    value: float | None = None
    config: str = ""


@dataclasses.dataclass(frozen=True)
class Factor:
    """What differs between the cells of a grid.

    Attributes:
      name: of the factor, such as "method".
      levels: its values.
      label: of its axis, with the unit.
      log: whether the axis is logarithmic.
    """

    name: str
    levels: tuple[Level, ...]
    label: str = ""
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Grid:
    """Runs that differ in the levels of some factors, and in their seed.

    Attributes:
      name: one word.
      question: that it answers, in a sentence.
      config: the launch file, as --config has it; "" where levels have one.
      argument: what all runs have behind the colon of the config string.
      factors: each cell has one level of each.
      seeds: of the runs of a cell.
      fields: of the config, by path, in all runs.
      seeded: fields that get the seed's number.
      compared: the factor whose levels are compared, within each combination of the levels of the
        others.
      baseline: the level that the others are compared with; "" compares none.
      metric: the column of metrics.jsonl that is compared, of the last epoch.
      best: the column of the best epoch, shown beside it.
      shown: "table", "map" of two factors with values, or "curve" over a factor with values.
      measures: what is measured of each finished run, by the names of `experiments.measures`.
      published: figures from papers, by the names of a cell's levels in the factors' order.
      follows: another grid of the study: each run starts from the network of that grid's run with
        the same seed, one for each of its cells.
    """

    name: str
    question: str
    factors: tuple[Factor, ...]
    config: str = ""
    argument: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeded: tuple[str, ...] = ("seed",)
    compared: str = "method"
    baseline: str = ""
    metric: str = "test/top1"
    best: str = "best/top1"
    shown: str = "table"
    measures: tuple[str, ...] = ("predictions",)
    published: Mapping[tuple[str, ...], float] = dataclasses.field(default_factory=dict)
    follows: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
    """A study: questions, and the runs that answer them.

    Attributes:
      name: one word.
      title: of its page.
      grids: each answers a question by its runs.
      about: a few sentences on the setting, and what it cannot show.
    """

    name: str
    title: str
    grids: tuple[Grid, ...] = ()
    about: str = ""


def methods(*names: str) -> Factor:
    """The factor "method", of methods as config strings name them."""
    return Factor("method", tuple(Level(name, argument=name) for name in names))


def pairs(*names: str) -> Factor:
    """The factor "pair", of TEACHER-STUDENT as config strings name them."""
    return Factor("pair", tuple(Level(name, argument=name) for name in names))


def field(path: str, *values: Any, name: str = "", label: str = "", log: bool = False) -> Factor:
    """A factor whose levels are values of a config field.

    Args:
      path: of the field, such as "objectives.rrd.temperature_teacher".
      *values: of the field; numbers have a place on an axis.
      name: of the factor; "" for the last part of the path.
      label: of its axis.
      log: whether the axis is logarithmic.
    """
    name = name or path.rpartition(".")[2]
    levels = tuple(
        Level(
            _shown(value),
            fields={path: value},
            value=float(value) if is_number(value) else None,
        )
        for value in values
    )
    return Factor(name, levels, label or name.replace("_", " "), log)


def comparison(config: str, names: Sequence[str], seeds: int) -> Study:
    """The study of one launch file and some methods, without a file of its own.

    Args:
      config: the launch file, with what stands behind its colon.
      names: of methods; the others are compared with the first.
      seeds: 0 to this number less one.
    """
    grid = Grid(
        name="methods",
        question="Which of these methods makes the best student?",
        config=config,
        factors=(methods(*names),),
        seeds=tuple(range(seeds)),
        baseline=names[0],
    )
    name = re.sub(r"[^\w+-]+", "_", config.removeprefix("configs/").replace(".py", ""))
    return Study(name.strip("_"), f"Methods on {config}", (grid,))


def _shown(value: Any) -> str:
    """A value as the name of a level, with as many digits as it takes."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def is_number(value: Any) -> bool:
    """Whether a value has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)
