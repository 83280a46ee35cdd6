"""Tables of a grid's figures, and any table as Markdown and LaTeX."""

from collections.abc import Mapping
from typing import Any

from experiments.page.found import signed
from experiments.page.parts import Cell, Table
from experiments.page.results import Block, Results, Row, label, unit
from experiments.study import statistics
from experiments.study.records import Entry
from rrd_jax.terminal import tables as markdown_tables

_TONES = {"better": "good", "worse": "bad"}
_NOTHING = Cell("–")


def levels(block: Block, results: Results, name: str, title: str = "") -> Table:
    """A block's levels: last epoch, best epoch, difference to the baseline, published figure."""
    grid = results.grid
    compares = bool(block.differences)
    has_published = any(row.published is not None for row in block.rows.values())
    header = [grid.compared.replace("_", " ") or "run", "seeds"]
    header += [f"{label(grid.metric)}, last epoch", _best_title(results)]
    if compares:
        header += [f"difference to {grid.baseline} (95 % interval)", "p (Holm)", "verdict"]
        header += ["detectable", "bootstrap interval"]
    if has_published:
        header += ["published", "ours less published (standard errors)"]
    rows = []
    for row in sorted(block.rows.values(), key=lambda row: -(row.last.mean or -1e9)):
        cells = [Cell(row.name or "all"), _seeds(row), _mean(row.last), _mean(row.best)]
        if compares:
            cells += _difference(row, block, grid.baseline)
        if has_published:
            cells += _published(row)
        rows.append(tuple(cells))
    text = {i for i, column in enumerate(header) if column == "verdict"} | {0}
    return Table(
        name=name,
        title=title,
        header=tuple(header),
        rows=tuple(rows),
        caption=_caption(results, compares=compares, has_published=has_published),
        numeric=frozenset(range(len(header))) - text,
    )


def grouped(results: Results, name: str) -> Table:
    """All blocks in one table: a row a block, a column a level."""
    grid = results.grid
    names = results.levels
    others = [factor["name"] for factor in grid.factors if factor["name"] != grid.compared]
    header = [*(other.replace("_", " ") for other in others), *names]
    rows = []
    for block in results.blocks:
        cells = [Cell(level) for level in block.levels.values()]
        for level in names:
            row = block.rows.get(level)
            difference = block.differences.get(level)
            mark = {"better": " ▲", "worse": " ▼"}.get(difference.verdict, "") if difference else ""
            found = _mean(row.last) if row else _NOTHING
            tone = _TONES.get(difference.verdict, "") if difference else ""
            cells.append(Cell(found.text + mark, found.value, tone=tone))
        rows.append(tuple(cells))
    metric = label(grid.metric)
    caption = f"{metric[:1].upper()}{metric[1:]} of the last epoch:"
    caption += " mean ± standard deviation over the seeds."
    if grid.baseline:
        caption += (
            f" ▲ better and ▼ worse than {grid.baseline} within the row, at 0.05 after Holm over"
            " the row; others are not distinguishable from it."
        )
    return Table(
        name,
        "All settings",
        tuple(header),
        tuple(rows),
        caption,
        frozenset(range(len(others), len(header))),
    )


def cells(results: Results, name: str) -> Table:
    """All combinations of levels, a row each, of a grid that compares none with another."""
    factors = [factor["label"] for factor in results.grid.factors]
    rows = [(block, row) for block in results.blocks for row in block.rows.values()]
    return Table(
        name,
        "All settings",
        (*factors, "seeds", f"{label(results.grid.metric)}, last epoch", _best_title(results)),
        tuple(
            (
                *(_level(results, *pair) for pair in block.levels.items()),
                _seeds(row),
                _mean(row.last),
                _mean(row.best),
            )
            for block, row in rows
        ),
        _caption(results, compares=False, has_published=False),
        frozenset(range(len(factors) + 3)),
    )


def _best_title(results: Results) -> str:
    """Of the column of the best epoch, whose figure need not be the one that is compared."""
    name = results.grid.best.rpartition("/")[2]
    is_same = name == results.grid.metric.rpartition("/")[2]
    return "best epoch" if is_same else f"{label(f'test/{name}')}, best epoch"


def _level(results: Results, factor: str, level: str) -> Cell:
    found = next(f for f in results.grid.factors if f["name"] == factor)
    return Cell(level, next(x["value"] for x in found["levels"] if x["name"] == level))


def _seeds(row: Row) -> Cell:
    text = str(row.last.n) if row.last.n == row.asked else f"{row.last.n} of {row.asked}"
    return Cell(text, row.last.n)


