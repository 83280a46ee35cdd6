"""What a grid's runs show, in a sentence or two, made from its statistics."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from experiments.page.results import Block, Results, Row, label, unit, valued
from experiments.study import statistics
from experiments.study.records import Entry

_NAMED = 6  # levels that a sentence names at most
_TOO_LARGE = 50  # points that no level is better by


def answer(results: Results) -> str:
    """The answer to a grid's question."""
    if not results.finished:
        return _of_none(results.grid.entries)
    if not results.has_figures:
        return f"The runs have no figure of {label(results.grid.metric)}."
    if results.grid.shown == "map" and len(valued(results.grid)) > 1:
        sentences = _of_cells(results)
    elif results.grid.shown == "curve" and valued(results.grid):
        sentences = _of_curve(results)
    elif len(results.blocks) > 1:
        sentences = _of_blocks(results)
    else:
        sentences = _of_block(results.blocks[0], results)
    missing = len(results.missing)
    if missing:
        total = len(results.grid.entries)
        sentences.append(f"{missing} of {_count(total, 'run')} {_verb(missing)} no figure.")
    return " ".join(sentences)


def _of_none(entries: Sequence[Entry]) -> str:
    failed = sum(entry.state == "failed" for entry in entries)
    left = len(entries) - failed
    if not failed:
        return f"Nothing is finished yet: {_count(left, 'run')} to come."
    if not left:
        return f"No run has finished: {_count(failed, 'run')} failed, for the reasons listed below."
    return f"Nothing is finished yet: {_count(failed, 'run')} failed, {left} to come."


def figure(row: Row, metric: str) -> str:
    """A level's mean with its deviation and n."""
    last, sign = row.last, " %" if unit(metric) else ""
    if last.std is None:
        return f"{last.mean:.2f}{sign} (n = {last.n})"
    return f"{last.mean:.2f} ± {last.std:.2f}{sign} (n = {last.n})"


def _of_block(block: Block, results: Results) -> list[str]:
    rows, baseline, metric = block.ordered(), results.grid.baseline, results.grid.metric
    if not rows:
        return ["No run has a figure."]
    best = rows[0]
    if len(rows) == 1:
        name = f" of {best.name}" if best.name else ""
        return [f"The mean{name} is {figure(best, metric)}."]
    sentences = [f"The highest mean is that of {best.name}, {figure(best, metric)}."]
    if not block.differences:
        low = rows[-1]
        return [*sentences, f"The lowest is that of {low.name}, {figure(low, metric)}."]
    return sentences + _against(block, baseline)


def _against(block: Block, baseline: str) -> list[str]:
    """How the levels of a block compare with the baseline."""
    kinds: dict[str, list[str]] = {}
    undecided: dict[str, statistics.Difference] = {}
    for row in block.ordered():
        if difference := block.differences.get(row.name):
            known = difference.verdict in ("better", "worse")
            words = f"{row.name} ({signed(difference.mean)})" if known else row.name
            if difference.mean is None or difference.verdict in ("one seed", "no common seed"):
                kinds.setdefault("unknown", []).append(row.name)
            else:
                kinds.setdefault(difference.verdict, []).append(words)
                if not known:
                    undecided[row.name] = difference
    clauses = []
    if better := kinds.get("better"):
        clauses.append(f"better than {baseline}: {_listed(better)} points")
    if same := kinds.get("not distinguishable"):
        names = _listed(same) if len(same) <= _NAMED else f"{len(same)} others"
        clauses.append(f"not distinguishable from {baseline}: {names}")
    if worse := kinds.get("worse"):
        clauses.append(f"worse: {_listed(worse)} points")
    if unknown := kinds.get("unknown"):
        clauses.append(f"no verdict, for want of seeds: {_listed(unknown)}")
    verdicts = [_capital("; ".join(clauses)) + "."] if clauses else []
    return verdicts + _of_undecided(undecided)


