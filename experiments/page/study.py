"""The page of a study: a section for each grid, then its calculations and what is missing."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.page import charts, courses, found, look, measured, results, tables
from experiments.page.parts import Chart, Figure, Folded, Page, Part, Section, distinct
from experiments.page.results import Block, Results
from experiments.study.records import Entry, Record

_MISSING = 8  # runs that are listed without being asked for
BLOCKS = 24  # that have a chart each at most


def page(record: Record) -> Page:
    """The page of a study, as far as it has come.

    Args:
      record: as it was read.
    """
    source = source_of(record.provenance)
    sections = [grid_section(results.of(grid), record, source) for grid in record.grids]
    sections += [_calculation(name, curves, source) for name, curves in record.calculations.items()]
    sections += _unfinished(record)
    entries = {entry.name: entry for grid in record.grids for entry in grid.entries}.values()
    facts = [found.states(entries)] if entries else []
    if seeds := sorted({entry.seed for entry in entries}):
        facts.append(f"{len(seeds)} seed{'s' * (len(seeds) > 1)}")
    facts += [str(record.provenance[k])[:10] for k in ("date",) if record.provenance.get(k)]
    return Page(
        kicker=f"Study {record.name}",
        title=record.title,
        about=record.about,
        facts=tuple(facts),
        sections=distinct(sections),
        source=source,
    )


def source_of(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Where figures come from, as text by name."""
    libraries = provenance.get("libraries") or {}
    versions = {"rrd_jax": provenance.get("version"), "Python": provenance.get("python")}
    listed = [f"{name} {version}" for name, version in (versions | libraries).items() if version]
    texts = {
        "command": provenance.get("command"),
        "commit": provenance.get("commit"),
        "date": provenance.get("date"),
        "devices": provenance.get("devices"),
        "versions": ", ".join(listed),
    }
    return {name: str(text) for name, text in texts.items() if text}


