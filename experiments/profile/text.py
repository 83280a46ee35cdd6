"""The tables of a profile."""

from typing import Any

from experiments.profile import kinds, names
from rrd_jax.terminal import tables

_INSTRUCTIONS = 10


def of(figures: dict[str, Any], rows: int) -> str:
    """A profile as markdown.

    Args:
      figures: of `figures.collect`, with what `__main__` adds.
      rows: of convolutions and products to show, the dearest first; 0 for all.
    """
    return "\n\n".join(
        [_about(figures), _parts(figures), _groups(figures, rows), _dearest(figures),
         *_worst(figures)]
    )  # fmt: skip


def _about(figures: dict[str, Any]) -> str:
    about, height = figures["about"], "x".join(map(str, figures["about"]["image"]))
    teacher = f", teacher {about['teacher']}" if about["teacher"] else ""
    peaks = ", ".join(f"{rate:,.0f} GFLOP/s ({name})" for name, rate in figures["peaks"].items())
    return (
        f"{about['student']}, {about['objectives']}{teacher}; {about['batch']} images of {height}"
        f" a step, on {about['device']}: {figures['milliseconds']:.2f} ms a step,"
        f" {figures['window']:.2f} while traced ({figures['steps']} steps). Peak, of one large"
        f" matrix product: {peaks}."
    )


def _parts(figures: dict[str, Any]) -> str:
    whole = figures["window"]
    header = ["ms a step", "teacher", "student", "student, backwards", "together", "share"]
    rows = []
    for part in figures["parts"]:
        whose = [_shown(part[name]) if part.get(name) else "" for name in header[1:4]]
        rows.append([part["what"], *whose, _shown(part["all"]), f"{part['all'] / whole:.1%}"])
    idle = figures["idle"]
    rows.append(["idle", "", "", "", _shown(idle), f"{idle / whole:.1%}"])
    total = idle + sum(part["all"] for part in figures["parts"])
    rows.append(["all", "", "", "", _shown(total), f"{total / whole:.1%}"])
    return tables.markdown(header, rows)


def _groups(figures: dict[str, Any], most: int) -> str:
    header = ["convolution or product", "whose", "what", "number", "ms", "GFLOP/s", "of peak"]
    groups = figures["groups"]
    rows = [
        [
            group["shape"],
            group["part"] or "-",
            group["direction"] or "product",
            f"{group['count']:g}",
            _shown(group["milliseconds"]),
            _rate(group["rate"]),
            f"{group['of_peak']:.0%}",
        ]
        for group in groups[: most or None]
    ]
    left = groups[len(rows) :]
    if left:
        spent = sum(group["milliseconds"] for group in left)
        rate = sum(group["gigaflop"] for group in left) / max(spent, 1e-9) * 1000
        count = sum(group["count"] for group in left)
        rows.append(["all others", "", "", f"{count:g}", _shown(spent), _rate(rate), ""])
    return tables.markdown(header, rows)


def _dearest(figures: dict[str, Any]) -> str:
    header = ["dearest instructions", "kind", "ms", "for"]
    rows = [
        [row["name"], row["kind"], _shown(row["milliseconds"]), _last(row["op_name"]) or "-"]
        for row in figures["instructions"][:_INSTRUCTIONS]
    ]
    return tables.markdown(header, rows)


def _last(op_name: str) -> str:
    """The end of a path, from the part of the step on, with whether it is of a gradient."""
    path = names.path(op_name)
    parts = [i for i in range(len(path)) if names.part("/".join(path[: i + 1]))]
    whole = "/".join(path[parts[0] if parts else 0 :])
    shown = whole if len(whole) <= 60 else f"...{whole[-57:]}"
    return f"{shown}, backwards" if names.is_backward(op_name) else shown


def _worst(figures: dict[str, Any]) -> list[str]:
    """The convolution or product that loses most, and the other kind of work that takes most."""
    lines, worst = [], figures["worst"]
    if worst:
        lines.append(
            f"worst: {_sentence(worst)}, {worst['count']:g} a step, takes"
            f" {worst['milliseconds']:.2f} ms at {_rate(worst['rate'])} GFLOP/s"
            f" ({worst['of_peak']:.0%} of the peak): {worst['lost']:.2f} ms,"
            f" {worst['lost'] / figures['window']:.1%} of a step, are lost"
        )
    others = [p for p in figures["parts"] if p["what"] not in (kinds.CONVOLUTIONS, kinds.PRODUCTS)]
    if others:
        most = max(others, key=lambda part: part["all"])
        lines.append(
            f"of all else, most: {most['what']}, {most['all']:.2f} ms,"
            f" {most['all'] / figures['window']:.1%} of a step"
        )
    return lines


def _sentence(group: dict[str, Any]) -> str:
    what = group["direction"] or "product"
    whose = f" of the {group['part']}" if group["part"] else ""
    return f"{what}{whose}, {group['shape']}"


def _shown(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds >= 0.01 else "< 0.01" if milliseconds else "0"


def _rate(gigaflops: float) -> str:
    return f"{gigaflops:,.0f}" if gigaflops >= 10 else f"{gigaflops:.1f}"
