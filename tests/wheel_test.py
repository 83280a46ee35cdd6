"""The package as others install it: built from its own files, used far from the repository."""

import email
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
pytestmark = pytest.mark.xdist_group("wheel")  # built once


def _run(*command, cwd=None):
    """A command's outcome; nothing of the repository is on its path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=env)


def _checked(*command, cwd=None):
    outcome = _run(*command, cwd=cwd)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the source distribution, built where there is neither git nor a network."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    shutil.copytree(_ROOT / "rrd_jax", copy / "rrd_jax", ignore=lambda *_: ["__pycache__"])
    for name in ("configs", "experiments"):
        shutil.copytree(_ROOT / name, copy / name)
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.cfg", "setup.py"):
        shutil.copy(_ROOT / name, copy)
    _checked(sys.executable, "-c", _SDIST, folder, cwd=copy)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    options = (
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        f"--wheel-dir={folder}",
    )
    _checked(sys.executable, "-m", "pip", "wheel", *options, source)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def contents(wheel):
    """The wheel's files, by name."""
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="module")
def about(contents):
    """The wheel's metadata."""
    (name,) = (name for name in contents if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(contents[name])


def test_a_wheel_holds_one_package_all_of_it_and_typed(contents):
    (top,) = {name.split("/")[0] for name in contents if ".dist-info/" not in name}
    assert top == "rrd_jax"
    modules = {str(path.relative_to(_ROOT)) for path in (_ROOT / "rrd_jax").rglob("*.py")}
    assert modules == {name for name in contents if name.endswith(".py")}
    assert "rrd_jax/py.typed" in contents


def test_twine_takes_it(wheel):
    pytest.importorskip("twine")
    archive = next(wheel.parent.glob("*.tar.gz"))
    _checked(sys.executable, "-m", "twine", "check", "--strict", wheel, archive)


def test_every_way_to_ask_for_jax_excludes_the_version_that_is_wrong_on_a_cpu(about):
    needs = [need for need in about.get_all("Requires-Dist") if re.match(r"jax\b", need)]
    assert len(needs) == 5  # itself, cuda12, cuda13, tpu, test
    assert all("!=0.10.2" in need for need in needs)


def test_the_description_has_no_link_that_an_index_cannot_follow(about):
    text = about.get_payload()
    for words in re.findall(r"!\[([^\]]+)\]\(docs/", (_ROOT / "README.md").read_text()):
        assert f"*{words}.*" in text  # of a picture, what it shows
    links = re.findall(r"\]\(([^)\s]+)", text)
    links += re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)
    links += re.findall(r"""(?:href|src)=["']([^"']+)""", text)
    assert "https://arxiv.org/abs/2407.12073" in links
    assert not [link for link in links if not link.startswith(("https://", "#"))]


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """A folder of another project, which has `configs` too, and programs of a new environment."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = folder / "environment"
    _checked(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin/python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    _checked(*pip, "--no-deps", "--no-index", wheel)
    # The libraries come from this environment. Its own .pth files are not read, so nothing leads
    # to the repository.
    (site_packages,) = environment.glob("lib/python*/site-packages")
    libraries = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (site_packages / "libraries.pth").write_text("\n".join(sorted(libraries)))
    project = folder / "project"
    (project / "configs").mkdir(parents=True)
    for name in ("__init__", "common", "fields"):
        (project / f"configs/{name}.py").write_text("raise ImportError('of another project')\n")
    shutil.copy(_ROOT / "configs/digits.py", project / "launch.py")
    module = _checked(python, "-c", "import rrd_jax; print(rrd_jax.__file__)", cwd=project).stdout
    assert module.startswith(str(environment))
    return project, python, environment / "bin/rrd-jax"


@pytest.mark.parametrize(
    ("argument", "code", "text"),
    [("--help", 0, "--workdir: "), ("--config=launch.py:rdd", 1, "did you mean 'rrd'")],
)
def test_the_command_answers_as_the_module_does(argument, code, text, elsewhere):
    project, python, command = elsewhere
    answer = _run(command, argument, cwd=project)
    answer_of_module = _run(python, "-m", "rrd_jax.main", argument, cwd=project)
    assert answer.returncode == answer_of_module.returncode == code
    assert answer.stdout == answer_of_module.stdout
    assert answer.stderr == answer_of_module.stderr
    assert text in answer.stdout + answer.stderr


@pytest.mark.long
def test_a_copied_config_trains_in_a_folder_that_has_configs_of_its_own(elsewhere):
    project, python, command = elsewhere
    config = "--config=launch.py:smoke,resnet8-resnet8,rrd+kd"
    _checked(command, config, "--workdir=run", cwd=project)
    rows = json.loads((project / "run/results.json").read_text())
    assert [row["model"] for row in rows] == ["resnet8", "resnet8", "resnet8"]
    catalogue = _checked(python, "-m", "rrd_jax.objectives", cwd=project).stdout
    assert "2407.12073" in catalogue
