"""What was measured of a grid's runs beyond their metrics, as figures and tables."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import measures
from experiments.page import classes, look, maps, pictures
from experiments.page.parts import Cell, Chart, Figure, Folded, Gallery, Part, Table
from experiments.study import statistics
from experiments.study.records import Entry
from rrd_jax import errors
from rrd_jax.terminal import console

TEACHER = look.Style("var(--ink)", "#1c1e21", (), *look.CIRCLE)
_FIGURES = {  # column of a measure: what it is called, its factor, decimals
    "alignment": {
        "cka_linear": ("CKA, linear", 1, 3),
        "cka_rbf": ("CKA, Gaussian", 1, 3),
        "similarity_spearman": ("rank correlation of similarities", 1, 3),
        "neighbour_agreement_mean": ("nearest neighbours in common (%)", 100, 1),
        "correlation_gap": ("mean gap of class correlations", 1, 3),
    },
    "calibration": {
        "student_ece": ("expected calibration error (%)", 100, 2),
        "student_nll": ("negative log-likelihood (nats)", 1, 3),
        "student_brier": ("Brier score", 1, 4),
    },
    "predictions": {
        "agreement": ("same class as the teacher (%)", 1, 2),
        "student_balanced_accuracy": ("balanced accuracy (%)", 1, 2),
        "student_macro_f1": ("macro F1 (%)", 1, 2),
    },
}
_TITLES = {
    "alignment": "How near to the teacher",
    "calibration": "Calibration",
    "predictions": "Beyond accuracy",
}
_LEAST = 5  # images of a bin: of fewer, accuracy is chance
_ROWS = 12  # of a table that is not folded away
_PANELS = 3  # levels with a map each, beside the teacher's


@dataclasses.dataclass(frozen=True)
class Runs:
    """What was measured of runs that are compared, by level.

    Attributes:
      name: of the section, for the names of its parts.
      levels: the runs of each level that finished, in the order of seeds.
      order: levels from the best on.
      baseline: one of them, or "".
      where: which runs these are, where there are others; else "".
    """

    name: str
    levels: Mapping[str, Sequence[Entry]]
    order: Sequence[str]
    baseline: str
    where: str = ""

    def values(self, measure: str) -> dict[str, list[Mapping[str, Any]]]:
        """Of each level with some: what was measured, in the order of seeds."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for level, entries in self.levels.items():
            read = [values for entry in entries if (values := _read(entry, measure))]
            if read:
                found[level] = read
        return found

    def chosen(self, there: Mapping[str, Any], most: int = _PANELS) -> list[str]:
        """A few levels for pictures: the best, rrd's, and the baseline."""
        names = [*self.order[:1], "rrd", self.baseline, "rrd+kd"]
        names += [name for name in self.order if name in there]
        return [name for name in dict.fromkeys(names) if name in there][:most]

    def first(self, level: str) -> str:
        """What the first run of a level is called."""
        return "this run" if self.is_single else f"the first seed of {level or 'all'}"

    @property
    def behind(self) -> str:
        """Where, behind a title."""
        return f" ({self.where})" if self.where else ""

    @property
    def is_single(self) -> bool:
        """Whether it is one run alone."""
        return sum(map(len, self.levels.values())) == 1

    @property
    def single_seed(self) -> str:
        """Where one run stands for a level."""
        return "" if self.is_single else ", of the first seed"

    @property
    def pooled(self) -> str:
        """What figures of all runs of a level are said to be over."""
        return "" if self.is_single else ", over all seeds"

    @property
    def styles(self) -> dict[str, look.Style]:
        """Of the levels, in their first order."""
        return look.styles(self.levels, self.baseline)


def _read(entry: Entry, measure: str) -> Mapping[str, Any] | None:
    try:
        return measures.read(entry.folder, measure)
    except errors.InputError as error:
        console.warn(str(error))
        return None


def parts(settings: Sequence[Runs]) -> Iterator[Part]:
    """Figures and tables of whatever was measured.

    Args:
      settings: in which levels are compared; figures are of the first, tables of all.
    """
    runs = settings[0]
    predictions = runs.values("predictions")
    if predictions:
        yield from classes.parts(runs, predictions)
        yield from table(settings, "predictions")
        yield from _differing(runs, predictions)
    calibration = runs.values("calibration")
    if calibration:
        yield _reliability(runs, calibration)
        yield from table(settings, "calibration")
    alignment = runs.values("alignment")
    if alignment:
        yield from _correlations(runs, alignment)
        yield from table(settings, "alignment")
    planes = runs.values("tsne")
    if planes:
        yield _tsne(runs, planes)


