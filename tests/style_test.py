"""The parts of the writing style that a test can check; CONTRIBUTING.md describes the style."""

import ast
import io
import pathlib
import re
import tokenize

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_FOLDERS = ("rrd_jax", "configs", "docs", "experiments", "tests")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (ast.Module, ast.ClassDef, *_FUNCTIONS)

# First words of docstrings that leave the reader to guess the subject.
_OPENINGS = re.compile(
    r"(What|Of|Those|That|Whether|How|As|Where|Which|Who|Whose|It|Its|So|If|To|By|From|In|With|For"
    r"|On|At|There)\b"
)
# Names without content, which could stand for any value.
_NAMES = """
    given found made own asked brought beside seeing remembered doubt doubts saving savings that
    those these theirs it its each one ones said told shown kept gone held begun ended wanted
    meant taken alike many much few such whose whole there here known seen
"""
# Comments at the end of a line of code: directives, and shapes such as `# [B, D]`.
_TRAILING = re.compile(r"#\s*(noqa|type:|pragma|fmt:|ruff:|\[)")


def _docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            yield node, text


def _starts_with_verb(node):
    """Returns True if a docstring must start with a verb: that of a function, but not of a test.

    Properties and fixtures are described by a noun.
    """
    if not isinstance(node, _FUNCTIONS) or node.name.startswith("test"):
        return False
    decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    return not re.search("property|fixture", decorators)


def _names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, (ast.ClassDef, *_FUNCTIONS)):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def _findings(path):
    """Yields the line and a description of each violation in a file."""
    text = path.read_text()
    tree = ast.parse(text)
    for node, docstring in _docstrings(tree):
        line, first = getattr(node, "lineno", 1), docstring.split()[0]
        if _OPENINGS.match(docstring):
            yield line, f"a docstring starts with {first!r}"
        elif _starts_with_verb(node) and not re.fullmatch("[A-Z][a-z-]*s", first):
            yield line, f"the docstring of a function starts with {first!r}, which is not a verb"
    for name, line in _names(tree):
        if name.strip("_").lower() in _NAMES.split():
            yield line, f"the name {name!r} says nothing"
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row, column = token.start
        is_trailing = token.type == tokenize.COMMENT and lines[row - 1][:column].strip()
        if is_trailing and not _TRAILING.match(token.string):
            yield row, f"a comment trails the code: {token.string}"


@pytest.mark.parametrize("folder", _FOLDERS)
def test_docstrings_comments_and_names_follow_the_style(folder):
    findings = [
        f"{path.relative_to(_ROOT)}:{line}: {description}"
        for path in sorted((_ROOT / folder).rglob("*.py"))
        for line, description in _findings(path)
    ]
    assert not findings, "\n".join(findings)
