"""The table of RRD's loss beside PyTorch's, from its figures; and which forms a size is given."""

import math
import statistics

from rrd_jax import errors

_PLAIN = ("eager", "compiled", "compiled_lse")  # what one writes down, differentiated
_WALKS = ("chunks", "attention")  # our two attentions, in PyTorch's operations
_MOST = 2**25  # similarities that the plain forms, which keep several arrays of them, are given
_PEAK_FLOPS = 2 * 1024**3


def size(text: str) -> tuple[int, int]:
    """B and K of BxK; an InputError where it is none."""
    batch, _, rows = text.partition("x")
    if not (batch.isdecimal() and rows.isdecimal() and int(batch) and int(rows)):
        raise errors.InputError(f"--sizes has '{text}', but must be BxK, such as 256x16384")
    return int(batch), int(rows)


def cases(size: tuple[int, int], reader: str) -> list[str]:
    """What a reader, "ours" or "torch", is asked to time of a size."""
    forms = ("gradient", "value")
    if reader == "torch":
        forms = (_PLAIN if math.prod(size) <= _MOST else ()) + _WALKS
    return [f"{form} {size[0]} {size[1]}" for form in forms]


def _ratio(seconds, form: str, size: tuple[int, int]) -> tuple[float, str] | None:
    """How many times as fast ours is: median of the rounds, and their spread."""
    behind = f"{size[0]} {size[1]}"
    if f"{form} {behind}" not in seconds:
        return None
    rounds = zip(seconds[f"{form} {behind}"], seconds[f"gradient {behind}"], strict=True)
    ratios = [theirs / ours for theirs, ours in rounds]
    middle = statistics.median(ratios)
    return middle, f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def table(seconds: dict[str, list[float]], sizes: list[tuple[int, int]], dim: int) -> str:
    """A row for each size: ours, and how many times as fast as PyTorch's forms it is."""
    forms = (*_PLAIN, *_WALKS)
    lines = [
        "| B, K | ours, ms | value alone | GFLOP/s | of the peak | slope over K |"
        f" {' | '.join(form.replace('_', ', ') for form in forms)} | fastest plain |",
        "|---" * (7 + len(forms)) + "|",
    ]
    peak, before = _PEAK_FLOPS / statistics.median(seconds["peak 0 0"]), {}
    for size in sizes:
        batch, rows = size
        ours = statistics.median(seconds[f"gradient {batch} {rows}"])
        value = statistics.median(seconds[f"value {batch} {rows}"])
        flops = 8 * batch * rows * dim / ours
        slope = ""
        if batch in before:
            rows_before, ours_before = before[batch]
            slope = f"{math.log(ours / ours_before) / math.log(rows / rows_before):.2f}"
        before[batch] = rows, ours
        ratios = [_ratio(seconds, form, size) for form in forms]
        plain = min((ratio for ratio in ratios[: len(_PLAIN)] if ratio), default=None)
        lines.append(
            f"| {batch}, {rows:,} | {1e3 * ours:.3g} | {1e3 * value:.3g} | {flops / 1e9:.0f} |"
            f" {flops / peak:.0%} | {slope} |"
            f" {' | '.join(ratio[1] if ratio else '' for ratio in ratios)} |"
            f" {f'**{plain[0]:.2f}**' if plain else ''} |"
        )
    return "\n".join(lines)