def table(settings: Sequence[Runs], measure: str) -> Iterator[Table | Folded]:
    """Means of a measure's figures, a row a level, in each of the settings."""
    found = [(runs, runs.values(measure)) for runs in settings]
    every = [values for _, levels in found for level in levels.values() for values in level]
    columns = {
        name: about
        for name, about in _FIGURES[measure].items()
        if any(name in values for values in every)
    }
    if not columns:
        return
    rows = []
    for runs, values in found:
        for level in (level for level in runs.order if level in values):
            cells = [Cell(level or "all"), Cell(str(len(values[level])), len(values[level]))]
            cells += [_mean(values[level], name, *columns[name][1:]) for name in columns]
            rows.append((*([Cell(runs.where)] if len(settings) > 1 else []), *cells))
    first = settings[0]
    before = ["setting"] if len(settings) > 1 else []
    before += ["run" if first.is_single else "level"]
    made = Table(
        name=f"{first.name}-{measure}",
        title=_TITLES[measure],
        header=(*before, "seeds", *(about[0] for about in columns.values())),
        rows=tuple(rows),
        caption=_caption(first, measure, every[0]),
        numeric=frozenset(range(len(before), len(before) + 1 + len(columns))),
    )
    yield Folded(f"Table: {made.title}", (made,)) if len(rows) > _ROWS else made


def _mean(found: Sequence[Mapping[str, Any]], name: str, factor: float, decimals: int) -> Cell:
    figures = [factor * float(values[name]) for values in found if name in values]
    figures = {i: figure for i, figure in enumerate(figures) if np.isfinite(figure)}
    summary = statistics.summarize(figures)
    if summary.mean is None:
        return Cell("–")
    text = f"{summary.mean:.{decimals}f}"
    return Cell(text + (f" ± {summary.std:.{decimals}f}" if summary.n > 1 else ""), summary.mean)


def _caption(runs: Runs, measure: str, first: Mapping[str, Any]) -> str:
    sentences = ["One run." if runs.is_single else "Mean ± standard deviation over the seeds."]
    if measure == "alignment" and "neighbour_agreement_chance" in first:
        sentences.append(
            f"Embeddings of {first['sampled']} of {first['total']} test images; of the"
            f" {first['neighbours']} nearest,"
            f" {100 * first['neighbour_agreement_chance']:.1f} % would be in common by chance. CKA"
            " is 1 for embeddings that are alike but for rotation and scale (arXiv 1905.00414)."
        )
    if measure == "calibration" and "teacher_ece" in first:
        sentences.append(
            f"The teacher: calibration error {100 * first['teacher_ece']:.2f} %, negative"
            f" log-likelihood {first['teacher_nll']:.3f}, Brier score {first['teacher_brier']:.4f}."
        )
    if measure == "predictions" and "teacher_top1" in first:
        sentences.append(f"The teacher's top-1 is {first['teacher_top1']:.2f} %.")
    return " ".join(sentences)


def _differing(runs: Runs, values: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Gallery]:
    level = runs.chosen(values)[0]
    found = values[level][0]
    if not len(found.get("differing", ())):
        return
    names, shown = found["class_names"], []
    uris = pictures.data_uris(found["differing_images"])
    for uri, place in zip(uris, found["differing"], strict=True):
        says = {
            role: (
                names[found[f"{role}_prediction"][place]],
                100 * found[f"{role}_confidence"][place],
            )
            for role in ("teacher", "student")
        }
        words = [f"{role}: {name}, {sure:.0f}\u00a0%" for role, (name, sure) in says.items()]
        label = names[found["labels"][place]]
        line = "\n".join([f"label: {label}", *words])
        shown.append((uri, line, f"an image of {label}; {'; '.join(words)}"))
    total = round((1 - found["agreement"] / 100) * len(found["labels"]))
    yield Gallery(
        name=f"{runs.name}-differing",
        title=f"Images that teacher and student see differently{runs.behind}",
        pictures=tuple(shown),
        caption="The label, then what each takes the image for, and how sure it is."
        f" {len(shown)} of {total} such test images, those of which both are surest; the student is"
        f" {runs.first(level)}.",
    )


