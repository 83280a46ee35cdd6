"""The built wheel, installed and used outside of the repository."""

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
# One group builds the wheel only once.
pytestmark = pytest.mark.xdist_group("wheel")


def _run(*command, cwd=None):
    """Runs a command without the repository on its Python path; returns the outcome."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=env)


def _run_checked(*command, cwd=None):
    outcome = _run(*command, cwd=cwd)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the source distribution without git and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    shutil.copytree(_ROOT / "rrd_jax", copy / "rrd_jax", ignore=lambda *_: ["__pycache__"])
    for name in ("configs", "experiments"):
        shutil.copytree(_ROOT / name, copy / name)
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.cfg", "setup.py"):
        shutil.copy(_ROOT / name, copy)
    _run_checked(sys.executable, "-c", _SDIST, folder, cwd=copy)
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
    _run_checked(sys.executable, "-m", "pip", "wheel", *options, source)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def contents(wheel):
    """The files of the wheel by name."""
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="module")
def about(contents):
    """The metadata of the wheel."""
    (name,) = (name for name in contents if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(contents[name])


def test_the_wheel_contains_one_complete_typed_package(contents):
    (top,) = {name.split("/")[0] for name in contents if ".dist-info/" not in name}
    assert top == "rrd_jax"
    modules = {str(path.relative_to(_ROOT)) for path in (_ROOT / "rrd_jax").rglob("*.py")}
    assert modules == {name for name in contents if name.endswith(".py")}
    assert "rrd_jax/py.typed" in contents


def test_twine_accepts_the_wheel(wheel):
    pytest.importorskip("twine")
    archive = next(wheel.parent.glob("*.tar.gz"))
    _run_checked(sys.executable, "-m", "twine", "check", "--strict", wheel, archive)


def test_all_requirements_of_jax_exclude_the_version_with_wrong_results_on_a_cpu(about):
    requirements = [r for r in about.get_all("Requires-Dist") if re.match(r"jax\b", r)]
    # The package itself, cuda12, cuda13, tpu and test.
    assert len(requirements) == 5
    assert all("!=0.10.2" in requirement for requirement in requirements)


def test_all_links_of_the_description_are_absolute(about):
    text = about.get_payload()
    for alternative in re.findall(r"!\[([^\]]+)\]\(docs/", (_ROOT / "README.md").read_text()):
        # The description replaces each picture with its alternative text.
        assert f"*{alternative}.*" in text
    links = re.findall(r"\]\(([^)\s]+)", text)
    links += re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)
    links += re.findall(r"""(?:href|src)=["']([^"']+)""", text)
    assert "https://arxiv.org/abs/2407.12073" in links
    assert not [link for link in links if not link.startswith(("https://", "#"))]


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """Another project with a `configs` package, and the Python and command of a new environment."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = folder / "environment"
    _run_checked(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin/python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    _run_checked(*pip, "--no-deps", "--no-index", wheel)
    # The libraries come from the current environment, whose .pth files are not read, so the
    # repository is not importable.
    (site_packages,) = environment.glob("lib/python*/site-packages")
    libraries = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (site_packages / "libraries.pth").write_text("\n".join(sorted(libraries)))
    project = folder / "project"
    (project / "configs").mkdir(parents=True)
    for name in ("__init__", "common", "fields"):
        (project / f"configs/{name}.py").write_text("raise ImportError('of another project')\n")
    shutil.copy(_ROOT / "configs/digits.py", project / "launch.py")
    module = _run_checked(
        python, "-c", "import rrd_jax; print(rrd_jax.__file__)", cwd=project
    ).stdout
    assert module.startswith(str(environment))
    return project, python, environment / "bin/rrd-jax"


@pytest.mark.parametrize(
    ("argument", "code", "text"),
    [("--help", 0, "--workdir: "), ("--config=launch.py:rrdd", 1, "did you mean 'rrd'")],
)
def test_the_command_and_the_module_print_the_same(argument, code, text, elsewhere):
    project, python, command = elsewhere
    outcome = _run(command, argument, cwd=project)
    module_outcome = _run(python, "-m", "rrd_jax.main", argument, cwd=project)
    assert outcome.returncode == module_outcome.returncode == code
    assert outcome.stdout == module_outcome.stdout
    assert outcome.stderr == module_outcome.stderr
    assert text in outcome.stdout + outcome.stderr


@pytest.mark.long
def test_a_copied_config_trains_in_a_project_with_another_configs_package(elsewhere):
    project, python, command = elsewhere
    config = "--config=launch.py:smoke,resnet8-resnet8,rrd+kd"
    _run_checked(command, config, "--workdir=run", cwd=project)
    rows = json.loads((project / "run/results.json").read_text())
    assert [row["model"] for row in rows] == ["resnet8", "resnet8", "resnet8"]
    catalog = _run_checked(python, "-m", "rrd_jax.objectives", cwd=project).stdout
    assert "2407.12073" in catalog
