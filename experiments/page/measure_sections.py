"""Figures and tables of the measures of runs."""

import base64
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import measures
from experiments.page import measure_charts, styles
from experiments.page.elements import Cell, Chart, Element, Figure, Folded, Table
from experiments.page.results import Results
from experiments.study import statistics
from experiments.study.records import RunRecord
from rrd_jax import errors
from rrd_jax.terminal import console

# Title, factor and decimals by measure and value.
_COLUMNS = {
    "predictions": {
        "agreement": ("agreement with the teacher (%)", 1, 2),
        "student_balanced_accuracy": ("balanced accuracy (%)", 1, 2),
        "student_macro_f1": ("macro F1 (%)", 1, 2),
    },
    "calibration": {
        "student_ece": ("expected calibration error (%)", 100, 2),
        "student_nll": ("negative log-likelihood (nats)", 1, 3),
        "student_brier": ("Brier score", 1, 4),
    },
    "alignment": {
        "cka_linear": ("CKA, linear", 1, 3),
        "similarity_spearman": ("rank correlation of similarities", 1, 3),
        "neighbour_agreement_mean": ("common nearest neighbors (%)", 100, 1),
        "correlation_gap": ("mean gap of class correlations", 1, 3),
    },
}
_TITLES = {
    "predictions": "Predictions",
    "calibration": "Calibration",
    "alignment": "Alignment with the teacher",
}
# Minimum number of images per confidence bin; with fewer images, the accuracy is mostly noise.
_MIN_IMAGES = 5
# Tables with more rows are collapsed.
_ROWS = 12
# Number of best and of worst classes in a chart.
_BEST_AND_WORST = 10

Values = Mapping[str, Any]
# The values of all runs of a level, by level.
ByLevel = Mapping[str, Sequence[Values]]


@dataclasses.dataclass(frozen=True)
class Compared:
    """Finished runs to compare, by level.

    Attributes:
      name: the name of the section, and the prefix of its elements' names.
      levels: the runs of each level in the order of seeds, with the best level first.
      styles: the styles of the levels.
      setting: the name of the setting, if there are several; otherwise "".
    """

    name: str
    levels: Mapping[str, Sequence[RunRecord]]
    styles: Mapping[str, styles.Style]
    setting: str = ""

    @property
    def suffix(self) -> str:
        """The setting in brackets, for titles."""
        return f" ({self.setting})" if self.setting else ""

    def read(self, measure: str) -> dict[str, list[Values]]:
        """Returns the values of a measure by level, without levels that have no values."""
        values_by_level = {level: _read(runs, measure) for level, runs in self.levels.items()}
        return {level: values for level, values in values_by_level.items() if values}


def settings(results: Results) -> list[Compared]:
    """Returns the finished runs, for each block with values."""
    return [
        Compared(
            name=results.grid.name,
            levels={row.name: [r for r in row.runs if r.finished] for row in block.ordered()},
            styles=styles.of_levels(results.levels, results.grid.baseline),
            setting=block.name if len(results.blocks) > 1 else "",
        )
        for block in results.measured
    ]


def elements(settings: Sequence[Compared]) -> Iterator[Element]:
    """Yields figures of the first setting, and tables of all settings."""
    compared = settings[0]
    if values := compared.read("predictions"):
        yield _accuracies(compared, values)
        yield _confusion(compared, values)
        yield from table(settings, "predictions")
    if values := compared.read("calibration"):
        yield _reliability(compared, values)
        yield from table(settings, "calibration")
    if values := compared.read("alignment"):
        yield from _correlations(compared, values)
        yield from table(settings, "alignment")
    if values := compared.read("tsne"):
        yield _tsne(compared, values)


def table(settings: Sequence[Compared], measure: str) -> Iterator[Table | Folded]:
    """Yields a table of a measure's mean values, with a row per setting and level."""
    measured = [(compared, compared.read(measure)) for compared in settings]
    first = next((v for _, levels in measured for values in levels.values() for v in values), {})
    columns = {name: column for name, column in _COLUMNS[measure].items() if name in first}
    if not columns:
        return
    rows = []
    for compared, levels in measured:
        for level, values in levels.items():
            cells = [Cell(compared.setting)] if len(settings) > 1 else []
            cells += [Cell(level or "all"), Cell(str(len(values)), len(values))]
            cells += [_mean(values, name, *columns[name][1:]) for name in columns]
            rows.append(tuple(cells))
    header = ["setting"] * (len(settings) > 1) + ["level", "seeds"]
    name = f"{settings[0].name}-{measure}"
    header += [column[0] for column in columns.values()]
    element = Table(name, _TITLES[measure], tuple(header), tuple(rows), _caption(measure, first))
    yield Folded(f"Table: {element.title}", (element,)) if len(rows) > _ROWS else element