def _reliability(runs: Runs, values: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    names = runs.chosen(values, 4)
    styles = {name: runs.styles[name] for name in names}
    curves = {name: _pooled(values[name], "student") for name in names}
    first = values[names[0]][0]
    if "teacher_count" in first:
        styles = {"teacher": TEACHER} | styles
        curves = {"teacher": _pooled([first], "teacher")} | curves
    errors_ = ", ".join(
        f"{name or 'the student'} {_mean(values[name], 'student_ece', 100, 2).text} %"
        for name in names
    )
    return Figure(
        name=f"{runs.name}-reliability",
        title=f"How often networks are right, by how sure they are{runs.behind}",
        charts=(Chart(maps.reliability(curves, styles)),),
        caption=f"Test images by the probability of the predicted class{runs.pooled}: on the grey"
        " line, networks are as often right as they say. Larger points have more images; those of"
        f" fewer than {_LEAST} are left out.",
        alt=f"Reliability diagram. Expected calibration errors: {errors_}",
        most=560,
        legend=styles,
    )


def _pooled(found: Sequence[Mapping[str, Any]], role: str) -> list[dict[str, Any]]:
    """Points of all seeds together, of bins with enough images."""
    counts = np.stack([values[f"{role}_count"] for values in found]).astype(float)
    total = counts.sum(0)
    points = []
    for part in ("confidence", "accuracy"):
        stacked = np.nan_to_num(np.stack([values[f"{role}_{part}"] for values in found]))
        points.append((stacked * counts).sum(0) / np.maximum(total, 1))
    return [
        {"confidence": 100 * sure, "accuracy": 100 * right, "images": int(count)}
        for sure, right, count in zip(*points, total, strict=True)
        if count >= _LEAST
    ]


def _correlations(
    runs: Runs, values: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[Figure]:
    there = {level: found[0] for level, found in values.items() if "classes" in found[0]}
    if not there:
        return
    names = runs.chosen(there)
    first = there[names[0]]
    shown = maps.sampled(len(first["classes"]))
    labels = _class_names(runs, first["classes"])
    labels = [labels[i] for i in shown]
    cut = np.ix_(shown, shown)
    charts = [
        Chart(maps.correlation(first["teacher_correlation"][cut], labels), "Teacher"),
        *(
            Chart(maps.correlation(there[n]["student_correlation"][cut], labels), n or "Student")
            for n in names[:1]
        ),
        *(
            Chart(
                maps.correlation(there[name]["correlation_difference"][cut], labels, gap=True),
                f"{name or 'Student'} less teacher",
            )
            for name in names
        ),
    ]
    gaps = ", ".join(f"{n or 'student'} {there[n]['correlation_gap']:.3f}" for n in names)
    some = f" {len(shown)} of {len(first['classes'])} classes are shown." * (
        len(shown) < len(first["classes"])
    )
    yield Figure(
        name=f"{runs.name}-correlations",
        title=f"Correlations between the logits of classes{runs.behind}",
        charts=tuple(charts),
        caption=f"Over all test images{runs.single_seed} (as in arXiv 1910.10699 and 2407.12073)."
        f" Mean size of the difference to the teacher: {gaps}.{some}",
        alt=f"Correlation maps of teacher and student. Mean size of their difference: {gaps}",
        panel=290,
        most=420,
    )


def _class_names(runs: Runs, labels: np.ndarray) -> list[str]:
    for found in runs.values("predictions").values():
        return [str(found[0]["class_names"][label]) for label in labels]
    return [str(label) for label in labels]


def _tsne(runs: Runs, values: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    names = runs.chosen(values)
    first = values[names[0]][0]
    labels = [str(name) for name in first["class_names"]]
    styles = look.styles(labels)
    charts = []
    if "teacher" in first:
        charts.append(Chart(maps.plane(first, "teacher", styles), "Teacher"))
    charts += [
        Chart(maps.plane(values[name][0], "student", styles), name or "Student") for name in names
    ]
    return Figure(
        name=f"{runs.name}-tsne",
        title=f"Embeddings in the plane{runs.behind}",
        charts=tuple(charts),
        caption=f"t-SNE of {first['sampled']} of {first['total']} test images{runs.single_seed};"
        " axes and distances between clusters mean nothing. Point at one to see its image.",
        alt=f"t-SNE of embeddings of {first['sampled']} test images of {len(labels)} classes:"
        f" {', '.join(chart.title for chart in charts)}",
        panel=230,
        most=500,
        legend=styles if len(labels) <= 24 else {},
        lines=False,
        images=pictures.data_uris(first["thumbnails"]),
    )
