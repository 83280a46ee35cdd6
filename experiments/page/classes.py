"""How well each class is recognised, and what it is taken for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.page import look, maps
from experiments.page.parts import Cell, Chart, Figure, Part, Table

if TYPE_CHECKING:
    from experiments.page.measured import Runs

_EACH = 10  # best and worst classes, of many
_MAP = 40  # classes of a map, at most
_TEACHER = look.Style("var(--ink)", "#1c1e21", (), *look.CIRCLE)

Values = Mapping[str, Sequence[Mapping[str, Any]]]


def parts(runs: "Runs", values: Values) -> Iterator[Part]:
    """The best and worst classes, and confusions.

    Args:
      runs: that are compared.
      values: of the measure `predictions`, of each level.
    """
    level = runs.chosen(values)[0]
    names = unlike([str(name) for name in values[level][0]["class_names"]])
    yield _accuracies(runs, values, names)
    counts = confusion_of(values[level])
    if len(names) <= _MAP:
        yield _map(runs, level, values[level][0], counts, names)
    else:
        yield _pairs(runs, level, counts, names)


def unlike(names: Sequence[str]) -> list[str]:
    """The names, with their numbers behind those that are there twice."""
    return [n if list(names).count(n) == 1 else f"{n} ({i})" for i, n in enumerate(names)]


def confusion_of(found: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """[C, C] counts over all seeds."""
    return np.sum([values["student_confusion"] for values in found], axis=0)


def _accuracies(runs: "Runs", values: Values, names: Sequence[str]) -> Figure:
    chosen = runs.chosen(values)
    found = {
        level: np.mean([x["student_accuracy"] for x in values[level]], axis=0) for level in chosen
    }
    styles = {level: runs.styles[level] for level in chosen}
    first = values[chosen[0]][0]
    if "teacher_accuracy" in first:
        found["teacher"], styles["teacher"] = first["teacher_accuracy"], _TEACHER
    best = found[chosen[0]]
    order = [int(i) for i in np.argsort(-best, kind="stable") if np.isfinite(best[i])]
    some = ""
    if len(order) > 2 * _EACH:
        some = f" The {_EACH} best and {_EACH} worst of {len(order)} classes are shown."
        order = order[:_EACH] + order[-_EACH:]
    rows = [
        {"class": names[i], "level": level or "student", "accuracy": maps.number(accuracy[i])}
        for level, accuracy in found.items()
        for i in order
    ]
    styles = {level or "student": style for level, style in styles.items()}
    top, low = names[order[0]], names[order[-1]]
    who = "the student" if runs.is_single else chosen[0]
    said = (
        f"{who} recognises class {top} best ({best[order[0]]:.1f} %) and class {low} worst"
        f" ({best[order[-1]]:.1f} %)"
    )
    return Figure(
        name=f"{runs.name}-classes",
        title=f"The best and worst classes{runs.behind}",
        charts=(Chart(maps.accuracies(rows, [names[i] for i in order], styles)),),
        caption=f"{'One run' if runs.is_single else 'Means over the seeds'}: {said}.{some}",
        alt=f"Accuracy by class: {said}",
        most=760,
        legend=styles,
        lines=False,
    )


def _map(
    runs: "Runs", level: str, first: Mapping[str, Any], counts: np.ndarray, names: Sequence[str]
) -> Figure:
    charts = [Chart(maps.confusion(counts, names), level or "Student")]
    if "teacher_confusion" in first:
        charts.append(Chart(maps.confusion(first["teacher_confusion"], names), "Teacher"))
    said = "; ".join(_said(pair, names) for pair in _worst(counts)[:3]) or "no image is mistaken"
    return Figure(
        name=f"{runs.name}-confusion",
        title=f"What images are taken for{runs.behind}",
        charts=tuple(charts),
        caption=f"A row is a class; cells are in per cent of its test images{runs.pooled}. Most"
        f" often mistaken by {'the student' if runs.is_single else level}: {said}.",
        alt=f"Confusion matrix. Most often mistaken: {said}",
        panel=380,
        most=560,
    )


def _worst(counts: np.ndarray) -> list[tuple[int, int, float]]:
    """Pairs of classes and their share in per cent, the most often mistaken first."""
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:20]
    places = [tuple(map(int, np.unravel_index(i, shares.shape))) for i in order]
    return [(i, j, float(shares[i, j])) for i, j in places if shares[i, j] > 0]


def _said(pair: tuple[int, int, float], names: Sequence[str]) -> str:
    i, j, share = pair
    return f"{names[i]} for {names[j]} ({share:.1f} %)"


def _pairs(runs: "Runs", level: str, counts: np.ndarray, names: Sequence[str]) -> Table:
    rows = [
        (
            Cell(names[i]),
            Cell(names[j]),
            Cell(f"{share:.1f}", share),
            Cell(str(counts[i, j]), counts[i, j]),
        )
        for i, j, share in _worst(counts)
    ]
    return Table(
        name=f"{runs.name}-confusion",
        title=f"What {'the student' if runs.is_single else level} takes images for{runs.behind}",
        header=("class", "taken for", "of the class (%)", "images"),
        rows=tuple(rows),
        caption=f"The classes that are mistaken most often{runs.pooled}.",
        numeric=frozenset({2, 3}),
    )
