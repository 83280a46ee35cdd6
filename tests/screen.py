"""A terminal emulator of variable width for tests."""

import io
import os
import re
import sys


class Screen(io.StringIO):
    """A terminal that replaces standard output.

    Attributes:
      columns: the width of the terminal; a test may change it.
    """

    def __init__(self, monkeypatch, columns):
        super().__init__()
        self.columns, self._parts = columns, []
        monkeypatch.setattr(sys, "stdout", self)
        monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((self.columns, 9)))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)

    def isatty(self):
        return True

    def fileno(self):
        return 1

    def write(self, text):
        self._parts.append((self.columns, text))
        return len(text)

    def text(self):
        """Returns all output, including control characters."""
        return "".join(text for _, text in self._parts)

    def lines(self):
        """Returns the visible lines; a change of `columns` wraps earlier output again."""
        lines, row, column = [""], 0, 0
        for columns, text in self._parts:
            lines, row, column = _rewrapped(lines, row, column, columns)
            for token in re.findall(r"\x1b\[\d*[A-Za-z]|.", text, re.DOTALL):
                if token == "\r":
                    column = 0
                elif token == "\n":
                    row, column = row + 1, 0
                elif token.endswith("A") and token != "A":
                    row -= int(token[2:-1])
                elif token.endswith(("K", "J")) and len(token) > 1:
                    lines[row] = lines[row][:column]
                    if token.endswith("J"):
                        del lines[row + 1 :]
                elif len(token) == 1:
                    if column == columns:
                        row, column = row + 1, 0
                    lines += [""] * (row + 1 - len(lines))
                    line = lines[row].ljust(column)
                    lines[row] = line[:column] + token + line[column + 1 :]
                    column += 1
                lines += [""] * (row + 1 - len(lines))
        return [line for line in lines if line]


def _rewrapped(lines, row, column, columns):
    """Returns lines, row and column after a change of width, with the cursor on the last line."""
    if max(map(len, lines)) <= columns:
        return lines, row, column
    parts = [[line[i : i + columns] for i in range(0, len(line) or 1, columns)] for line in lines]
    lines = [part for line in parts for part in line]
    return lines, len(lines) - 1, len(lines[-1])