def slug(text: str) -> str:
    """A name that can be an anchor and a file's."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def capital(text: str) -> str:
    """The text with a capital, as titles have it."""
    return text[:1].upper() + text[1:]


def grid_section(found_results: Results, record: Record, source: Mapping[str, str]) -> Section:
    """All of a grid."""
    grid = found_results.grid
    details = dict(source) | {"config": grid.config}
    details |= (
        {"fields": ", ".join(f"{k}={v}" for k, v in grid.fields.items())} if grid.fields else {}
    )
    parts: list[Part] = []
    if found_results.has_figures:
        parts += _main(found_results)
        parts += measured.parts(settings_of(found_results))
    if any(entry.rows for entry in grid.entries):
        parts += _curves(found_results)
    return Section(
        name=slug(grid.name),
        title=grid.question or grid.name,
        answer=found.answer(found_results),
        parts=tuple(parts),
        source=details,
    )


def settings_of(of: Results) -> list[measured.Runs]:
    """The finished runs of each block that has figures."""
    several = len(of.blocks) > 1
    return [
        measured.Runs(
            slug(of.grid.name),
            {
                name: [entry for entry in entries if entry.finished]
                for name, entries in _levels(of, block).items()
            },
            [row.name for row in block.ordered()],
            of.grid.baseline,
            block.name if several else "",
        )
        for block in of.blocks
        if block.ordered()
    ]


def _levels(of: Results, block: Block) -> dict[str, list[Entry]]:
    """The runs of a block by level."""
    found: dict[str, list[Entry]] = {name: [] for name in block.rows}
    for entry in of.grid.entries:
        if all(entry.levels[factor] == level for factor, level in block.levels.items()):
            found[entry.levels.get(of.grid.compared, "")].append(entry)
    return found


def _main(of: Results) -> Iterator[Part]:
    name, shown = slug(of.grid.name), of.grid.shown
    styles = look.styles(of.levels, of.grid.baseline)
    if shown == "map" and len(results.valued(of.grid)) > 1:
        yield _map(of, name)
    elif shown == "curve" and results.valued(of.grid):
        yield _curve(of, name)
    else:
        yield _comparison(of, name, styles)
    if of.ranking and of.ranking.p is not None:
        yield _ranking(of, name, styles)
    yield from _tables(of, name)


def _tables(of: Results, name: str) -> Iterator[Part]:
    if of.levels == [""]:
        table = tables.cells(of, f"{name}-all")
        yield Folded("Table of all settings", (table,)) if of.grid.shown == "map" else table
        return
    blocks = [b for b in of.blocks if any(row.last.n for row in b.rows.values())]
    metric = capital(results.label(of.grid.metric))
    made = tuple(
        tables.levels(
            block,
            of,
            slug(f"{name} table {block.name}"),
            block.name or f"{metric} by {of.grid.compared}",
        )
        for block in blocks
    )
    if len(of.blocks) == 1:
        yield from made
    else:
        yield tables.grouped(of, f"{name}-all")
        yield Folded("Tables with differences and intervals", made)


def _comparison(of: Results, name: str, styles: Mapping[str, look.Style]) -> Figure:
    grid = of.grid
    blocks = [block for block in of.blocks if block.ordered()][:BLOCKS]
    caption = (
        f"Points are means of {results.label(grid.metric)} after the last epoch, lines their 95 %"
        " intervals, ticks the seeds."
    )
    if any(row.published is not None for block in blocks for row in block.rows.values()):
        caption += " Hollow diamonds are published figures."
    if any(charts.is_cut(block) for block in blocks):
        caption += " Intervals of few seeds that would not fit are cut at the edge."
    if any(charts.outliers(block) for block in blocks):
        caption += " Levels far below the others lie left of the axis; their mean is written."
    if any(row.last.n == 1 for block in blocks for row in block.rows.values()):
        caption += " One seed has no interval."
    if len(of.blocks) > len(blocks):
        caption += f" {len(blocks)} of {len(of.blocks)} settings are shown; the table has all."
    alts = [
        f"{block.name + ': ' if block.name else ''}"
        + ", ".join(f"{row.name} {found.figure(row, grid.metric)}" for row in block.ordered())
        for block in blocks[:6]
    ]
    return Figure(
        name=f"{name}-comparison",
        title="Means and intervals",
        charts=tuple(
            Chart(charts.comparison(block, grid.metric, styles), block.name) for block in blocks
        ),
        caption=caption,
        alt=f"{results.label(grid.metric)}. {'; '.join(alts)}",
        panel=380,
    )


def _ranking(of: Results, name: str, styles: Mapping[str, look.Style]) -> Figure:
    ranking = of.ranking
    blocks = len(ranking.blocks)
    caption = (
        f"Mean ranks over {blocks} settings; Friedman {found.probability(ranking.p)}. Mean ranks"
        f" less than {ranking.critical_difference:.2f} apart are not told apart (Nemenyi, 0.05);"
        " the bars at the right join such levels."
    )
    ranks = ", ".join(f"{level} {rank:.2f}" for level, rank in ranking.mean_ranks.items())
    groups = "; ".join(" and ".join(group) for group in ranking.groups if len(group) > 1)
    return Figure(
        name=f"{name}-ranks",
        title="Ranks and critical difference",
        charts=(Chart(charts.ranking(of, styles)),),
        caption=caption,
        alt=f"Mean ranks: {ranks}. Not told apart: {groups or 'none'}",
    )


def _map(of: Results, name: str) -> Figure:
    down, across = results.valued(of.grid)[:2]
    maps = charts.factor_map(of)
    metric = results.label(of.grid.metric)
    return Figure(
        name=f"{name}-map",
        title=capital(f"{metric} by {down['label']} and {across['label']}"),
        charts=tuple(Chart(spec, title) for title, spec in maps),
        caption=f"Means over {len(of.grid.seeds)} seeds, of the last epoch. Empty cells have none.",
        alt=f"Map of {metric}. {found.answer(of)}",
        panel=420,
        most=680,
    )


def _curve(of: Results, name: str) -> Figure:
    factor = results.valued(of.grid)[0]
    values = charts.curve_values(of)
    styles = look.styles(dict.fromkeys(entry["level"] for entry in values), of.grid.baseline)
    metric = results.label(of.grid.metric)
    return Figure(
        name=f"{name}-curve",
        title=capital(f"{metric} over the {factor['label']}"),
        charts=(Chart(charts.factor_curve(of, styles)),),
        caption="Means over the seeds, of the last epoch; bands are their 95 % intervals.",
        alt=f"{metric} over the {factor['label']}. {found.answer(of)}",
        legend=styles,
    )


def _curves(of: Results) -> Iterator[Figure]:
    """Of all runs by epoch: a chart a block; or of one block, a chart a column."""
    grid, name = of.grid, slug(of.grid.name)
    groups, styles = curve_groups(of)
    shown = dict(list(groups.items())[:BLOCKS])
    if len(shown) == 1:
        (pairs,) = shown.values()
        columns = [grid.metric, "test/agreement", "train/loss"]
        panels = [(results.label(c), c, pairs) for c in columns if _has(pairs, c)]
    else:
        panels = [(block_name, grid.metric, pairs) for block_name, pairs in shown.items()]
    made = [
        Chart(courses.learning_curves(pairs, column, styles), title)
        for title, column, pairs in panels
        if _has(pairs, column)
    ]
    if not made:
        return
    caption = (
        "A thin line is a run, a thick one the mean of its level; click the legend to single one"
        " out. The first epochs, and levels far from the others, can lie beyond the edge."
    )
    if len(groups) > len(shown):
        caption += f" {len(shown)} of {len(groups)} settings are shown."
    count = sum(len(pairs) for pairs in groups.values())
    yield Figure(
        name=f"{name}-epochs",
        title="All seeds by epoch",
        charts=tuple(made),
        caption=caption,
        alt=f"{results.label(grid.metric)} by epoch of {count} runs of {', '.join(styles)}. "
        + found.answer(of),
        legend=styles,
    )


def curve_groups(
    of: Results,
) -> tuple[dict[str, list[tuple[str, Entry]]], dict[str, look.Style]]:
    """Runs that have begun, with their levels, by block; and the styles of the levels.

    Where none are compared, they are one group, by the levels of the first factor.
    """
    grid = of.grid
    if of.levels == [""]:
        name, label = grid.factors[0]["name"], grid.factors[0]["label"]
        groups = {"": [(f"{label} {entry.levels[name]}", entry) for entry in grid.entries]}
    else:
        groups = {
            name: [(entry.levels[grid.compared], entry) for entry in entries]
            for name, entries in _entries(of).items()
        }
    groups = {name: [pair for pair in pairs if pair[1].rows] for name, pairs in groups.items()}
    groups = {name: pairs for name, pairs in groups.items() if pairs}
    levels = dict.fromkeys(level for pairs in groups.values() for level, _ in pairs)
    return groups, look.styles(levels, grid.baseline)


def _entries(of: Results) -> dict[str, list[Entry]]:
    names = {tuple(block.levels.values()): block.name for block in of.blocks}
    blocks: dict[str, list[Entry]] = {}
    for entry in of.grid.entries:
        others = tuple(v for k, v in entry.levels.items() if k != of.grid.compared)
        blocks.setdefault(names[others], []).append(entry)
    return blocks


def _has(pairs: list[tuple[str, Entry]], column: str) -> bool:
    return any(courses.is_number(row.get(column)) for _, entry in pairs for row in entry.rows[-1:])


def _calculation(name: str, curves: Mapping[str, Any], source: Mapping[str, str]) -> Section:
    ends = [
        f"{series['name']} ({series['kind']}) from {points[0][1]:.4g} to {points[-1][1]:.4g}"
        for series in curves["series"]
        if (points := courses.drawable(series, curves))
    ]
    axes = f"{curves['y_label']} against {curves['x_label']}"
    spec = courses.calculation(curves)
    kinds = [series["kind"] for series in curves["series"]]
    words = {"code": "lines are of the code", "formula": "points of its formula in float64"}
    words |= {"bound": "dashes of what the lines cannot cross, or come to"}
    told = ", ".join(text for kind, text in words.items() if kind in kinds)
    figure = Figure(
        name=slug(f"theory {name}"),
        title=capital(axes),
        charts=(Chart(spec),) if spec else (),
        caption=". ".join(filter(None, [curves["formula"], capital(told)])) + ".",
        alt=f"{axes}: {'; '.join(ends)}",
        legend=courses.calculation_styles(curves),
        most=760,
    )
    title, note = curves["title"] or name, curves["note"]
    return Section(slug(f"about {name}"), title, note, (figure,), source, listed=bool(note))


def _unfinished(record: Record) -> Iterator[Section]:
    entries = {e.name: e for grid in record.grids for e in grid.entries if not e.finished}
    failed = [entry for entry in entries.values() if entry.state == "failed"]
    others = [entry for entry in entries.values() if entry.state != "failed"]
    parts: list[Part] = []
    if failed:
        parts.append(tables.unfinished(failed, "failed-runs", "Failed"))
    if others:
        table = tables.unfinished(others, "missing-runs", "Begun, or not there yet")
        is_long = len(others) > _MISSING
        parts.append(Folded(f"{table.title}: {len(others)} runs", (table,)) if is_long else table)
    if parts:
        title = "Failed and missing runs"
        yield Section("runs-without-a-figure", title, "", tuple(parts), listed=False)
