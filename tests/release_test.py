"""The version, the citation file, the bug report and the Dockerfile of a release."""

import configparser
import os
import pathlib
import re
import subprocess
import sys

import rrd_jax
from tests import versions

_ROOT = pathlib.Path(__file__).parent.parent


def test_version_and_date_are_equal_in_all_files():
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


def test_cffconvert_accepts_the_citation_file(program):
    command = [program("cffconvert"), "--validate", "-i", _ROOT / "CITATION.cff"]
    subprocess.run(command, check=True)


def test_the_version_flag_prints_libraries_and_devices_but_no_host_name(commands):
    outcome = commands.run("--version")
    assert outcome.code == 0, outcome.err
    first, python, libraries, devices = outcome.out.splitlines()
    assert first.startswith(f"rrd_jax {rrd_jax.__version__}")
    assert python.startswith(f"Python {'.'.join(map(str, sys.version_info[:3]))}")
    assert re.match(r"jax \d.*, jaxlib \d.*, numpy \d", libraries)
    assert re.fullmatch(r"devices: \d+ cpu cpu", devices)
    assert os.uname().nodename not in outcome.out
    outcome = commands.run("--version", env={"JAX_PLATFORMS": "cuda"})
    assert outcome.code == 69
    assert outcome.out.splitlines() == [first, python, libraries]


def test_hadolint_accepts_the_dockerfile(program):
    command = [program("hadolint"), _ROOT / "Dockerfile"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


def test_the_short_suite_exists_and_a_missing_python_is_reported(program):
    assert all((_ROOT / path).exists() for path in versions.SUITE)
    assert any(line.startswith("chex>=") for line in versions.requirements())
    program("uv")
    (row,) = versions.rows(["9.99"], ["highest"])
    assert row[0] is None
    assert "Python 9.99, highest: not on this machine" in row[1]
