"""The answer to a grid's question, in a few sentences made from its statistics."""

from collections.abc import Iterable, Sequence

import numpy as np

from experiments.page.results import Block, Results, Row, label
from experiments.study import statistics
from experiments.study.records import RunRecord

_NAMED = 6  # Levels that a sentence names at most.
_VERDICTS = ("better", "worse", "not distinguishable")


def answer(results: Results) -> str:
    """Returns the answer to a grid's question."""
    runs = results.grid.runs
    if not any(run.finished for run in runs):
        return f"No run has finished: {states(runs)}."
    if not results.measured:
        return f"The finished runs have no value of {label(results.grid.metric)}."
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
    """Returns a level's mean with its standard deviation and number of seeds."""
    sign = " %" if label(results.grid.metric).endswith("(%)") else ""
    spread = "" if row.last.std is None else f" ± {row.last.std:.2f}"
    return f"{row.last.mean:.2f}{spread}{sign} (n = {row.last.n})"


def states(runs: Iterable[RunRecord]) -> str:
    """Returns the numbers of runs that finished, failed, have begun and are missing."""
    found = [run.state for run in runs]
    others = [f"{found.count(s)} {s}" for s in ("failed", "begun", "missing") if s in found]
    return ", ".join([f"{found.count('finished')} of {len(found)} runs finished", *others])


def signed(number: float) -> str:
    """Returns a number with its sign; the minus sign is as wide as the plus sign."""
    return f"{number:+.2f}".replace("-", "−")


def _verdicts(block: Block, results: Results) -> list[str]:
    """Returns the best level, and how the others compare with the baseline."""
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
    """Returns how large a difference would have to be to be detected."""
    known = [(d.detectable, d.n) for d in undecided if d.detectable]
    if not known:
        return []
    points, seeds = np.median(known, axis=0)
    return [
        f"With {seeds:.0f} seeds and this spread, a true difference of about {points:.2g} points is"
        " detected in 4 of 5 studies."
    ]


def _tallies(results: Results) -> list[str]:
    """Returns in how many blocks each level is better or worse."""
    baseline, clauses = results.grid.baseline, []
    for level in results.levels:
        verdicts = [b.differences[level].verdict for b in results.blocks if level in b.differences]
        counts = {verdict: verdicts.count(verdict) for verdict in _VERDICTS}
        words = [f"{verdict} in {count}" for verdict, count in counts.items() if count]
        if level != baseline and words:
            clauses.append(f"{level} is {', '.join(words)}")
    if not clauses:
        return ["No level has values on the same seeds as the baseline."]
    return [f"Compared with {baseline} in {len(results.blocks)} settings, {'; '.join(clauses)}."]


def _best_cell(results: Results) -> list[str]:
    """Returns the best and the worst cell."""
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
    """Joins the first few of several texts."""
    more = len(parts) - _NAMED
    return ", ".join(parts[:_NAMED]) + (f" and {more} more" if more > 0 else "")
