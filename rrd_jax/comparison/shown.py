"""A report, and its tables."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from rrd_jax.comparison.figures import Figures
from rrd_jax.comparison.latency import Latency
from rrd_jax.run_folder import provenance
from rrd_jax.terminal import tables


class Report(NamedTuple):
    """What was found.

    Attributes:
      run: the workdir.
      about: data set and machine, in words.
      networks: the student first.
      latencies: of their files.
      left_out: why something is missing, a line each.
    """

    run: str
    about: dict[str, str]
    networks: list[Figures]
    latencies: list[Latency]
    left_out: list[str]

    def to_json(self) -> dict[str, Any]:
        """As gains.json has it."""
        return {
            "run": self.run,
            **self.about,
            "networks": [dataclasses.asdict(network) for network in self.networks],
            "latencies": [entry._asdict() for entry in self.latencies],
            "left_out": self.left_out,
            "made": provenance.describe(),
        }


def costs(networks: Sequence[Figures]) -> tables.Table:
    """Header and rows: a row a network, and what share the student is of its teacher."""
    header = (
        *("network", "model", "top-1", "agreement with teacher", "parameters", "multiply-adds"),
        *("file, float32", "file, int8"),
    )
    rows = [
        (
            figure.role,
            figure.model,
            _percent(figure.top1, figure.images),
            _percent(figure.agreement),
            f"{figure.parameters:,}",
            f"{figure.macs:,}",
            *(
                tables.bytes_shown(figure.bytes[kind]) if kind in figure.bytes else "-"
                for kind in ("float32", "int8")
            ),
        )
        for figure in networks
    ]
    if len(networks) > 1:
        rows.append(_shares(networks[0], networks[-1]))
    return header, rows


def _percent(value: float | None, images: str = "test split") -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + (f" (of {images})" if images != "test split" else "")


def _shares(student: Figures, teacher: Figures) -> tuple[str, ...]:
    """What share the student is of its teacher, or of all of them."""
    change = "-"
    if None not in (student.top1, teacher.top1):
        change = f"{student.top1 - teacher.top1:+.2f}"
    return (
        "student / teacher",
        "",
        change,
        "",
        _share(student.parameters, teacher.parameters),
        _share(student.macs, teacher.macs),
        *(_share(student.bytes.get(k), teacher.bytes.get(k)) for k in ("float32", "int8")),
    )


def _share(part: float | None, whole: float | None) -> str:
    return f"{100 * part / whole:.3g} %" if part and whole else "-"


def latencies(found: Report) -> tables.Table:
    """Header and rows: a row for each runtime, number of cores and size of batches."""
    roles = [figure.role for figure in found.networks]
    places = dict.fromkeys((e.runtime, e.cores, e.batch) for e in found.latencies)
    entries = {(e.network, e.runtime, e.cores, e.batch): e for e in found.latencies}
    several = len(roles) > 1
    rows = []
    for runtime, cores, batch in sorted(places, key=lambda place: place[1:]):
        group = [entries.get((role, runtime, cores, batch)) for role in roles]
        cells = [f"{e.median:.3g} ({e.p90:.3g})" if e else "-" for e in group]
        both = several and group[0] and group[-1]
        faster = [f"{group[-1].median / group[0].median:.1f}x" if both else "-"] if several else []
        rows.append((runtime, str(cores), str(batch), *cells, *faster))
    return ("runtime", "cores", "batch", *roles, *(["student is faster"] * several)), rows
