"""The pages of docs/: each block of docs/extending.md runs as it stands, and so do the examples."""

import doctest
import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _run(command, folder):
    """What a command prints that runs with this interpreter as `python`."""
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path}
    outcome = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=env, capture_output=True, text=True
    )
    assert outcome.returncode == 0, f"{command}\n{outcome.stdout}{outcome.stderr}"
    return outcome.stdout


def _blocks():
    """{the file or command of a block: (language, text)} of docs/extending.md."""
    blocks = {}
    for language, text in _BLOCK.findall((_ROOT / "docs" / "extending.md").read_text()):
        first = text.splitlines()[0]
        name = first.removeprefix("# ") if language == "python" else first
        blocks[f"{len(blocks)}: {name}"] = (language, text)
    return blocks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a reader of docs/extending.md works: its modules, and the launch files."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "configs").symlink_to(_ROOT / "configs")
    for language, text in _blocks().values():
        if language == "python":
            (folder / text.splitlines()[0].removeprefix("# ")).write_text(text)
    return folder


@pytest.mark.long
@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize("name", [n for n, (language, _) in _blocks().items() if language == "sh"])
def test_a_command_of_the_page_on_extending_runs_as_it_stands(name, folder):
    _run(_blocks()[name][1], folder)


def test_every_module_of_the_page_on_extending_is_used_by_a_command():
    blocks = _blocks().values()
    commands = " ".join(text for language, text in blocks if language == "sh")
    modules = [text.splitlines()[0] for language, text in blocks if language == "python"]
    assert len(modules) > 8
    for first in modules:
        assert re.fullmatch(r"# \w+\.py", first)
        assert first.removeprefix("# ").removesuffix(".py") in commands


@pytest.mark.long
def test_the_page_on_predicting_runs_as_it_stands(tmp_path):
    (tmp_path / "configs").symlink_to(_ROOT / "configs")
    for language, text in _BLOCK.findall((_ROOT / "docs" / "predicting.md").read_text()):
        command = text if language == "sh" else f"python - <<'EOF'\n{text}EOF\n"
        _run(command, tmp_path)
    assert len((tmp_path / "best.txt").read_text().splitlines()) == 100
    assert len((tmp_path / "digits.csv").read_text().splitlines()) == 101


@pytest.mark.long
def test_the_python_of_the_page_on_data_runs_as_it_stands(tmp_path):
    blocks = _BLOCK.findall((_ROOT / "docs" / "data.md").read_text())
    programs = [text for language, text in blocks if language == "python"]
    assert len(programs) > 2
    for text in programs:
        _run(f"python - <<'EOF'\n{text}EOF\n", tmp_path)


@pytest.mark.long
def test_the_page_on_studies_runs_as_it_stands(tmp_path):
    """But for the command that needs a cluster."""
    for name in ("configs", "experiments"):
        (tmp_path / name).symlink_to(_ROOT / name)
    for language, text in _BLOCK.findall((_ROOT / "docs" / "studies.md").read_text()):
        if language == "python":
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
        elif "slurm" not in text:
            said = _run(text, tmp_path)
    assert "Does a sharper teacher" in said
    assert len(list((tmp_path / "runs" / "mine" / "runs").iterdir())) == 6


@pytest.mark.long
def test_make_unlabelled_is_on_its_page_and_ends_with_what_its_student_is_worth(tmp_path):
    ready, home = tmp_path / ".venv" / "ready", tmp_path / "runs"
    made = _run(
        f"make --no-print-directory -n -o {ready} unlabelled VENV={ready.parent} UNLABELLED={home}",
        _ROOT,
    )
    commands = made.replace(f"{ready.parent}/bin/python", "python")
    page = (_ROOT / "docs" / "unlabelled.md").read_text()
    for command in commands.replace(str(home), "runs/unlabelled").split("python")[1:]:
        assert command.rstrip() in page
    first, second = (f"python{part.rstrip()}" for part in commands.split("python")[1:])
    short = "--config.train.epochs=2"
    said = _run(f"{first} {short} --config.teacher.epochs=2", _ROOT)
    rows = re.findall(r"^\| ([a-z, ]+) .* (\d\d\.\d\d) +\| \d\d\.\d\d +\|$", said, re.MULTILINE)
    top1 = {name.strip(): float(figure) for name, figure in rows}
    assert top1["random weights"] < top1["distilled, rrd"] < top1["teacher"], said
    said = _run(f"{second} {short}", _ROOT)
    assert re.search(r"^\| student +\|.* [+-]\d+\.\d\d ", said, re.MULTILINE), said


def test_a_loop_of_ones_own_takes_fewer_than_thirty_lines():
    path = _ROOT / "docs" / "examples" / "own_loop.py"
    losses = [float(line.split()[-1]) for line in _run(f"python {path}", _ROOT).splitlines()]
    assert losses == sorted(losses, reverse=True)
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len([line for line in lines if not line.strip().startswith(("#", '"""'))]) < 30


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    "name",
    [
        *(
            "library.training",
            "library.loading",
            "library.evaluating",
            "objectives",
            "objectives.rrd",
            "memory",
        ),
        *("data.dataset", "networks", "networks.brought.linen", "networks.brought.nnx"),
        *("networks.brought.equinox", "networks.brought.functions"),
    ],
)
def test_examples_in_docstrings_print_what_they_say(name):
    failed, count = doctest.testmod(
        importlib.import_module(f"rrd_jax.{name}"),
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert not failed
    assert count


def test_the_readme_is_short():
    text = (_ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    for page in re.findall(r"docs/[\w./]+", text):
        assert (_ROOT / page).exists(), page
