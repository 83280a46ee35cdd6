"""The cache of compiled programs on disk."""

import os
import pathlib
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import pytest

from rrd_jax import parallel
from rrd_jax.parallel import compilation_cache
from tests import launch


@pytest.fixture(autouse=True)
def _restore_jax_options(monkeypatch):
    """JAX options and warnings, restored after each test; the cache is disabled before the test."""
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs")
    names = [f"jax_{name}" for name in (*names, "enable_compilation_cache")]
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


def _compile(number):
    """Compiles and runs a program that depends on `number`, without the caches in memory."""
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.clear_caches()
    return float(jax.jit(lambda x: jnp.sort(x * number)[0])(jnp.ones(7)))


@pytest.mark.long
def test_each_kind_of_machine_has_a_separate_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    parallel.enable_compilation_cache()
    _compile(2.0)
    (kind,) = (tmp_path / "rrd_jax").iterdir()
    assert list(kind.glob("*-cache"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(77), raising=False)
    assert compilation_cache._kind_of_machine() == f"{kind.name.rpartition('-')[0]}-77"
    monkeypatch.setattr(compilation_cache, "_kind_of_machine", lambda: "another")
    jax.config.update("jax_compilation_cache_dir", None)
    parallel.enable_compilation_cache()
    assert pathlib.Path(jax.config.jax_compilation_cache_dir) == tmp_path / "rrd_jax" / "another"


def test_an_invalid_folder_is_warned_about_and_disables_the_cache(tmp_path, capsys):
    (tmp_path / "file").touch()
    parallel.enable_compilation_cache(str(tmp_path / "file"))
    assert capsys.readouterr().out.startswith("warning: compiled programs are not cached: ")
    assert not jax.config.jax_enable_compilation_cache
    assert _compile(3.0) == 3.0
    jax.config.update("jax_enable_compilation_cache", True)
    parallel.enable_compilation_cache("off")
    assert not jax.config.jax_enable_compilation_cache


def _compile_and_warn(number, home):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = compilation_cache._make_showwarning(home, warnings.showwarning)
        return _compile(number)


@pytest.mark.long
def test_damaged_programs_are_warned_about_once_and_compiled_again(tmp_path, capsys):
    parallel.enable_compilation_cache(str(tmp_path))
    _compile(5.0)
    home = pathlib.Path(jax.config.jax_compilation_cache_dir)
    for path in home.glob("*-cache"):
        path.write_bytes(path.read_bytes()[:40])
        os.utime(path, (1e9, 1e9))
    assert _compile_and_warn(5.0, home) == _compile_and_warn(5.0, home) == 5.0
    output = capsys.readouterr().out
    assert output.count("cannot be read") == 1
    assert min(path.stat().st_size for path in home.glob("*-cache")) > 40


def test_a_program_that_another_run_is_writing_is_not_damaged(tmp_path, capsys):
    parallel.enable_compilation_cache(str(tmp_path))
    _compile(6.0)
    (path,) = pathlib.Path(jax.config.jax_compilation_cache_dir).glob("jit__lambda*-cache")
    path.write_bytes(path.read_bytes()[:40])
    assert _compile_and_warn(6.0, path.parent) == 6.0
    assert "warning" not in capsys.readouterr().out
    assert path.stat().st_size == 40


@pytest.mark.long
def test_two_runs_that_start_at_once_share_one_folder(tmp_path):
    others = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {k: v for k, v in os.environ.items() if k not in others}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def start(name):
        command = [sys.executable, "-m", "rrd_jax.main", f"--workdir={tmp_path / name}"]
        command += ["--config=configs/digits.py:smoke,resnet8,ce"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, **pipes)

    def check(run, name):
        output, _ = run.communicate(timeout=240)
        assert run.returncode == 0, output
        assert "warning" not in output.lower()
        return launch.rows(tmp_path / name)

    runs = {name: start(name) for name in ("one", "other")}
    rows = [check(run, name) for name, run in runs.items()]
    (kind,) = (tmp_path / "cache" / "rrd_jax").iterdir()
    entries = {path.name for path in kind.iterdir()}
    assert [name for name in entries if "traced" in name]
    assert check(start("later"), "later") == rows[0] == rows[1]
    # The third run compiled nothing.
    assert {path.name for path in kind.iterdir()} == entries
