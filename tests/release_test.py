"""What a release is made of, besides the wheel: versions, citation, forms, image, pages on top."""

import configparser
import fnmatch
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import pytest

import rrd_jax
from tests import versions

_ROOT = pathlib.Path(__file__).parent.parent
_DOCKERFILE = (_ROOT / "Dockerfile").read_text()
_FORMS = sorted((_ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def _yaml(path):
    return pytest.importorskip("yaml").safe_load(path.read_text())


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


def test_what_is_on_the_path_but_not_installed_has_no_version(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(rrd_jax, "__version__", rrd_jax.__version__)  # which is put back
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert rrd_jax.__getattr__("__version__") == "unknown"


def test_the_citation_names_the_paper_and_its_authors():
    citation = _yaml(_ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Giakoumoglou", "Stathaki"]
    assert "2407.12073" in paper["url"]


def test_cffconvert_takes_it(program):
    command = [program("cffconvert"), "--validate", "-i", _ROOT / "CITATION.cff"]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("path", [p for p in _FORMS if p.stem != "config"], ids=lambda p: p.stem)
def test_a_form_for_issues_is_one_that_its_reader_takes(path):
    form = _yaml(path)
    assert set(form) <= {"name", "description", "labels", "body", "title", "assignees"}
    assert all(form[key] for key in ("name", "description", "body"))
    names = [element["id"] for element in form["body"]]
    assert len(set(names)) == len(names)
    for element in form["body"]:
        assert element["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert element["attributes"]["label"]
        assert element["type"] != "checkboxes" or element["attributes"]["options"]
        assert set(element.get("validations", {})) <= {"required"}


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


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "cloud/README.md"])
def test_files_and_make_targets_that_a_page_names_are_there(page):
    text = (_ROOT / page).read_text()
    homes = [_ROOT, *(_ROOT / name for name in ("cloud", "rrd_jax", "rrd_jax/networks"))]
    homes += [_ROOT / name for name in ("rrd_jax/objectives", "tests/golden")]
    named = set(re.findall(r"`([\w./]+\.(?:py|md|yaml|sh|cfg|lock|json|cff))`", text))
    assert named
    missing = {name for name in named if not any((home / name).exists() for home in homes)}
    assert missing <= {"config.json", "model.json"}  # of runs
    targets = re.findall(r"make ([a-z-]+)", " ".join(re.findall(r"`[^`]*`", text)))
    makefile = (_ROOT / "Makefile").read_text()
    assert not [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)]


def _ignored(path):
    """Whether .dockerignore keeps a path out, by its last line that fits."""
    out = False
    for line in (_ROOT / ".dockerignore").read_text().split():
        pattern = line.lstrip("!")
        parts = [path, *(str(parent) for parent in pathlib.PurePath(path).parents)]
        if any(fnmatch.fnmatch(part, pattern) for part in parts if part != "."):
            out = not line.startswith("!")
    return out


def test_the_image_gets_what_it_copies_and_nothing_from_a_network():
    sources = re.findall(r"^COPY (\S+) ", _DOCKERFILE, re.MULTILINE)
    mounts = re.findall(r"--mount=type=bind,source=(\S+),", _DOCKERFILE)
    assert sources == ["configs"]
    assert mounts == ["build/wheelhouse"]
    assert not any(map(_ignored, sources + mounts))
    assert all(map(_ignored, ["rrd_jax", ".git", "runs/a", "build/lib", ".venv"]))
    (run,) = re.findall(r"^RUN ((?:.*\\\n)*.*)", _DOCKERFILE, re.MULTILINE)
    assert "--no-index" in run
    assert "--find-links=/wheelhouse" in run
    assert f"wheel-dir={mounts[0]} " in (_ROOT / "Makefile").read_text()


def test_hadolint_has_nothing_to_say(program):
    command = [program("hadolint"), _ROOT / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_short_suite_is_there_and_a_python_that_is_not_is_said(program):
    assert all((_ROOT / path).exists() for path in versions.SUITE)
    assert any(need.startswith("chex>=") for need in versions.needs())
    program("uv")
    (row,) = versions.rows(["9.99"], ["highest"])
    assert row[0] is None
    assert "Python 9.99, highest: not on this machine" in row[1]
