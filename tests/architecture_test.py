"""Imports point one way, and the pure rooms stay pure."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parent.parent / "rrd_jax"
# A room may import those after it, never those before.
_ORDER = [
    ["main"],
    ["evaluate"],
    ["train"],
    ["recipes"],
    ["fit", "weights", "workdir"],
    ["runs"],
    ["program", "views"],
    ["checkpoint"],
    ["steps", "data", "report", "parallel", "optim", "convert", "tracing"],
    ["state"],
    ["objectives", "models", "metrics", "cli"],
    ["memory"],
    ["errors"],
]
_LEVEL = {room: level for level, rooms in enumerate(_ORDER) for room in rooms}
_PURE = ["steps", "state", "memory", "objectives", "models", "optim", "metrics", "convert"]
_FILES = [path for path in sorted(_ROOT.rglob("*.py")) if path != _ROOT / "__init__.py"]


def _room(path):
    if path.name == "__main__.py":  # a program of its own
        return "main"
    return path.relative_to(_ROOT).parts[0].removesuffix(".py")


def _imports(path):
    """Every imported name, such as rrd_jax.memory or jax.numpy."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", _FILES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_imports_point_one_way(path):
    own = _room(path)
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "rrd_jax" and parts[1] != own:
            assert _LEVEL[own] < _LEVEL[parts[1]], f"{own} imports {name}"
            assert not (own == "objectives" and parts[1] == "models")
        assert own == "main" or parts[0] != "configs", "configs are for programs"


@pytest.mark.parametrize("path", _FILES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_libraries_stay_in_their_rooms(path):
    own, names = _room(path), set(_imports(path))
    if own in _PURE:
        barred = ("ml_collections", "absl", "logging", "pathlib", "os", "grain", "tensorboardX")
        assert not [name for name in names if name.split(".")[0] in barred]
    assert "tensorflow" not in names
    assert own == "weights" or "torch" not in names
    assert own == "checkpoint" or not any(name.startswith("orbax") for name in names)
    assert own == "models" or not any(name.startswith("flax.linen") for name in names)
    assert own in ("train", "recipes", "evaluate", "main") or not any(
        name.startswith("ml_collections") for name in names
    )
