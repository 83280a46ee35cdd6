"""The page of a study: a section for each grid, then failed and missing runs."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.page import answers, charts, measure_sections, memories, networks, styles, tables
from experiments.page.elements import Chart, Element, Figure, Folded, Page, Section
from experiments.page.results import Results, compute, label
from experiments.study.records import RunRecord, StudyRecord, is_number
from rrd_jax import user_paths
from rrd_jax.run_folder.config_fields import flatten

# Maximum number of blocks with a chart.
_BLOCKS = 24
# Longer lists of missing runs are collapsed.
_LISTED = 8


def page(record: StudyRecord) -> Page:
    """Returns the page of a study, finished or not."""
    source = source_of(record.provenance)
    sections = [_grid(compute(grid), source) for grid in record.grids]
    runs = {run.name: run for grid in record.grids for run in grid.runs}.values()
    seeds = {run.seed for run in runs}
    started = [run for run in runs if run.rows]
    is_random = any(networks.is_random(fields_of(run)) for run in started)
    about = networks.RANDOM_IMAGES if is_random else record.about
    facts = [answers.states(runs), f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"]
    return Page(
        kicker=f"Study {record.name}",
        title=f"{record.title} (random images)" if is_random else record.title,
        about=f"{about} {_sizes(started)}".strip(),
        facts=(*facts, source.get("date", "")[:10]),
        sections=(*sections, *_unfinished([run for run in runs if not run.finished])),
        source=source,
    )


def fields_of(run: RunRecord) -> dict[str, Any]:
    """Returns the config fields of a run by path; {} for a run without a config."""
    return flatten(user_paths.read_object(run.folder / "config.json") or {})


def _sizes(runs: list[RunRecord]) -> str:
    """Returns a sentence with the sizes of student and teacher, if all runs have the same."""
    students = {networks.student_of(run.folder) for run in runs}
    teachers = {x for run in runs for x in networks.teachers_of(run.folder)}
    pairs = {(x.model, x.parameters) for x in teachers}
    if len(students) != 1 or len(pairs) != 1:
        return ""
    (student,), teacher = students, min(teachers, key=lambda x: x.source)
    size = networks.compare_sizes(student, teacher)
    if not size:
        return ""
    sentence = f"The student {student.model} has {size}; the teacher is {teacher.model}"
    accuracies = {x.top1 for x in teachers}
    if len(accuracies) == 1 and teacher.top1 is not None:
        sentence += f" with a test top-1 of {teacher.top1:.2f} %"
    return f"{sentence}."


def source_of(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Returns command, commit, date, devices and versions as text."""
    versions = {"rrd_jax": provenance.get("version"), "Python": provenance.get("python")}
    versions |= provenance.get("libraries") or {}
    texts = {name: provenance.get(name) for name in ("command", "commit", "date", "devices")}
    texts["versions"] = ", ".join(f"{name} {text}" for name, text in versions.items() if text)
    return {name: str(text) for name, text in texts.items() if text}


def _grid(results: Results, source: Mapping[str, str]) -> Section:
    grid = results.grid
    fields = ", ".join(f"{name}={value}" for name, value in grid.fields.items())
    details = {**source, "config": grid.config, "fields": fields}
    contents: list[Element] = []
    if results.measured:
        contents += [_main_figure(results), *_tables(results)]
        contents += measure_sections.elements(measure_sections.settings(results))
    contents += _learning_curves(results)
    return Section(
        name=grid.name,
        title=grid.question or grid.name,
        answer=answers.answer(results),
        elements=tuple(contents),
        source={name: text for name, text in details.items() if text},
    )


def _main_figure(results: Results) -> Figure:
    return {"map": _map, "curve": _curve, "table": _comparison}[results.display](results)


def _comparison(results: Results) -> Figure:
    metric, blocks = results.grid.metric, results.measured[:_BLOCKS]
    legend = styles.of_levels(results.levels, results.grid.baseline)
    caption = (
        f"Mean {label(metric)} of the last epoch with 95 % intervals. Ticks are seeds; hollow"
        " diamonds are published values. Wide intervals are cut off at the edge."
    )
    if len(results.measured) > len(blocks):
        caption += f" {len(blocks)} of {len(results.measured)} settings are shown."
    means = [
        f"{block.name} "
        + ", ".join(f"{r.name} {answers.mean(r, results)}" for r in block.ordered())
        for block in blocks[:6]
    ]
    return Figure(
        name=f"{results.grid.name}-comparison",
        title="Means and intervals",
        charts=tuple(Chart(charts.comparison(b, metric, legend), b.name) for b in blocks),
        caption=caption,
        alt=f"{label(metric)}: {'; '.join(means)}",
        panel=380,
    )


