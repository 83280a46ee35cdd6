"""What pages have a reader run, and what says that a test does not."""

import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
# Of the repository, from its root; those of results are records, which are not run again.
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
RUN = ("sh", "python")
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
_GLOB = re.compile(r" [^'\" ]*[*?][^'\" ]*( |$)")  # which a shell expands


class Block(NamedTuple):
    """A block of code.

    Attributes:
      page: where it is.
      line: of its first line of code.
      language: behind the fence.
      text: the code.
      mark: what a comment in the line before says of it: "needs ..." what a test has not, or
        "run by tests/..."; "" for one that a test of the page runs.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def module(self) -> str:
        """The file that a block of Python says it is, or ""."""
        first = self.text.partition("\n")[0]
        return first.removeprefix("# ") if re.fullmatch(r"# \w+\.py", first) else ""


def blocks(page: str) -> list[Block]:
    """The blocks of a page."""
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
    """The lines of a shell block, each whole: continued ones, and with what it is fed."""
    found, end = [], ""
    for line in text.splitlines():
        if end or (found and found[-1].endswith("\\")):
            joint = "\n" if end else " "
            found[-1] = f"{found[-1] if end else found[-1][:-1]}{joint}{line}"
            end = "" if line == end else end
        elif line.strip() and not line.lstrip().startswith("#"):
            found.append(line)
        if not end and (fed := re.search(r"<<'(\w+)'$", line)):
            end = fed[1]
    return found


def module(line: str) -> list[str]:
    """The module and the arguments of a line that does nothing but start one; else nothing."""
    words = shlex.split(line.partition("<<")[0], comments=True)
    plain = "<<" not in line and not {"|", ">", "<", "&&"} & {*words} and not _GLOB.search(line)
    return words[2:] if plain and words[:2] == ["python", "-m"] else []


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell block that start a module, as words from the module's name on."""
    for line in lines(text):
        words = shlex.split(line.partition("<<")[0], comments=True)
        if "-m" in words and words[words.index("-m") - 1].rpartition("/")[2] == "python":
            yield words[words.index("-m") + 1 :]