def _caption(measure: str, first: Values) -> str:
    caption = "Mean ± standard deviation over the seeds."
    if measure == "alignment" and "sampled" in first:
        chance = 100 * first["neighbour_agreement_chance"]
        caption += (
            f" Embeddings of {first['sampled']} of {first['total']} test images. By chance,"
            f" {chance:.1f} % of the {first['neighbours']} nearest neighbors would be common. CKA"
            " (arXiv 1905.00414) is 1 for embeddings that differ only by rotation and scale."
        )
    if measure == "calibration" and "teacher_ece" in first:
        caption += (
            f" The teacher's calibration error is {100 * first['teacher_ece']:.2f} %, its negative"
            f" log-likelihood {first['teacher_nll']:.3f} nats and its Brier score"
            f" {first['teacher_brier']:.4f}."
        )
    return caption


def _accuracies(compared: Compared, values: ByLevel) -> Figure:
    chosen = list(values)[:3]
    first = values[chosen[0]][0]
    names = _class_names(first)
    accuracies = {
        level or "student": np.mean([v["student_accuracy"] for v in values[level]], axis=0)
        for level in chosen
    }
    legend = {level or "student": compared.styles[level] for level in chosen}
    if "teacher_accuracy" in first:
        accuracies["teacher"], legend["teacher"] = first["teacher_accuracy"], styles.TEACHER
    best = next(iter(accuracies.values()))
    order = [int(i) for i in np.argsort(-best, kind="stable") if np.isfinite(best[i])]
    top, low = order[0], order[-1]
    caption = (
        f"Means over the seeds. For {next(iter(accuracies))}, the best class is {names[top]}"
        f" ({best[top]:.1f} %), the worst {names[low]} ({best[low]:.1f} %)."
    )
    if len(order) > 2 * _BEST_AND_WORST:
        caption += (
            f" The chart contains the {_BEST_AND_WORST} best and {_BEST_AND_WORST} worst of"
            f" {len(order)} classes."
        )
        order = order[:_BEST_AND_WORST] + order[-_BEST_AND_WORST:]
    rows = [
        {"class": names[i], "level": level, "accuracy": round(float(accuracy[i]), 4)}
        for level, accuracy in accuracies.items()
        for i in order
        if np.isfinite(accuracy[i])
    ]
    return Figure(
        name=f"{compared.name}-classes",
        title=f"Accuracy by class{compared.suffix}",
        charts=(Chart(measure_charts.accuracies(rows, [names[i] for i in order], legend)),),
        caption=caption,
        alt=f"Accuracy by class. {caption}",
        max_width=760,
        legend=legend,
        lines=False,
    )


def _confusion(compared: Compared, values: ByLevel) -> Figure | Table:
    level, runs = next(iter(values.items()))
    counts = np.sum([v["student_confusion"] for v in runs], axis=0)
    names, name = _class_names(runs[0]), f"{compared.name}-confusion"
    title = f"Predictions by class{compared.suffix}"
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    places = np.argsort(-shares, axis=None, kind="stable")[:20]
    pairs = [tuple(map(int, np.unravel_index(place, shares.shape))) for place in places]
    pairs = [(i, j) for i, j in pairs if shares[i, j] > 0]
    if len(names) > measure_charts.CLASSES:
        rows = tuple(
            (
                *(Cell(names[i]), Cell(names[j])),
                *(Cell(f"{shares[i, j]:.1f}", shares[i, j]), Cell(str(counts[i, j]), counts[i, j])),
            )
            for i, j in pairs
        )
        header = ("class", "predicted", "of the class (%)", "images")
        return Table(name, title, header, rows, "The most frequent confusions over all seeds.")
    charts = [Chart(measure_charts.confusion(counts, names), level or "Student")]
    if "teacher_confusion" in runs[0]:
        chart = measure_charts.confusion(runs[0]["teacher_confusion"], names)
        charts.append(Chart(chart, "Teacher"))
    worst = [f"{names[i]} as {names[j]} ({shares[i, j]:.1f} %)" for i, j in pairs[:3]]
    caption = (
        "Rows are classes; cells are in percent of the test images of a class, over all seeds. Most"
        f" frequent confusions: {'; '.join(worst) or 'no images'}."
    )
    alt = f"Confusion matrix of {len(names)} classes. {caption}"
    return Figure(name, title, tuple(charts), caption, alt, panel=380, max_width=560)


def _reliability(compared: Compared, values: ByLevel) -> Figure:
    legend = {level: compared.styles[level] for level in list(values)[:4]}
    curves = {level: _bins(values[level], "student") for level in legend}
    first = next(iter(values.values()))[0]
    if "teacher_count" in first:
        legend = {"teacher": styles.TEACHER} | legend
        curves = {"teacher": _bins([first], "teacher")} | curves
    calibration_errors = ", ".join(
        f"{level or 'the student'} {_mean(values[level], 'student_ece', 100, 2).text} %"
        for level in values
        if level in legend
    )
    return Figure(
        name=f"{compared.name}-reliability",
        title=f"Reliability{compared.suffix}",
        charts=(Chart(measure_charts.reliability(curves, legend)),),
        caption="Accuracy of test images by the probability of the predicted class, over all seeds."
        " Calibrated networks are on the gray line. Larger points have more images; bins with fewer"
        f" than {_MIN_IMAGES} images are omitted.",
        alt=f"Reliability diagram. Expected calibration errors: {calibration_errors}",
        max_width=560,
        legend=legend,
    )