def _mean(summary: statistics.Summary) -> Cell:
    if summary.mean is None:
        return _NOTHING
    if summary.std is None:
        return Cell(f"{summary.mean:.2f} (n = 1)", summary.mean)
    return Cell(f"{summary.mean:.2f} ± {summary.std:.2f}", summary.mean)


def _difference(row: Row, block: Block, baseline: str) -> list[Cell]:
    difference = block.differences.get(row.name)
    if row.name == baseline:
        return [Cell("baseline"), *[_NOTHING] * 4]
    if difference is None or difference.mean is None:
        words = "no common seed" if row.last.n else "no figure"
        return [_NOTHING, _NOTHING, Cell(words), _NOTHING, _NOTHING]
    if difference.low is None:
        text = signed(difference.mean)
        return [
            Cell(text, difference.mean),
            _NOTHING,
            Cell(difference.verdict),
            _NOTHING,
            _NOTHING,
        ]
    text = "{} ({} to {})".format(*map(signed, (difference.mean, difference.low, difference.high)))
    p = difference.p_adjusted
    bootstrap = (difference.boot_low, difference.boot_high)
    seen = difference.detectable
    return [
        Cell(text, difference.mean, (difference.low, difference.mean, difference.high)),
        Cell("< 0.001" if p < 0.001 else f"{p:.2g}", p),
        Cell(difference.verdict, tone=_TONES.get(difference.verdict, "")),
        Cell(f"{seen:.2f}", seen) if seen else _NOTHING,
        Cell("{} to {}".format(*map(signed, bootstrap)), difference.boot_low),
    ]


def _published(row: Row) -> list[Cell]:
    if row.published is None:
        return [_NOTHING] * 2
    found = statistics.against_published(row.last, row.published)
    if found.difference is None:
        return [Cell(f"{row.published:.2f}", row.published), _NOTHING]
    text = signed(found.difference)
    if found.standard_errors is not None:
        text += f" ({signed(found.standard_errors, 1)})"
    return [Cell(f"{row.published:.2f}", row.published), Cell(text, found.difference)]


def _caption(results: Results, *, compares: bool, has_published: bool) -> str:
    sentences = [
        "Mean ± standard deviation over the seeds that finished. The last epoch is what counts; the"
        " best epoch was picked by the test images, and is too high as an estimate."
    ]
    if compares:
        sentences.append(
            f"Differences are paired by seed; the intervals are t intervals"
            f"{' in points' if unit(results.grid.metric) else ''}, each for itself; p is corrected"
            " by Holm over the table, and the verdict is at 0.05. Detectable is the"
            " true difference that so many seeds with this spread show in 4 of 5 studies. Bootstrap"
            " intervals (BCa) are too narrow with few seeds."
        )
    if has_published:
        sentences.append(
            "Standard errors are ours; the published figure's own error is not known, and it may be"
            " of the best epoch."
        )
    return " ".join(sentences)


def unfinished(entries: list[Entry], name: str, title: str) -> Table:
    """Runs without a figure, and why."""
    rows = tuple(
        (
            Cell(entry.label),
            Cell(entry.state),
            Cell(f"{_epoch(entry)} of {entry.epochs}", _epoch(entry)),
            Cell(_cut(entry.error) or "–"),
        )
        for entry in entries
    )
    header = ("run", "state", "epochs", "why")
    return Table(name, title, header, rows, numeric=frozenset({2}))


def _epoch(entry: Entry) -> int:
    return entry.rows[-1]["epoch"] if entry.rows else 0


def _cut(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:297]}..."


def markdown(table: Table) -> str:
    """The table as Markdown, with its caption below."""
    rows = [[cell.text.replace("|", "\\|") for cell in row] for row in table.rows]
    text = markdown_tables.markdown(list(table.header), rows)
    parts = [f"**{table.title}**\n"] if table.title else []
    return "\n".join(
        [*parts, text.rstrip("\n"), *([f"\n{table.caption}"] if table.caption else []), ""]
    )


def latex(table: Table) -> str:
    """The table as LaTeX that a paper can input; it needs the package booktabs."""
    columns = "".join("r" if i in table.numeric else "l" for i in range(len(table.header)))
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(map(tex, table.header)) + r" \\",
        "\\midrule",
        *(" & ".join(tex(cell.text) for cell in row) + r" \\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


_TEX: Mapping[str, Any] = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "–": "--",
        "−": "$-$",
        "▲": r"$\uparrow$",
        "▼": r"$\downarrow$",
        "<": "$<$",
        ">": "$>$",
        "τ": r"$\tau$",
    }
)


def tex(text: str) -> str:
    """Text as LaTeX takes it."""
    return text.translate(_TEX)
