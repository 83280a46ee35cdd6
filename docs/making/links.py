"""The links of pages in Markdown: where they are, and where they lead on the site.

Pages are written for a reader of the repository: a link is a path from the page's own folder. The
site has the files of docs/ at its root, and other files that are linked at their own paths, such as
CHANGELOG.md and experiments/results/digits_cpu.md.
"""

import pathlib
import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
DOCS = "docs/"
_FENCED = re.compile(r"^( *)(```+|~~~+).*?^\1\2", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TARGET = re.compile(r"\]\(\s*<?([^\s<>()]+(?:\([^\s()]*\))?)>?(?:\s+\"[^\"]*\")?\s*\)")
_ROW = re.compile(r"^\|.*$", re.MULTILINE)
_ATTRIBUTE = re.compile(r"<[a-z][^<>]*?\b(?:href|src)=\"([^\"]+)\"")
_ELSEWHERE = re.compile(r"[a-z][a-z+.-]*:|//", re.IGNORECASE)


class Link(NamedTuple):
    """A link or an image of a page.

    Attributes:
      start: where its target begins in the text.
      end: where it ends.
      target: as it is written.
    """

    start: int
    end: int
    target: str

    @property
    def path(self) -> str:
        """The target without its anchor; "" for a place of the same page."""
        return self.target.partition("#")[0]

    @property
    def anchor(self) -> str:
        """What stands behind #."""
        return self.target.partition("#")[2]


def without_code(text: str) -> str:
    """A page with code and comments blanked out, so that all else keeps its place."""
    for pattern in (_COMMENT, _FENCED, _CODE):
        text = pattern.sub(lambda found: re.sub(r"\S", " ", found[0]), text)
    return text


def links(text: str) -> Iterator[Link]:
    """The links and images of a page that stay in the repository, in their order."""
    prose = without_code(text)
    found = [*_TARGET.finditer(prose), *_ATTRIBUTE.finditer(prose)]
    for match in sorted(found, key=lambda match: match.start(1)):
        if not _ELSEWHERE.match(match[1]):
            yield Link(match.start(1), match.end(1), match[1])


def target(page: str, link: Link) -> str:
    """The file of the repository that a link of a page leads to, from the root."""
    if not link.path:
        return page
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link.path))


def on_site(path: str) -> str:
    """Where the site has a file of the repository; a notebook is a page there."""
    path = path.removeprefix(DOCS)
    return f"{path.removesuffix('.ipynb')}.md" if path.endswith(".ipynb") else path


def for_site(page: str, text: str) -> str:
    """A page whose links lead to where the site has things, and whose tables are the site's.

    Args:
      page: its path from the root of the repository.
      text: of it, in Markdown.
    """
    parts, at = [], 0
    home = posixpath.dirname(on_site(page))
    for link in links(text):
        if not link.path:
            continue
        place = posixpath.relpath(on_site(target(page, link)), home or ".")
        parts += [text[at : link.start], place, f"#{link.anchor}" * bool(link.anchor)]
        at = link.end
    return _ROW.sub(_with_bars, "".join([*parts, text[at:]]))


def _with_bars(row: re.Match) -> str:
    """A row of a table whose code has a bar with no stroke before it: only GitHub needs that."""
    return _CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0])


def outside(pages: Iterable[str]) -> list[str]:
    """Files that lie elsewhere than in docs/ and that pages, or those files, link.

    Args:
      pages: paths from the root of the repository.
    """
    waiting, found = list(pages), dict[str, None]()
    while waiting:
        page = waiting.pop()
        for link in links((ROOT / page).read_text(encoding="utf-8")):
            path = target(page, link)
            if path.startswith(DOCS) or path in found or not (ROOT / path).is_file():
                continue
            found[path] = None
            waiting += [path] if path.endswith(".md") else []
    return list(found)


def anchors(text: str) -> set[str]:
    """The anchors of a page of which GitHub and the site make the same."""
    headings = re.findall(r"^#+ +(.+?)(?: +#+)?$", _FENCED.sub("", text), re.MULTILINE)
    words = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    made = {re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in words}
    given = re.findall(r"<[a-z]+ [^<>]*?\b(?:id|name)=\"([^\"]+)\"", text)
    return {heading.replace(" ", "-") for heading in made} | {*given}
