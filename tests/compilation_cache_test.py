"""Compiled programs on disk, for the next start."""

import pathlib
import warnings

import jax
import jax.numpy as jnp
import pytest

from rrd_jax import parallel
from rrd_jax.parallel import compilation_cache
from tests import launch


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """JAX's options and warnings are put back; and nothing of this process is cached beforehand."""
    names = ("cache_dir", "persistent_cache_min_compile_time_secs", "enable_compilation_cache")
    names = ("jax_compilation_cache_dir", *(f"jax_{name}" for name in names[1:]))
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


def _compile(number):
    """A program that takes a moment to compile."""
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.clear_caches()
    return float(jax.jit(lambda x: jnp.sort(x * number)[0])(jnp.ones(7)))


def test_each_kind_of_machine_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    parallel.enable_compilation_cache()
    _compile(2.0)
    (kind,) = (tmp_path / "rrd_jax").iterdir()
    assert list(kind.glob("*-cache"))
    monkeypatch.setattr(compilation_cache, "_kind_of_machine", lambda: "another")
    jax.config.update("jax_compilation_cache_dir", None)
    parallel.enable_compilation_cache()
    assert pathlib.Path(jax.config.jax_compilation_cache_dir) == tmp_path / "rrd_jax" / "another"


def test_a_folder_that_cannot_be_one_is_said_and_nothing_is_kept(tmp_path, capsys):
    (tmp_path / "file").touch()
    parallel.enable_compilation_cache(str(tmp_path / "file"))
    said = capsys.readouterr().out
    assert said.startswith("warning: compiled programs are not kept: ")
    assert said.count("\n") == 1
    assert not jax.config.jax_enable_compilation_cache
    assert _compile(3.0) == 3.0


def test_damaged_programs_are_said_once_and_compiled_again(tmp_path, capsys):
    parallel.enable_compilation_cache(str(tmp_path))
    _compile(5.0)
    home = pathlib.Path(jax.config.jax_compilation_cache_dir)
    for path in home.glob("*-cache"):
        path.write_bytes(path.read_bytes()[:40])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = compilation_cache._shower(home, warnings.showwarning)
        assert _compile(5.0) == 5.0
        assert _compile(5.0) == 5.0
    said = capsys.readouterr().out
    assert said.count("warning: reading compiled programs in") == 1
    assert min(path.stat().st_size for path in home.glob("*-cache")) > 40


def test_it_can_be_off():
    parallel.enable_compilation_cache("off")
    assert not jax.config.jax_enable_compilation_cache
    assert launch.digits("smoke", compilation_cache="off").compilation_cache == "off"
