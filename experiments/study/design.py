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

A grid has a cell for each combination of its factors' levels; a cell has a run for each seed.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

DISPLAYS = ("table", "map", "curve")


@dataclasses.dataclass(frozen=True)
class Level:
    """A level of a factor.

    Attributes:
      name: the label in tables and figures.
      argument: the words for the config string, such as "rrd+kd", or "".
      fields: config fields by path.
      value: the position on an axis; None for a level that is not a number.
      config: a launch file that replaces the grid's, or "".
      scales: factors for options of the method's objectives, such as {"weight": 3.0}; "temperature"
        includes temperature_student and temperature_teacher. `ce` is scaled only if the method has
        no other objective. Options that an objective lacks or that have no value are skipped.
    """

    name: str
    argument: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    value: float | None = None
    config: str = ""
    scales: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Factor:
    """A factor that varies between the cells of a grid.

    Attributes:
      name: the factor's name, such as "method".
      levels: the levels of the factor.
      label: the axis label, with the unit.
      log: True for a logarithmic axis.
    """

    name: str
    levels: tuple[Level, ...]
    label: str = ""
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Selection:
    """The best levels of a factor in an earlier grid, for each level of the compared factor.

    Successive halving (arXiv 1502.07943) is a chain of grids with longer schedules and fewer
    levels. Its seeds and metric must not be those of the comparison: use validation images.

    Attributes:
      grid: the name of the earlier grid. Levels have the rank of their mean metric over its seeds;
        runs that failed rank last.
      factor: the name of the factor.
      count: number of levels. With 1, the factor distinguishes no cells of the grid.
    """

    grid: str
    factor: str
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Grid:
    """Runs that differ in the levels of some factors and in their seed.

    Attributes:
      name: one word.
      question: the question that the grid answers, in one sentence.
      factors: the factors; each cell has one level of each factor.
      config: the launch file, as for --config; "" if the levels have one.
      argument: the config string of all runs, after the colon of --config.
      seeds: the seeds of each cell.
      fields: config fields of all runs, by path.
      seeded: config fields that are set to the seed.
      compared: the factor whose levels are compared, within each combination of the other factors'
        levels.
      baseline: the level that all other levels are compared with; "" for no comparison.
      metric: the column of metrics.jsonl that is compared, at the last epoch.
      best: the column with the value of the best epoch, printed next to the metric.
      display: "table", "map" over two numeric factors, or "curve" over a numeric factor.
      measures: names of `experiments.measures` to compute for each finished run.
      published: values from papers, by the names of a cell's levels in the factors' order.
      follows: the name of another grid of the study, or "". Each run then starts from the student
        of that grid with the same seed, with one run for each cell of that grid.
      selection: restricts a factor to the best levels in an earlier grid; None for all levels. The
        cells of a compared level are planned once the earlier grid has run its cells.
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
    display: str = "table"
    measures: tuple[str, ...] = ("predictions",)
    published: Mapping[tuple[str, ...], float] = dataclasses.field(default_factory=dict)
    follows: str = ""
    selection: Selection | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """A study: questions and the runs that answer them.

    Attributes:
      name: one word.
      title: the title of the study's page.
      grids: the grids; each answers one question.
      about: a few sentences on the setting and its limitations.
    """

    name: str
    title: str
    grids: tuple[Grid, ...] = ()
    about: str = ""


def methods(*names: str) -> Factor:
    """Returns the factor "method" with methods as in config strings."""
    return Factor("method", tuple(Level(name, argument=name) for name in names))


def pairs(*names: str) -> Factor:
    """Returns the factor "pair" with TEACHER-STUDENT pairs as in config strings."""
    return Factor("pair", tuple(Level(name, argument=name) for name in names))


def field(path: str, *values: Any, name: str = "", label: str = "", log: bool = False) -> Factor:
    """Returns a factor whose levels are values of a config field.

    Args:
      path: the path of the field, such as "objectives.rrd.temperature_teacher".
      *values: values of the field; numbers have a position on an axis.
      name: the factor's name; "" for the last part of the path.
      label: the axis label.
      log: True for a logarithmic axis.
    """
    name = name or path.rpartition(".")[2]
    levels = tuple(
        Level(
            _level_name(value),
            fields={path: value},
            value=float(value) if is_number(value) else None,
        )
        for value in values
    )
    return Factor(name, levels, label or name.replace("_", " "), log)


def scales(option: str, *values: float) -> Factor:
    """Returns a factor that multiplies an option of the method's objectives; see `Level.scales`."""
    levels = tuple(
        Level(f"{value:g}", scales={option: value}, value=float(value)) for value in values
    )
    return Factor(option, levels, f"{option}, relative to the published", log=True)


def comparison(config: str, names: Sequence[str], seeds: int) -> Study:
    """Returns a study that compares methods with one launch file.

    Args:
      config: the launch file, with the config string after a colon.
      names: names of methods; the first is the baseline.
      seeds: number of seeds, from 0.
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


def _level_name(value: Any) -> str:
    """Returns a value as the name of a level, with the fewest digits that represent it."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def is_number(value: Any) -> bool:
    """Returns True if a value has a position on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)
