"""Import paths in config fields, and options by the signature of a factory."""

import sys

import pytest

from rrd_jax import errors, imports


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that writes a module into the working directory and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])

    def write(source, name="mine"):
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    yield write
    sys.modules.pop("mine", None)


def test_modules_of_the_working_directory_and_dotted_attributes_are_found(module):
    name = module("class Nets:\n    small = 3\n")
    assert imports.load("network", f"{name}:Nets.small") == 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere_at_all:f", "there is no module 'nowhere_at_all' in /.*PYTHONPATH"),
        ("mine.py:f", "invalid import path .*write MODULE:NAME"),
        ("mine:", "invalid import path"),
        ("mine:smal", r"module mine \(.*mine.py\) has no 'smal'; did you mean 'small'"),
    ],
)
def test_an_invalid_path_gives_one_line_with_a_suggestion(module, path, message):
    module("def small(): pass\n")
    with pytest.raises(errors.InputError, match=message) as caught:
        imports.load("network", path)
    assert "\n" not in str(caught.value)


def _factory(
    width: int, share: float = 0.5, shape: tuple = (1, 2), name: str | None = None, act=abs
):
    return width, share, shape, name, act


def test_options_are_typed_by_the_signature():
    options = {"width": 3, "share": 1, "shape": [2, 3], "name": None}
    result = imports.call("network 'x:f'", _factory, options, {})
    assert result == (3, 1.0, (2, 3), None, abs)
    assert list(imports.options(_factory, ("width",))) == ["share", "shape", "name"]


def test_string_annotations_are_read_also_behind_jit(module):
    source = "from __future__ import annotations\nimport jax\n"
    name = module(source + "def f(x, power: float = 2): return x\ng = jax.jit(f)\n")
    for attribute in ("f", "g"):
        parameters = imports.parameters(imports.load("objective", f"{name}:{attribute}"))
        assert imports.option_type(parameters["power"]) is float


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": "a"}, "option 'o.width' of network 'x:f' is 'a', but must be of type int"),
        ({"width": True}, "is True, but must be of type int"),
        ({"widht": 3}, "unknown option 'o.widht' of network 'x:f'; did you mean 'width'"),
        ({}, "network 'x:f' needs a value for 'width'; set it with --config.o.width="),
        ({"width": 1, "act": "relu"}, "unknown option 'o.act'"),
    ],
)
def test_an_invalid_option_is_refused(options, message):
    with pytest.raises(errors.InputError, match=message):
        imports.call("network 'x:f'", _factory, options, {}, prefix="o.")
