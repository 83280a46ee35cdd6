"""The parts of the writing style that a test can check; CONTRIBUTING.md describes the style."""

import ast
import io
import pathlib
import re
import tokenize

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_FOLDERS = ("rrd_jax", "configs", "docs", "experiments", "tests")
_FILES = sorted(path for folder in _FOLDERS for path in (_ROOT / folder).rglob("*.py"))
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


def _tree(path):
    return ast.parse(path.read_text())


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


@pytest.mark.parametrize("path", _FILES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_style_of_docstrings_comments_and_names(path):
    tree = _tree(path)
    findings = []
    for node, text in _docstrings(tree):
        line, first = getattr(node, "lineno", 1), text.split()[0]
        if _OPENINGS.match(text):
            findings.append(f"{line}: a docstring starts with {first!r}")
        elif _starts_with_verb(node) and not re.fullmatch("[A-Z][a-z-]*s", first):
            findings.append(
                f"{line}: a function's docstring starts with {first!r}, not with a verb"
            )
    for name, line in _names(tree):
        if name.strip("_").lower() in _NAMES.split():
            findings.append(f"{line}: the name {name!r} says nothing")
    lines = path.read_text().splitlines()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT and not _TRAILING.match(token.string):
            row, column = token.start
            if lines[row - 1][:column].strip():
                findings.append(f"{row}: a comment trails the code: {token.string}")
    assert not findings, "\n".join(findings)