def _map(results: Results) -> Figure:
    down, across = (factor["label"] for factor in results.valued[:2])
    metric, maps = label(results.grid.metric), charts.factor_maps(results)
    return Figure(
        name=f"{results.grid.name}-map",
        title=f"{metric.capitalize()} by {down} and {across}",
        charts=tuple(Chart(spec, title) for title, spec in maps.items()),
        caption=f"Means of the last epoch over {len(results.grid.seeds)} seeds.",
        alt=f"Map of {metric}. {answers.answer(results)}",
        panel=420,
        max_width=680,
    )


def _curve(results: Results) -> Figure:
    values, metric = charts.curve_values(results), label(results.grid.metric)
    levels = dict.fromkeys(value["level"] for value in values)
    legend = styles.of_levels(levels, results.grid.baseline)
    factor = results.valued[0]["label"]
    return Figure(
        name=f"{results.grid.name}-curve",
        title=f"{metric.capitalize()} by {factor}",
        charts=(Chart(charts.factor_curve(results, values, legend)),),
        caption="Means of the last epoch over the seeds; bands are 95 % intervals.",
        alt=f"{metric} by {factor}. {answers.answer(results)}",
        legend=legend,
    )


def _tables(results: Results) -> Iterator[Element]:
    name = f"{results.grid.name}-table"
    if results.levels == [""]:
        table = tables.cells(results, name)
        yield Folded("Table of all settings", (table,)) if results.display == "map" else table
        return
    blocks = list(enumerate(results.measured))
    if len(results.blocks) == 1:
        yield tables.levels(results.blocks[0], results, name)
    else:
        yield tables.grouped(results, f"{results.grid.name}-all")
        block_tables = tuple(tables.levels(block, results, f"{name}-{i}") for i, block in blocks)
        yield Folded("Tables with differences and intervals", block_tables)


def _learning_curves(results: Results) -> Iterator[Figure]:
    """Yields a figure of all runs by epoch, with a chart per block, or per column of one block."""
    grid = results.grid
    blocks: dict[str, list[tuple[str, RunRecord]]] = {}
    for block in results.blocks:
        for row in block.rows.values():
            # Without compared levels, the first factor determines the colors.
            level = row.name or next(iter(block.levels.values()), grid.name)
            group = blocks.setdefault(block.name if row.name else "", [])
            group += [(level, run) for run in row.runs if run.rows]
    panels = [(name, grid.metric, runs) for name, runs in list(blocks.items())[:_BLOCKS]]
    if len(panels) == 1:
        columns = (grid.metric, "test/agreement", "train/loss")
        panels = [(label(column), column, panels[0][2]) for column in columns]
    panels = [panel for panel in panels if _has_values(panel[2], panel[1])]
    if not panels:
        return
    levels = dict.fromkeys(level for _, _, runs in panels for level, _ in runs)
    legend = styles.of_levels(levels, grid.baseline)
    count = len({run.name for _, _, runs in panels for _, run in runs})
    yield Figure(
        name=f"{grid.name}-epochs",
        title="All seeds by epoch",
        charts=tuple(
            Chart(
                charts.learning_curves(charts.run_values(runs, column), label(column), legend), name
            )
            for name, column, runs in panels
        ),
        caption="Thin lines are runs; thick lines are the means of levels. Click a level in the"
        f" legend to highlight it. {_memories(panels)}".rstrip(),
        alt=f"{label(grid.metric)} by epoch, for {count} runs of {', '.join(levels)}",
        legend=legend,
    )


def _memories(panels: list[tuple[str, str, list[tuple[str, RunRecord]]]]) -> str:
    """Returns sentences on the memories of the first run of each level; "" if no loss is drawn."""
    if not any(column == "train/loss" for _, column, _ in panels):
        return ""
    sentences: dict[str, None] = {}
    for run in {level: run for _, _, runs in panels for level, run in reversed(runs)}.values():
        text = memories.describe(memories.of_run(fields_of(run), run.rows), run.epoch)
        sentences |= dict.fromkeys([text] if text else [])
    return " ".join(list(sentences)[:2])


def _has_values(runs: list[tuple[str, RunRecord]], column: str) -> bool:
    return any(is_number(row.get(column)) for _, run in runs for row in run.rows)


def _unfinished(runs: list[RunRecord]) -> Iterator[Section]:
    failed = [run for run in runs if run.state == "failed"]
    others = [run for run in runs if run.state != "failed"]
    contents: list[Element] = []
    if failed:
        contents.append(tables.unfinished(failed, "failed-runs", "Failed"))
    if others:
        table = tables.unfinished(others, "missing-runs", "Started or missing")
        is_long = len(others) > _LISTED
        contents.append(
            Folded(f"{table.title}: {len(others)} runs", (table,)) if is_long else table
        )
    if contents:
        title = "Failed and missing runs"
        yield Section("runs-without-a-value", title, "", tuple(contents), listed=False)
