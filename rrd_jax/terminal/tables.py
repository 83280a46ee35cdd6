"""Tables as text: Markdown for files, and what fits a number of columns for screens."""

import io
from collections.abc import Sequence

Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # header, and rows of cells


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it also reads well as it is."""
    widths = _widths(header, rows)

    def line(texts: Sequence[str]) -> str:
        pairs = zip(map(str, texts), widths, strict=True)
        return "| " + " | ".join(text + " " * (width - cells(text)) for text, width in pairs) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def parsed(text: str) -> Table:
    """Header and rows of a text of `markdown`."""
    header, _, *rows = (
        [cell.strip() for cell in line[2:-2].split(" | ")] for line in text.split("\n")
    )
    return header, rows


def fitted(header: Sequence[str], rows: Sequence[Sequence[str]], columns: int) -> str:
    """The table in at most so many columns.

    Markdown if it fits; else with cells of several lines, between words; else row by row, a line
    for each cell.
    """
    natural, edges, places = _widths(header, rows), 3 * len(header) + 1, range(len(header))
    if sum(natural) + edges <= columns:
        return markdown(header, rows)
    words = [[word for row in (header, *rows) for word in str(row[i]).split()] for i in places]
    least = [max(map(cells, column), default=0) for column in words]
    if sum(least) + edges <= columns:
        return _wrapped(header, rows, _shared(least, natural, columns - edges))
    return _stacked(header, rows, columns)


def bytes_shown(number: int) -> str:
    """The size of a file, such as 1.23 MB."""
    return f"{number / 1e6:,.2f} MB" if number >= 1e5 else f"{number / 1e3:,.1f} kB"


def cells(text: str) -> int:
    """The columns that a text takes: those of some alphabets are two columns wide."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, columns: int) -> str:
    """The beginning of a text, if all of it is too wide."""
    if cells(text) <= columns:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, max(columns, 0))


def _widths(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(cells(str(row[i])) for row in (header, *rows)) for i in range(len(header))]


def _shared(least: list[int], natural: list[int], columns: int) -> list[int]:
    """Widths from `least` on, the room that is left going where most is missing."""
    widths = list(least)
    for _ in range(columns - sum(least)):
        missing = [n - w for n, w in zip(natural, widths, strict=True)]
        widths[missing.index(max(missing))] += 1
    return widths


def _wrapped(header: Sequence[str], rows: Sequence[Sequence[str]], widths: list[int]) -> str:
    from rich import box, console, table
    from rich.text import Text

    grid = table.Table(box=box.MARKDOWN)
    for name, width in zip(header, widths, strict=True):
        grid.add_column(Text(name), width=width)
    for row in rows:
        grid.add_row(*(Text(str(text)) for text in row))
    columns = sum(widths) + 3 * len(widths) + 1
    out = console.Console(file=io.StringIO(), width=columns, color_system=None)
    out.print(grid)
    return "\n".join(line.rstrip() for line in out.file.getvalue().strip().split("\n"))


def _stacked(header: Sequence[str], rows: Sequence[Sequence[str]], columns: int) -> str:
    from rich import console
    from rich.text import Text

    out = console.Console(file=io.StringIO(), width=columns, color_system=None)
    lines = []
    for row in rows:
        entries = [str(row[0])]
        entries += [f"  {name}: {text}" for name, text in zip(header[1:], row[1:], strict=True)]
        for entry in entries:
            folded = Text(entry).wrap(out, max(columns - 4, 1), overflow="fold")
            first, *others = (line.plain.rstrip() for line in folded)
            lines += [first, *(f"    {line}" for line in others)]
    return "\n".join(lines)
