"""The table of what objectives cost, from its figures."""

import statistics
from typing import NamedTuple

from rrd_jax.terminal import tables

COMPANY = "kd"  # beside each objective
BASE = f"ce+{COMPANY}"


class Cost(NamedTuple):
    """What a method's step takes.

    Attributes:
      shares: of each turn, its time over that of ce+kd.
      ready: seconds of compilation and the first two steps.
      failed: why there are no figures; "" where there are.
    """

    shares: list[float]
    ready: float
    failed: str = ""


def table(costs: dict[str, Cost], before: dict[str, Cost] | None = None) -> str:
    """A row for each objective, the dearest first, and a line for each that has no figures.

    Args:
      costs: by objective.
      before: those of an earlier run, for a column.
    """
    header = [f"X in X+{COMPANY}", "share", "least and most", "ready after"]
    header += ["share before"] if before is not None else []
    rows = []
    measured = {name: cost for name, cost in costs.items() if not cost.failed}
    for name, cost in sorted(measured.items(), key=lambda pair: -share(pair[1])):
        spread = f"{min(cost.shares):.2f} {max(cost.shares):.2f}"
        row = [name, f"{share(cost):.2f}", spread, f"{cost.ready:.0f} s"]
        if before is not None:
            earlier = before.get(name)
            row.append("-" if not earlier or earlier.failed else f"{share(earlier):.2f}")
        rows.append(row)
    lines = [f"{name}: no figures, {cost.failed}" for name, cost in costs.items() if cost.failed]
    return "\n\n".join([tables.markdown(header, rows), *lines])


def share(cost: Cost) -> float:
    """The median of the turns."""
    return statistics.median(cost.shares)