def _of_undecided(undecided: Mapping[str, statistics.Difference]) -> list[str]:
    """What can be said of levels that are not distinguishable after Holm's correction."""
    alone = {
        name: difference
        for name, difference in undecided.items()
        if difference.comparisons > 1 and difference.low * difference.high > 0 and difference.std
    }
    sentences = []
    if alone:
        order = sorted(alone, key=lambda name: alone[name].p)
        names = _listed([f"{name} ({signed(alone[name].mean)})" for name in order])
        sentences.append(
            f"By itself the 95 % interval of {names} leaves out 0, which chance alone brings about"
            " in one of twenty."
        )
    known = [d for d in undecided.values() if d.detectable]
    if known:
        sentences.append(_power([d.detectable for d in known], [d.n for d in known]))
    return sentences


def _power(detectable: Sequence[float], seeds: Sequence[int]) -> str:
    """How large differences would have had to be."""
    points = float(np.median(detectable))
    count = str(min(seeds)) if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    if points >= _TOO_LARGE:
        return f"{count} seeds are too few, with this spread, to show any difference that can be."
    number = f"{points:.0f}" if points >= 10 else f"{points:.2g}"
    return (
        f"With {count} seeds and this spread, a true difference shows in 4 of 5 studies only if it"
        f" is about {number} points."
    )


def _of_blocks(results: Results) -> list[str]:
    """Several blocks: how often each level is better, and the ranks."""
    grid, sentences = results.grid, []
    kind = _plural_of_blocks(results)
    if grid.baseline:
        sentences += _tallies(results, kind)
    else:
        means = [f"{_best_of(b, grid.metric)} for {b.name}" for b in results.blocks]
        sentences.append(f"The highest means are {'; '.join(means[:_NAMED])}.")
    if results.ranking and results.ranking.p is not None:
        sentences.append(_rank_words(results.ranking))
    return sentences


def _best_of(block: Block, metric: str) -> str:
    rows = block.ordered()
    return f"{rows[0].name} {figure(rows[0], metric)}".strip() if rows else "no figure"


def _tallies(results: Results, kind: str) -> list[str]:
    baseline, undecided = results.grid.baseline, []
    lines: list[tuple[int, str]] = []
    for level in results.levels:
        found = [b.differences[level] for b in results.blocks if level in b.differences]
        tested = [d for d in found if d.p is not None]
        if level == baseline or not found:
            continue
        better, worse = (sum(d.verdict == v for d in tested) for v in ("better", "worse"))
        if not better and not worse:
            undecided.append(level)
            continue
        words = [f"better in {better}"] if better else []
        words += [f"worse in {worse}"] if worse else []
        lines.append((worse - better, f"{level} is {' and '.join(words)} of {len(found)} {kind}"))
    if undecided:
        verb = "is" if len(undecided) == 1 else "are"
        where = "any of them" if lines else f"any of the {len(results.blocks)} {kind}"
        lines.append((0, f"{_listed(undecided)} {verb} not distinguishable in {where}"))
    words = [line for _, line in sorted(lines, key=lambda line: line[0])]
    return [f"Against {baseline}: {'; '.join(words)}."] if words else []


def _rank_words(ranking: "statistics.Ranking") -> str:
    ranks = list(ranking.mean_ranks.items())
    order = _listed([f"{name} {rank:.2f}" for name, rank in ranks])
    if ranking.p >= statistics.ALPHA:
        return f"Mean ranks ({order}) tell none apart (Friedman {probability(ranking.p)})."
    top = next((group for group in ranking.groups if ranks[0][0] in group), ())
    others = [name for name in top if name != ranks[0][0]]
    tied = f", not told apart from {_listed(others)}" if others else ", apart from all others"
    return f"By mean rank {ranks[0][0]} is first ({order}){tied}."


