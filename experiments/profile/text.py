"""The tables of a profile."""

from typing import Any

from rrd_jax.terminal import tables


def of(figures: dict[str, Any], rows: int) -> str:
    """Returns a profile as Markdown.

    Args:
      figures: from `measuring.profile`.
      rows: of convolutions and products to show, the slowest first; 0 for all.
    """
    return "\n\n".join([_about(figures), _parts(figures), _groups(figures, rows)])


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
    header = ["convolution or product", "part", "direction", "number", "ms", "GFLOP/s", "of peak"]
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


def _shown(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds >= 0.01 else "< 0.01" if milliseconds else "0"


def _rate(gigaflops: float) -> str:
    return f"{gigaflops:,.0f}" if gigaflops >= 10 else f"{gigaflops:.1f}"
