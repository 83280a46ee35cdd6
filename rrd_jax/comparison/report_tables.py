"""The result of a comparison, and its tables."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from rrd_jax.comparison.latency import Latency
from rrd_jax.comparison.measurements import Measurements
from rrd_jax.run_folder import provenance
from rrd_jax.terminal import tables


class Report(NamedTuple):
    """The result of a comparison.

    Attributes:
      run: the workdir.
      about: names of the data set and of the machine.
      networks: measurements of the networks, the student's first.
      latencies: latencies of exported files.
      left_out: a line with the reason for each omitted file or network.
    """

    run: str
    about: dict[str, str]
    networks: list[Measurements]
    latencies: list[Latency]
    left_out: list[str]

    def to_json(self) -> dict[str, Any]:
        """Returns the content of gains.json."""
        return {
            "run": self.run,
            **self.about,
            "networks": [dataclasses.asdict(network) for network in self.networks],
            "latencies": [entry._asdict() for entry in self.latencies],
            "left_out": self.left_out,
            "made": provenance.describe(),
        }


def costs(networks: Sequence[Measurements]) -> tables.Table:
    """Returns a table with a row per network, and the student's shares of the teacher's costs."""
    header = (
        "network",
        "model",
        "top-1",
        "agreement with teacher",
        "parameters",
        "multiply-adds",
        "file, float32",
        "file, int8",
    )
    rows = [
        (
            network.role,
            network.model,
            _percent(network.top1, network.images),
            _percent(network.agreement),
            f"{network.parameters:,}",
            f"{network.macs:,}",
            *(
                tables.format_bytes(network.bytes[kind]) if kind in network.bytes else "-"
                for kind in ("float32", "int8")
            ),
        )
        for network in networks
    ]
    if len(networks) > 1:
        rows.append(_shares(networks[0], networks[-1]))
    return header, rows


def _percent(value: float | None, images: str = "test split") -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + (f" (of {images})" if images != "test split" else "")


def _shares(student: Measurements, teacher: Measurements) -> tuple[str, ...]:
    """Returns the row of the student's shares of the costs of its teacher or teachers."""
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


def _share(value: float | None, total: float | None) -> str:
    return f"{100 * value / total:.3g} %" if value and total else "-"


def latencies(report: Report) -> tables.Table:
    """Returns a table with a row per runtime, number of cores and batch size."""
    roles = [network.role for network in report.networks]
    settings = dict.fromkeys((e.runtime, e.cores, e.batch) for e in report.latencies)
    entries = {(e.network, e.runtime, e.cores, e.batch): e for e in report.latencies}
    has_teacher = len(roles) > 1
    rows = []
    for runtime, cores, batch in sorted(settings, key=lambda setting: setting[1:]):
        group = [entries.get((role, runtime, cores, batch)) for role in roles]
        cells = [f"{e.median:.3g} ({e.p90:.3g})" if e else "-" for e in group]
        if has_teacher:
            is_complete = group[0] and group[-1]
            cells.append(f"{group[-1].median / group[0].median:.1f}x" if is_complete else "-")
        rows.append((runtime, str(cores), str(batch), *cells))
    return ("runtime", "cores", "batch", *roles, *(["student speedup"] * has_teacher)), rows
