"""Finds the links of Markdown pages and rewrites them for the site.

Pages are written for readers of the repository: a link is a path relative to the folder of the
page. On the site, the files of docs/ are at the root, and other linked files, such as CHANGELOG.md
and experiments/results/digits_cpu.md, keep their paths.
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
      start: position of the target's first character in the text.
      end: position after the target's last character.
      target: the target as written.
    """

    start: int
    end: int
    target: str

    @property
    def path(self) -> str:
        """The target without its anchor; "" for an anchor on the same page."""
        return self.target.partition("#")[0]

    @property
    def anchor(self) -> str:
        """The text after `#`; "" without an anchor."""
        return self.target.partition("#")[2]


def without_code(text: str) -> str:
    """Returns a page with code and comments replaced by spaces, so that positions stay the same."""
    for pattern in (_COMMENT, _FENCED, _CODE):
        text = pattern.sub(lambda match: re.sub(r"\S", " ", match[0]), text)
    return text


def links(text: str) -> Iterator[Link]:
    """Yields the links and images of a page that point into the repository, in order."""
    prose = without_code(text)
    matches = [*_TARGET.finditer(prose), *_ATTRIBUTE.finditer(prose)]
    for match in sorted(matches, key=lambda match: match.start(1)):
        if not _ELSEWHERE.match(match[1]):
            yield Link(match.start(1), match.end(1), match[1])


def target(page: str, link: Link) -> str:
    """Returns the path of a link's target from the root of the repository."""
    if not link.path:
        return page
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link.path))


def on_site(path: str) -> str:
    """Returns the path on the site of a file of the repository; a notebook becomes a page."""
    path = path.removeprefix(DOCS)
    return f"{path.removesuffix('.ipynb')}.md" if path.endswith(".ipynb") else path


def for_site(page: str, text: str) -> str:
    """Returns a page with links and table syntax for the site.

    Args:
      page: path of the page from the root of the repository.
      text: Markdown of the page.
    """
    parts, at = [], 0
    home = posixpath.dirname(on_site(page))
    for link in links(text):
        if not link.path:
            continue
        path = posixpath.relpath(on_site(target(page, link)), home or ".")
        parts += [text[at : link.start], path, f"#{link.anchor}" * bool(link.anchor)]
        at = link.end
    return _ROW.sub(_with_bars, "".join([*parts, text[at:]]))


def _with_bars(row: re.Match) -> str:
    """Returns a table row without backslashes before bars in code, which only GitHub needs."""
    return _CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0])


def outside(pages: Iterable[str]) -> list[str]:
    """Returns the files outside of docs/ that the pages link, directly or through such files.

    Args:
      pages: paths from the root of the repository.
    """
    waiting, linked = list(pages), dict[str, None]()
    while waiting:
        page = waiting.pop()
        for link in links((ROOT / page).read_text(encoding="utf-8")):
            path = target(page, link)
            if path.startswith(DOCS) or path in linked or not (ROOT / path).is_file():
                continue
            linked[path] = None
            waiting += [path] if path.endswith(".md") else []
    return list(linked)


def anchors(text: str) -> set[str]:
    """Returns the anchors of a page that are identical on GitHub and on the site."""
    headings = re.findall(r"^#+ +(.+?)(?: +#+)?$", _FENCED.sub("", text), re.MULTILINE)
    words = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    slugs = {re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in words}
    explicit = re.findall(r"<[a-z]+ [^<>]*?\b(?:id|name)=\"([^\"]+)\"", text)
    return {slug.replace(" ", "-") for slug in slugs} | {*explicit}
