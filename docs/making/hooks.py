"""What mkdocs does beside rendering docs/: generated tables, notebooks, and linked files.

A page asks for a table that is made from the code with a comment of its own, such as
<!-- made: fields -->, so that it is a page of the repository too.
"""

import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # so that `mkdocs` alone will do too

from docs.making import fields, links, networks, notebooks, objectives

_MADE = {
    "fields": lambda config: fields.page(),
    "networks": lambda config: networks.page(config.extra["networks"].split(",")),
    "objectives": lambda config: objectives.page(),
}
_MARK = re.compile(r"^<!-- made: (\w+) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook, and the files outside of docs/ that are linked or listed."""
    stored = [file for file in files if file.src_uri.endswith(".ipynb")]
    pages = [links.DOCS + file.src_uri for file in (*files.documentation_pages(), *stored)]
    listed = [name for name in _listed(config.nav) if (links.ROOT / name).is_file()]
    for file in stored:
        notebook = notebooks.read(pathlib.Path(file.abs_src_path))
        name = links.on_site(file.src_uri)
        files.append(File.generated(config, name, content=notebook.text))
        for picture, data in notebook.pictures.items():
            place = str(pathlib.PurePosixPath(name).parent / picture)
            files.append(File.generated(config, place, content=data))
    for path in dict.fromkeys([*listed, *links.outside([*pages, *listed])]):
        level = InclusionLevel.UNDEFINED if path in listed else InclusionLevel.NOT_IN_NAV
        place, source = links.on_site(path), str(links.ROOT / path)
        files.append(File.generated(config, place, abs_src_path=source, inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts tables in, and lets links lead to where the site has things."""
    del files
    markdown = _MARK.sub(lambda mark: _MADE[mark[1]](config), markdown)
    return links.for_site(_in_repository(page.file), markdown)


def _listed(nav: Any) -> Iterator[str]:
    """The files that the navigation names."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _listed(part)


def _in_repository(file: File) -> str:
    """The path of a page from the root of the repository."""
    if file.abs_src_path is None:  # of a notebook
        return links.DOCS + file.src_uri
    return pathlib.Path(file.abs_src_path).relative_to(links.ROOT).as_posix()
