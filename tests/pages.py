"""The code blocks of documentation pages, and the marks that exclude blocks from tests."""

import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
# Paths relative to the repository root. Results pages are records, so their commands are not run.
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
# The languages of the blocks that tests run.
EXECUTED = ("sh", "python")
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
# An unquoted word that a shell expands.
_GLOB = re.compile(r" [^'\" ]*[*?][^'\" ]*( |$)")


class Block(NamedTuple):
    """A block of code.

    Attributes:
      page: path of the page.
      line: line number of the first line of code.
      language: language after the fence.
      text: the code.
      mark: text of the comment on the line above: "needs ..." for a block that tests cannot run,
        "run by tests/..." for a block that another test runs, "" for a block that the test of the
        page runs.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def module(self) -> str:
        """The file name in the first line of a Python block, or ""."""
        first = self.text.partition("\n")[0]
        return first.removeprefix("# ") if re.fullmatch(r"# \w+\.py", first) else ""


def blocks(page: str) -> list[Block]:
    """Returns the blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("text")) + 1,
            match["language"],
            match["text"],
            match["mark"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]


def lines(text: str) -> list[str]:
    """Returns the commands of a shell block, with continuation lines and here-documents joined."""
    joined, end = [], ""
    for line in text.splitlines():
        if end or (joined and joined[-1].endswith("\\")):
            separator = "\n" if end else " "
            joined[-1] = f"{joined[-1] if end else joined[-1][:-1]}{separator}{line}"
            end = "" if line == end else end
        elif line.strip() and not line.lstrip().startswith("#"):
            joined.append(line)
        if not end and (heredoc := re.search(r"<<'(\w+)'$", line)):
            end = heredoc[1]
    return joined


def module_arguments(line: str) -> list[str]:
    """Returns the module and the arguments of a plain `python -m` command, otherwise []."""
    words = shlex.split(line.partition("<<")[0], comments=True)
    plain = "<<" not in line and not {"|", ">", "<", "&&"} & {*words} and not _GLOB.search(line)
    return words[2:] if plain and words[:2] == ["python", "-m"] else []


def commands(text: str) -> Iterator[list[str]]:
    """Yields the words of each `python -m` command of a shell block, from the module name on."""
    for line in lines(text):
        words = shlex.split(line.partition("<<")[0], comments=True)
        if "-m" in words and words[words.index("-m") - 1].rpartition("/")[2] == "python":
            yield words[words.index("-m") + 1 :]
