"""Tables of a grid's results, and their conversion to Markdown and LaTeX."""

from collections.abc import Sequence

from experiments.page.answers import signed
from experiments.page.elements import Cell, Table
from experiments.page.results import Block, Results, Row, label
from experiments.study import statistics
from experiments.study.records import RunRecord, is_number
from rrd_jax.terminal import tables as markdown_tables

_TONES = {"better": "good", "worse": "bad"}
_EMPTY = Cell("–")
_CAPTION = (
    "Mean ± standard deviation over the finished seeds, at the last epoch unless stated otherwise. "
)
_DIFFERENCES = (
    " Differences are paired by seed, with uncorrected 95 % t intervals. p is corrected with Holm's"
    " method over the table; the verdict is at 0.05. Detectable is the true difference that this"
    " number of seeds with this spread detects in 4 of 5 studies."
)
_PUBLISHED = " Published values may be from the best epoch."


def levels(block: Block, results: Results, name: str) -> Table:
    """Returns a table with a row per level: last and best epoch, difference, published value."""
    grid = results.grid
    has_published = any(row.published is not None for row in block.rows.values())
    header = [grid.compared.replace("_", " ") or "run", "seeds"]
    header += [f"{label(grid.metric)}, last epoch", *_best_titles(results)]
    if block.differences:
        header += [f"difference to {grid.baseline} (95 % interval)", "p (Holm)", "verdict"]
        header += ["detectable"]
    if has_published:
        header += ["published", "difference to published"]
    rows = []
    for row in sorted(block.rows.values(), key=lambda row: -(row.last.mean or -1e9)):
        cells = [Cell(row.name or "all"), _seeds(row), _mean(row.last), *_best(row)]
        if block.differences:
            cells += _difference(row, block, grid.baseline)
        if has_published:
            cells += _published(row)
        rows.append(tuple(cells))
    validated = all(is_validated(run) for row in block.rows.values() for run in row.runs)
    caption = _CAPTION + best_epoch_caption(validated=validated)
    caption += _DIFFERENCES * bool(block.differences) + _PUBLISHED * has_published
    title = block.name or f"{label(grid.metric).capitalize()} by {header[0]}"
    return Table(name, title, tuple(header), tuple(rows), caption)


def grouped(results: Results, name: str) -> Table:
    """Returns a table with a row per block and a column per level."""
    baseline, rows = results.grid.baseline, []
    for block in results.blocks:
        cells = [Cell(level) for level in block.levels.values()]
        for level in results.levels:
            verdict = block.differences[level].verdict if level in block.differences else ""
            mean = _mean(block.rows[level].last) if level in block.rows else _EMPTY
            text = mean.text + {"better": " ▲", "worse": " ▼"}.get(verdict, "")
            cells.append(Cell(text, mean.value, tone=_TONES.get(verdict, "")))
        rows.append(tuple(cells))
    caption = (
        f"{label(results.grid.metric).capitalize()} of the last epoch: mean ± standard deviation"
        " over the seeds."
    )
    if baseline:
        caption += (
            f" ▲ is better and ▼ is worse than {baseline} in the same row, at 0.05 after Holm's"
            " correction over the row; all other differences are not distinguishable."
        )
    factors = [factor.replace("_", " ") for factor in results.blocks[0].levels]
    return Table(name, "All settings", (*factors, *results.levels), tuple(rows), caption)


def cells(results: Results, name: str) -> Table:
    """Returns a table with a row per cell, for a grid without a compared factor."""
    places = {
        (factor["name"], level["name"]): level["value"]
        for factor in results.grid.factors
        for level in factor["levels"]
    }
    rows = tuple(
        (
            *(Cell(level, places[factor, level]) for factor, level in levels.items()),
            *(_seeds(row), _mean(row.last), *_best(row)),
        )
        for levels, row in results.cells()
    )
    factors = [factor["label"] for factor in results.grid.factors]
    columns = ["seeds", f"{label(results.grid.metric)}, last epoch", *_best_titles(results)]
    validated = all(is_validated(run) for run in results.grid.runs)
    caption = _CAPTION + best_epoch_caption(validated=validated)
    return Table(name, "All settings", (*factors, *columns), rows, caption)


