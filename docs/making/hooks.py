"""MkDocs hooks: generated tables, notebook pages, and linked files outside of docs/.

A comment such as <!-- generated: fields --> in a page marks the place of a table that is generated
from the code. Without the site, the page remains readable in the repository.
"""

import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

# The command `mkdocs`, unlike `python -m mkdocs`, does not search the working directory.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from docs.making import fields, links, networks, notebooks, objectives

_GENERATED = {
    "fields": lambda config: fields.page(),
    "networks": lambda config: networks.page(config.extra["networks"].split(",")),
    "objectives": lambda config: objectives.page(),
}
_MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook, and linked or listed files outside of docs/."""
    stored = [file for file in files if file.src_uri.endswith(".ipynb")]
    pages = [links.DOCS + file.src_uri for file in (*files.documentation_pages(), *stored)]
    listed = [name for name in _listed(config.nav) if (links.ROOT / name).is_file()]
    for file in stored:
        notebook = notebooks.read(pathlib.Path(file.abs_src_path))
        name = links.on_site(file.src_uri)
        files.append(File.generated(config, name, content=notebook.text))
        for picture, data in notebook.pictures.items():
            target = str(pathlib.PurePosixPath(name).parent / picture)
            files.append(File.generated(config, target, content=data))
    for path in dict.fromkeys([*listed, *links.outside([*pages, *listed])]):
        level = InclusionLevel.UNDEFINED if path in listed else InclusionLevel.NOT_IN_NAV
        target, source = links.on_site(path), str(links.ROOT / path)
        files.append(File.generated(config, target, abs_src_path=source, inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Inserts the generated tables and rewrites links for the site."""
    del files
    markdown = _MARK.sub(lambda mark: _GENERATED[mark[1]](config), markdown)
    return links.for_site(_in_repository(page.file), markdown)


def _listed(nav: Any) -> Iterator[str]:
    """Yields the files of the navigation."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _listed(part)


def _in_repository(file: File) -> str:
    """Returns the path of a page from the root of the repository."""
    # The page of a notebook has no source file.
    if file.abs_src_path is None:
        return links.DOCS + file.src_uri
    return pathlib.Path(file.abs_src_path).relative_to(links.ROOT).as_posix()
