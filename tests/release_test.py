"""The versions, the citation file and the image of a release."""

import configparser
import os
import pathlib
import re
import subprocess
import sys

import rrd_jax
from tests import versions

_ROOT = pathlib.Path(__file__).parent.parent


def test_one_version_and_one_date_stand_everywhere():
    config = configparser.ConfigParser()
    config.read(_ROOT / "setup.cfg")
    version = config["metadata"]["version"]
    newest, date = re.search(
        r"^## (\S+) \((\d{4}-\d\d-\d\d)", (_ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    ).groups()
    citation = (_ROOT / "CITATION.cff").read_text()
    assert newest == version
    assert f"\nversion: {version}\n" in citation
    assert f'\ndate-released: "{date}"\n' in citation


def test_cffconvert_takes_it(program):
    command = [program("cffconvert"), "--validate", "-i", _ROOT / "CITATION.cff"]
    subprocess.run(command, check=True)


def test_forms_ask_for_what_the_command_prints(commands):
    done = commands.run("--version")
    assert done.code == 0, done.err
    first, python, libraries, devices = done.out.splitlines()
    assert first.startswith(f"rrd_jax {rrd_jax.__version__}")
    assert python.startswith(f"Python {'.'.join(map(str, sys.version_info[:3]))}")
    assert re.match(r"jax \d.*, jaxlib \d.*, numpy \d", libraries)
    assert re.fullmatch(r"devices: \d+ cpu cpu", devices)
    assert os.uname().nodename not in done.out
    done = commands.run("--version", env={"JAX_PLATFORMS": "cuda"})
    assert done.code == 69
    assert done.out.splitlines() == [first, python, libraries]


def test_hadolint_has_nothing_to_say(program):
    command = [program("hadolint"), _ROOT / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_short_suite_is_there_and_a_python_that_is_not_is_said(program):
    assert all((_ROOT / path).exists() for path in versions.SUITE)
    assert any(line.startswith("chex>=") for line in versions.requirements())
    program("uv")
    (row,) = versions.rows(["9.99"], ["highest"])
    assert row[0] is None
    assert "Python 9.99, highest: not on this machine" in row[1]
