"""The tables of a profile, as Markdown."""

from typing import Any

from rrd_jax.terminal import tables


def format_profile(figures: dict[str, Any], rows: int) -> str:
    """Returns a profile as Markdown.

    Args:
      figures: result of `measuring.profile`.
      rows: number of convolutions and products, the slowest first; 0 for all.
    """
    return "\n\n".join([_summary(figures), _parts(figures), _groups(figures, rows)])


def _summary(figures: dict[str, Any]) -> str:
    about, image = figures["about"], "x".join(map(str, figures["about"]["image"]))
    teacher = f", teacher {about['teacher']}" if about["teacher"] else ""
    peaks = ", ".join(f"{rate:,.0f} GFLOP/s ({name})" for name, rate in figures["peaks"].items())
    return (
        f"{about['student']}, {about['objectives']}{teacher}; {about['batch']} images of {image}"
        f" per step on {about['device']}: {figures['milliseconds']:.2f} ms per step,"
        f" {figures['window']:.2f} ms while traced ({figures['steps']} steps). Peak rate of one"
        f" large matrix product: {peaks}."
    )


def _parts(figures: dict[str, Any]) -> str:
    window = figures["window"]
    header = ["ms per step", "teacher", "student", "student, backward", "total", "share"]
    rows = []
    for part in figures["parts"]:
        networks = [_milliseconds(part[name]) if part.get(name) else "" for name in header[1:4]]
        rows.append(
            [part["what"], *networks, _milliseconds(part["all"]), f"{part['all'] / window:.1%}"]
        )
    idle = figures["idle"]
    rows.append(["idle", "", "", "", _milliseconds(idle), f"{idle / window:.1%}"])
    total = idle + sum(part["all"] for part in figures["parts"])
    rows.append(["total", "", "", "", _milliseconds(total), f"{total / window:.1%}"])
    return tables.markdown(header, rows)


def _groups(figures: dict[str, Any], limit: int) -> str:
    header = [
        "convolution or product",
        "part",
        "direction",
        "number",
        "ms",
        "GFLOP/s",
        "share of peak",
    ]
    groups = figures["groups"]
    rows = [
        [
            group["shape"],
            group["part"] or "-",
            group["direction"] or "product",
            f"{group['count']:g}",
            _milliseconds(group["milliseconds"]),
            _rate(group["rate"]),
            f"{group['of_peak']:.0%}",
        ]
        for group in groups[: limit or None]
    ]
    others = groups[len(rows) :]
    if others:
        spent = sum(group["milliseconds"] for group in others)
        rate = sum(group["gigaflop"] for group in others) / max(spent, 1e-9) * 1000
        count = sum(group["count"] for group in others)
        rows.append(["others", "", "", f"{count:g}", _milliseconds(spent), _rate(rate), ""])
    return tables.markdown(header, rows)


def _milliseconds(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds >= 0.01 else "< 0.01" if milliseconds else "0"


def _rate(gigaflops: float) -> str:
    return f"{gigaflops:,.0f}" if gigaflops >= 10 else f"{gigaflops:.1f}"
