"""docs/troubleshooting.md quotes messages that the code has."""

import ast
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_PAGE = _ROOT / "docs" / "troubleshooting.md"
_QUOTED = re.findall(r"^\| `([^`]+)`", _PAGE.read_text(), re.MULTILINE)
_VALUE = "\0"  # stands for what a message puts in


def _texts(path):
    """The texts of a module that are no docstrings, with _VALUE where a value is put in."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (getattr(part, "value", "") for part in node.values)
            yield "".join(part if isinstance(part, str) else _VALUE for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def texts():
    of_modules = (_texts(path) for path in sorted((_ROOT / "rrd_jax").rglob("*.py")))
    return [*(text for found in of_modules for text in found), (_ROOT / "Makefile").read_text()]


def _pattern(quoted):
    """A message with `...` for values, as a regular expression."""
    pieces = (re.escape(piece.strip()) for piece in quoted.split("..."))
    return re.compile(f".*?{_VALUE}.*?".join(filter(None, pieces)))


@pytest.mark.parametrize("quoted", _QUOTED)
def test_a_message_that_the_page_quotes_is_in_the_code(quoted, texts):
    assert any(map(_pattern(quoted).search, texts))


def test_the_page_quotes_messages_and_a_wrong_one_would_be_found(texts):
    assert len(_QUOTED) > 40
    assert not any(map(_pattern("is missing: put ... under the doormat").search, texts))