def _bins(runs: Sequence[Values], role: str) -> list[dict[str, Any]]:
    """Returns confidence and accuracy of bins with enough images, over all runs."""
    counts = np.stack([values[f"{role}_count"] for values in runs]).astype(float)
    total = counts.sum(0)
    confidence, accuracy = (
        (np.nan_to_num([values[f"{role}_{name}"] for values in runs]) * counts).sum(0)
        / np.maximum(total, 1)
        for name in ("confidence", "accuracy")
    )
    return [
        {"confidence": 100 * x, "accuracy": 100 * y, "images": int(count)}
        for x, y, count in zip(confidence, accuracy, total, strict=True)
        if count >= _MIN_IMAGES
    ]


def _correlations(compared: Compared, values: ByLevel) -> Iterator[Figure]:
    first_runs = {level: runs[0] for level, runs in values.items() if "classes" in runs[0]}
    if not first_runs:
        return
    chosen = list(first_runs)[:3]
    first = first_runs[chosen[0]]
    count = len(first["classes"])
    places = np.linspace(0, count - 1, min(count, measure_charts.CLASSES)).round().astype(int)
    labels = [str(label) for label in first["classes"][places]]
    cut = np.ix_(places, places)

    def chart(values: Values, key: str, title: str) -> Chart:
        is_difference = key == "correlation_difference"
        correlation = measure_charts.correlation(values[key][cut], labels, difference=is_difference)
        return Chart(correlation, title)

    charts = [
        chart(first, "teacher_correlation", "Teacher"),
        chart(first, "student_correlation", chosen[0] or "Student"),
    ]
    charts += [
        chart(first_runs[level], "correlation_difference", f"{level or 'Student'} minus teacher")
        for level in chosen
    ]
    gaps = ", ".join(f"{x or 'student'} {first_runs[x]['correlation_gap']:.3f}" for x in chosen)
    caption = (
        "Pearson correlations between the logits of classes over all test images, for the first"
        f" seed (as in arXiv 1910.10699 and 2407.12073). Mean absolute difference: {gaps}."
    )
    yield Figure(
        name=f"{compared.name}-correlations",
        title=f"Correlations between the logits of classes{compared.suffix}",
        charts=tuple(charts),
        caption=caption,
        alt=f"Correlation maps of {len(labels)} classes. {caption}",
        panel=290,
        max_width=420,
    )


def _tsne(compared: Compared, values: ByLevel) -> Figure:
    chosen = list(values)[:3]
    first = values[chosen[0]][0]
    names = [str(name) for name in first["class_names"]]
    legend = styles.of_levels(names)
    charts = [
        Chart(measure_charts.plane(values[level][0], "student", legend), level or "Student")
        for level in chosen
    ]
    if "teacher" in first:
        charts.insert(0, Chart(measure_charts.plane(first, "teacher", legend), "Teacher"))
    caption = (
        f"t-SNE of {first['sampled']} of {first['total']} test images, for the first seed. Axes and"
        " distances between clusters have no meaning."
    )
    return Figure(
        name=f"{compared.name}-tsne",
        title=f"Embeddings in two dimensions{compared.suffix}",
        charts=tuple(charts),
        caption=f"{caption} Hover over a point to see its image.",
        alt=f"Embeddings of {', '.join(chart.title for chart in charts)}. {caption}",
        panel=230,
        max_width=500,
        legend=legend if len(names) <= 24 else {},
        lines=False,
        images=tuple(_data_uris(first["thumbnails"])),
    )


def _read(runs: Sequence[RunRecord], measure: str) -> list[Values]:
    stored = []
    for run in runs:
        try:
            stored.append(measures.read(run.folder, measure))
        except errors.InputError as error:
            console.warn(str(error))
    return [values for values in stored if values]


def _mean(runs: Sequence[Values], name: str, factor: float, decimals: int) -> Cell:
    numbers = [factor * float(values[name]) for values in runs if name in values]
    summary = statistics.summarize(dict(enumerate(x for x in numbers if np.isfinite(x))))
    if summary.mean is None:
        return Cell("–")
    spread = "" if summary.std is None else f" ± {summary.std:.{decimals}f}"
    return Cell(f"{summary.mean:.{decimals}f}{spread}", summary.mean)


def _class_names(values: Values) -> list[str]:
    """Returns the names of the classes; adds the class number to duplicates."""
    names = [str(name) for name in values["class_names"]]
    return [n if names.count(n) == 1 else f"{n} ({i})" for i, n in enumerate(names)]


def _data_uris(images: np.ndarray) -> Iterator[str]:
    """Yields each image [h, w, channels] uint8 as a data URI in WebP format."""
    import PIL.Image

    for image in images:
        picture = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image[..., :3])
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=70)
        yield f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
