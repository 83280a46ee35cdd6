"""A table of what held-out images show of students, between floor and ceiling."""

from rrd_jax.terminal import tables

_COLUMNS = {
    "neighbours_1": ("nearest in common", 1),
    "neighbours_10": ("10 nearest", 1),
    "neighbours_20": ("20 nearest", 1),
    "cka": ("CKA", 3),
    "rank_correlation": ("rank correlation", 3),
    "effective_rank": ("effective rank", 1),
    "deviation": ("deviation", 3),
    "loss/rrd": ("RRD's loss", 3),
    "floor/rrd": ("its floor", 3),
    "knn_10": ("10-NN top-1", 2),
    "knn_20": ("20-NN top-1", 2),
    "probe": ("probe top-1", 2),
}


def table(runs: dict[str, dict[str, float]]) -> tables.Table:
    """Header and rows: each run's figures, between a random student's and the teacher's.

    Args:
      runs: what a run's proof found last, by the label of the run: figures of `figures.of` and of
        votes and a probe, with those of others as random_cka, teacher_probe and so on.
    """
    found: dict[str, dict[str, float]] = {}
    for label, figures_of_run in runs.items():
        found[label] = figures_of_run
        for whose in ("random", "teacher"):
            beside = {name: figures_of_run.get(f"{whose}_{name}") for name in _COLUMNS}
            found[whose] = {name: value for name, value in beside.items() if value is not None}
    names = [name for name in _COLUMNS if any(name in row for row in found.values())]
    if "knn_20" in names:  # the usual one; of fewer images all vote
        names.remove("knn_10")
    words = {"random": "random weights"}
    order = ("random", *runs, "teacher")
    cells = [
        (
            words.get(label, label),
            *(
                f"{found[label][name]:.{_COLUMNS[name][1]}f}" if name in found[label] else "-"
                for name in names
            ),
        )
        for label in order
        if found[label]
    ]
    return ("embeddings of", *(_COLUMNS[name][0] for name in names)), cells
