"""Text tables: Markdown for files, and tables of limited width for terminals."""

import io
from collections.abc import Sequence

# A header, and rows of cells.
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
# Texts of cells without a value.
_EMPTY = ("", "-", "\N{EN DASH}")


def without_empty_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table without the columns in which each cell is empty or a dash.

    The first column names the rows and remains. A table without rows keeps its header.
    """
    indices = filled_columns(len(header), rows)
    return [header[i] for i in indices], [[row[i] for i in indices] for row in rows]


def filled_columns(count: int, rows: Sequence[Sequence[str]]) -> list[int]:
    """Returns the indices of the columns that `without_empty_columns` keeps, of `count` columns."""
    return [
        i
        for i in range(count)
        if not i or not rows or any(str(row[i]).strip() not in _EMPTY for row in rows)
    ]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with aligned columns."""
    widths = _widths(header, rows)

    def line(texts: Sequence[str]) -> str:
        pairs = zip(map(str, texts), widths, strict=True)
        return "| " + " | ".join(text + " " * (width - cells(text)) for text, width in pairs) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def fitted(header: Sequence[str], rows: Sequence[Sequence[str]], columns: int) -> str:
    """Returns a table that fits a terminal of `columns` columns.

    The table is Markdown if it fits. Otherwise, cells wrap between words. If a word does not fit,
    each cell is printed on a separate line.
    """
    widths, room = _widths(header, rows), columns - 3 * len(header) - 1
    if sum(widths) <= room:
        return markdown(header, rows)
    words = [" ".join(map(str, column)).split() for column in zip(header, *rows, strict=True)]
    min_widths = [max(map(cells, column), default=0) for column in words]
    if sum(min_widths) > room:
        return _stacked(header, rows, columns)
    # Each step narrows the widest column that can still wrap.
    while sum(widths) > room:
        excess = [w if w > n else 0 for w, n in zip(widths, min_widths, strict=True)]
        widths[excess.index(max(excess))] -= 1
    return _wrapped(header, rows, widths)


def format_bytes(number: int) -> str:
    """Returns a number of bytes as text, such as 1.23 MB."""
    return f"{number / 1e6:,.2f} MB" if number >= 1e5 else f"{number / 1e3:,.1f} kB"


def cells(text: str) -> int:
    """Returns the width of a text in columns; letters of some alphabets take two columns."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, columns: int) -> str:
    """Truncates a text to a number of columns."""
    if cells(text) <= columns:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, max(columns, 0))


def _widths(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(cells(str(row[i])) for row in (header, *rows)) for i in range(len(header))]


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
    from rich.padding import Padding
    from rich.text import Text

    out = console.Console(file=io.StringIO(), width=columns, color_system=None)
    for row in rows:
        out.print(Text(str(row[0])))
        for name, text in zip(header[1:], row[1:], strict=True):
            out.print(Padding(Text(f"{name}: {text}"), (0, 0, 0, 2)))
    return "\n".join(line.rstrip() for line in out.file.getvalue().rstrip().split("\n"))