def unfinished(runs: Sequence[RunRecord], name: str, title: str) -> Table:
    """Returns a table of runs without a value, with their states and errors."""
    rows = tuple(
        (
            *(Cell(run.label), Cell(run.state)),
            *(Cell(f"{run.epoch} of {run.epochs}", run.epoch), Cell(run.error[:300] or "–")),
        )
        for run in runs
    )
    return Table(name, title, ("run", "state", "epochs", "error"), rows)


def _best_titles(results: Results) -> tuple[str, str]:
    name = results.grid.best.rpartition("/")[2]
    return f"{label(f'test/{name}')}, at the best epoch", "best epoch"


def is_validated(run: RunRecord) -> bool:
    """Returns True if validation images choose the best epoch of a run."""
    return bool(run.rows) and any(name.startswith("val/") for name in run.rows[-1])


def best_epoch_caption(*, validated: bool) -> str:
    """Returns a sentence on the images that choose the best epoch."""
    if validated:
        return "Validation images chose the best epoch."
    return "The test images chose the best epoch, so its accuracy is biased upwards."


def _best(row: Row) -> tuple[Cell, Cell]:
    """Returns the metric of the best epochs, and the epochs of the finished runs."""
    epochs = [
        int(run.rows[-1]["best/epoch"])
        for run in row.runs
        if run.finished and is_number(run.rows[-1].get("best/epoch"))
    ]
    if not epochs:
        return _mean(row.best), _EMPTY
    first, last = min(epochs), max(epochs)
    text = str(first) if first == last else f"{first} to {last}"
    return _mean(row.best), Cell(text, sum(epochs) / len(epochs))


def _seeds(row: Row) -> Cell:
    total = len(row.runs)
    return Cell(str(total) if row.last.n == total else f"{row.last.n} of {total}", row.last.n)


def _mean(summary: statistics.Summary) -> Cell:
    if summary.mean is None:
        return _EMPTY
    spread = " (n = 1)" if summary.std is None else f" ± {summary.std:.2f}"
    return Cell(f"{summary.mean:.2f}{spread}", summary.mean)


def _difference(row: Row, block: Block, baseline: str) -> list[Cell]:
    difference = block.differences.get(row.name)
    if row.name == baseline:
        return [Cell("baseline"), *[_EMPTY] * 3]
    if difference is None or difference.p is None:
        verdict = "no value" if difference is None else difference.verdict
        has_mean = difference and difference.mean is not None
        change = Cell(signed(difference.mean), difference.mean) if has_mean else _EMPTY
        return [change, _EMPTY, Cell(verdict), _EMPTY]
    mean, low, high = map(signed, (difference.mean, difference.low, difference.high))
    p, detectable = difference.p_adjusted, difference.detectable
    interval = difference.low, difference.mean, difference.high
    return [
        Cell(f"{mean} ({low} to {high})", difference.mean, interval),
        Cell("< 0.001" if p < 0.001 else f"{p:.2g}", p),
        Cell(difference.verdict, tone=_TONES.get(difference.verdict, "")),
        Cell(f"{detectable:.2f}", detectable) if detectable else _EMPTY,
    ]


def _published(row: Row) -> list[Cell]:
    if row.published is None or row.last.mean is None:
        return [_EMPTY] * 2
    difference = row.last.mean - row.published
    return [Cell(f"{row.published:.2f}", row.published), Cell(signed(difference), difference)]


def markdown(table: Table) -> str:
    """Returns a table as Markdown, with its title and caption."""
    rows = [[cell.text.replace("|", "\\|") for cell in row] for row in table.rows]
    text = markdown_tables.markdown(list(table.header), rows)
    parts = [f"**{table.title}**" if table.title else "", text, table.caption]
    return "\n\n".join(filter(None, parts)) + "\n"


def latex(table: Table) -> str:
    """Returns a table as LaTeX for the booktabs package."""
    columns = "".join("r" if i in table.numeric else "l" for i in range(len(table.header)))
    lines = [
        "% requires \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(map(escape_latex, table.header)) + r" \\",
        "\\midrule",
        *(" & ".join(escape_latex(cell.text) for cell in row) + r" \\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


_LATEX = str.maketrans(
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
    }
)


def escape_latex(text: str) -> str:
    """Escapes text for LaTeX."""
    return text.translate(_LATEX)
