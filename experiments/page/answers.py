"""Text answers to the questions of grids, based on statistics."""

from collections.abc import Iterable, Sequence

import numpy as np

from experiments.page.results import Block, Results, Row, label
from experiments.study import statistics
from experiments.study.records import RunRecord

# Maximum number of levels that a sentence lists.
_LISTED = 6
_VERDICTS = ("better", "worse", "not distinguishable")


def answer(results: Results) -> str:
    """Returns the answer to a grid's question."""
    runs = results.grid.runs
    if not runs:
        return f"Waiting for the grid '{results.grid.selected['grid']}', which selects the runs."
    if not any(run.finished for run in runs):
        return f"No run has finished: {states(runs)}."
    if not results.measured:
        return f"The finished runs have no value for {label(results.grid.metric)}."
    if not results.grid.baseline:
        sentences = _best_cell(results)
    elif len(results.blocks) > 1:
        sentences = _tallies(results)
    else:
        sentences = _verdicts(results.blocks[0], results)
    if unfinished := sum(not run.finished for run in runs):
        sentences.append(f"{unfinished} of {len(runs)} runs have no value.")
    return " ".join(sentences)


def mean(row: Row, results: Results) -> str:
    """Returns the mean of a level, with standard deviation and number of seeds."""
    sign = " %" if label(results.grid.metric).endswith("(%)") else ""
    spread = "" if row.last.std is None else f" ± {row.last.std:.2f}"
    return f"{row.last.mean:.2f}{spread}{sign} (n = {row.last.n})"


def states(runs: Iterable[RunRecord]) -> str:
    """Returns the numbers of finished, failed, started and missing runs."""
    names = [run.state for run in runs]
    others = [f"{names.count(s)} {s}" for s in ("failed", "started", "missing") if s in names]
    return ", ".join([f"{names.count('finished')} of {len(names)} runs finished", *others])


def signed(number: float) -> str:
    """Returns a number with its sign; the minus sign has the width of a plus sign."""
    return f"{number:+.2f}".replace("-", "−")


def _verdicts(block: Block, results: Results) -> list[str]:
    """Returns sentences on the best level and on each level's verdict."""
    best, baseline = block.ordered()[0], results.grid.baseline
    sentences = [f"{best.name} has the highest mean: {mean(best, results)}."]
    groups: dict[str, list[str]] = {}
    for row in block.ordered():
        if difference := block.differences.get(row.name):
            verdict = difference.verdict if difference.p is not None else "no verdict (one seed)"
            change = f" ({signed(difference.mean)})" if difference.mean is not None else ""
            groups.setdefault(verdict, []).append(row.name + change)
    clauses = [f"{verdict}: {_listed(names)}" for verdict, names in groups.items()]
    if clauses:
        sentences.append(f"Compared with {baseline}, {'; '.join(clauses)}.")
    undecided = [d for d in block.differences.values() if d.verdict == "not distinguishable"]
    return sentences + _power(undecided)


def _power(undecided: Sequence[statistics.Difference]) -> list[str]:
    """Returns a sentence on the smallest detectable difference, if it is known."""
    values = [(d.detectable, d.n) for d in undecided if d.detectable]
    if not values:
        return []
    points, seeds = np.median(values, axis=0)
    return [
        f"With {seeds:.0f} seeds and this spread, a true difference of {points:.2g} points is"
        " detected in 4 of 5 studies."
    ]


def _tallies(results: Results) -> list[str]:
    """Returns a sentence with the number of blocks in which each level is better or worse."""
    baseline, clauses = results.grid.baseline, []
    for level in results.levels:
        verdicts = [b.differences[level].verdict for b in results.blocks if level in b.differences]
        counts = {verdict: verdicts.count(verdict) for verdict in _VERDICTS}
        words = [f"{verdict} in {count}" for verdict, count in counts.items() if count]
        if level != baseline and words:
            clauses.append(f"{level} is {', '.join(words)}")
    if not clauses:
        return ["No level has a seed in common with the baseline."]
    return [f"Compared with {baseline} in {len(results.blocks)} settings, {'; '.join(clauses)}."]


def _best_cell(results: Results) -> list[str]:
    """Returns sentences on the best and the worst cell."""
    labels = {factor["name"]: factor["label"] for factor in results.grid.factors}
    rows = {
        ", ".join(f"{labels[factor]} {level}" for factor, level in levels.items()): row
        for levels, row in results.cells()
        if row.last.n
    }
    order = sorted(rows, key=lambda name: rows[name].last.mean, reverse=True)
    best, worst = order[0], order[-1]
    sentences = [f"The highest mean is {mean(rows[best], results)} at {best}."]
    if len(rows) > 1:
        sentences.append(f"The lowest is {mean(rows[worst], results)} at {worst}.")
    return sentences


def _listed(parts: Sequence[str]) -> str:
    """Joins the first texts, and counts the rest."""
    more = len(parts) - _LISTED
    return ", ".join(parts[:_LISTED]) + (f" and {more} more" if more > 0 else "")