def _of_cells(results: Results) -> list[str]:
    """The highest and the lowest cell, and what is told apart from the highest."""
    metric = results.grid.metric
    rows = {
        _cell_name(results, block, row): row
        for block in results.blocks
        for row in block.rows.values()
    }
    rows = {name: row for name, row in rows.items() if row.last.n}
    if not rows:
        return ["No run has a figure."]
    order = sorted(rows, key=lambda name: rows[name].last.mean, reverse=True)
    best, worst = order[0], order[-1]
    sentences = [
        f"The highest mean is {figure(rows[best], metric)} at {best}; the lowest"
        f" {figure(rows[worst], metric)} at {worst}."
    ]
    if len(rows) < 2:
        return sentences[:1]
    found = statistics.differences(
        {name: row.values for name, row in rows.items()}, best, resamples=0
    )
    tested = [d for d in found.values() if d.p is not None]
    if not tested:
        return [*sentences, "With one seed a cell, nothing can be said of noise."]
    # The highest was picked from the same figures: it is as if all pairs had been compared.
    pairs = len(rows) * (len(rows) - 1) // 2
    apart = sum(d.mean < 0 and d.p * pairs < statistics.ALPHA for d in tested)
    total = len(tested)
    words = f"{apart} of the {total} others {'is' if apart == 1 else 'are'} worse than it"
    words = words if apart else f"None of the {total} others can be told apart from it"
    sentences.append(
        f"{words} (paired over seeds, at 0.05 after Bonferroni over all {pairs} pairs, since the"
        " highest was picked from the same figures)."
    )
    spread = [d for d in tested if d.std]
    if spread and apart < total:
        detectable = [statistics.detectable_difference(d.std, d.n, pairs) for d in spread]
        sentences.append(_power(detectable, [d.n for d in spread]))
    return sentences


def _cell_name(results: Results, block: Block, row: Row) -> str:
    levels = dict(block.levels) | ({results.grid.compared: row.name} if row.name else {})
    labels = {factor["name"]: factor["label"] for factor in results.grid.factors}
    return ", ".join(f"{labels.get(name, name)} {level}" for name, level in levels.items())


def _of_curve(results: Results) -> list[str]:
    baseline = results.grid.baseline
    if not baseline:
        return _of_cells(results)
    factor = valued(results.grid)[0]
    clauses = []
    for level in results.levels:
        found = [
            (block.levels.get(factor["name"], ""), block.differences[level])
            for block in results.blocks
            if level in block.differences and block.differences[level].mean is not None
        ]
        if not found:
            continue
        words = []
        for verdict in ("better", "worse"):
            if places := [place for place, d in found if d.verdict == verdict]:
                words.append(f"{verdict} at {_listed(places)}")
        words = words or ["not distinguishable anywhere"]
        place, most = max(found, key=lambda pair: abs(pair[1].mean))
        largest = f"largest difference {signed(most.mean)} points at {place}"
        if most.low is not None:
            largest += f", 95 % interval {signed(most.low)} to {signed(most.high)}"
        clauses.append(f"{level} is {' and '.join(words)} ({largest})")
    if not clauses:
        return [f"No two levels have figures of the same seeds over the {factor['label']}."]
    return [f"Over the {factor['label']}, against {baseline}: {'; '.join(clauses[:_NAMED])}."]


def signed(number: float, decimals: int = 2) -> str:
    """A number with its sign; the minus is as wide as the plus."""
    return f"{number:+.{decimals}f}".replace("-", "−")


def probability(p: float | None) -> str:
    """p as it is written."""
    if p is None:
        return "–"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _plural_of_blocks(results: Results) -> str:
    """Such as "pairs"."""
    names = [factor["name"] for factor in results.grid.factors]
    others = [name for name in names if name != results.grid.compared]
    return f"{others[0].replace('_', ' ')}s" if len(others) == 1 else "settings"


def _listed(parts: Sequence[str]) -> str:
    """Such as "a, b and c"; the first few of many."""
    if len(parts) > _NAMED:
        return f"{', '.join(parts[: _NAMED - 1])} and {len(parts) - _NAMED + 1} more"
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _capital(text: str) -> str:
    """The text with a capital: names of methods are left as they are."""
    return text[:1].upper() + text[1:]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _verb(number: int) -> str:
    return "has" if number == 1 else "have"


def states(entries: Iterable) -> str:
    """How many runs are finished, in words."""
    found = [entry.state for entry in entries]
    parts = [f"{found.count('finished')} of {_count(len(found), 'run')} finished"]
    parts += [f"{found.count(s)} {s}" for s in ("failed", "begun", "missing") if s in found]
    return ", ".join(parts)
