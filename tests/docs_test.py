"""The pages of docs/: blocks run as they stand, or a comment says why not; links lead somewhere."""

import doctest
import importlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from docs.making import drawings, links
from rrd_jax import config, errors
from tests import pages

_ROOT = pages.ROOT
_TEXTS = sorted({*pages.PAGES, *(path.name for path in _ROOT.glob("*.md"))})
_BLOCKS = [block for page in pages.PAGES for block in pages.blocks(page)]


def _run(command, folder):
    """What a command prints that runs with this interpreter as `python`."""
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path}
    outcome = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=env, capture_output=True, text=True
    )
    assert outcome.returncode == 0, f"{command}\n{outcome.stdout}{outcome.stderr}"
    return outcome.stdout


def _after_predicting(folder, said):
    assert len((folder / "best.txt").read_text().splitlines()) == 100
    assert len((folder / "digits.csv").read_text().splitlines()) == 101


def _after_studies(folder, said):
    assert "Does a sharper teacher" in said
    assert len(list((folder / "runs" / "mine" / "runs").iterdir())) == 6


# What pages leave behind, beside what their commands demand of themselves.
_AFTER = {"docs/predicting.md": _after_predicting, "docs/compare_methods.md": _after_studies}
_RUN = sorted(
    {block.page for block in _BLOCKS if block.language in pages.EXECUTED and not block.mark}
)


# Commands that take minutes, made short by these flags.
_SHORT = {
    "--config=configs/digits.py --workdir=runs/digits": "--config.train.epochs=1"
    " --config.teacher.epochs=1 --config.teacher.train_split=train[:200]",
}


@pytest.mark.long
@pytest.mark.parametrize("page", _RUN)
def test_a_page_runs_as_it_stands(page, commands, tmp_path):
    """Block by block, in one folder; a block of Python that names a file is that file."""
    for name in ("configs", "experiments", "docs"):
        (tmp_path / name).symlink_to(_ROOT / name)
    blocks = [b for b in pages.blocks(page) if b.language in pages.EXECUTED and not b.mark]
    for block in blocks:
        if block.module:
            (tmp_path / block.module).write_text(block.text)
    said = ""
    for block in blocks:
        if block.language == "sh":
            said += "".join(_run_line(line, commands, tmp_path) for line in pages.lines(block.text))
        elif not block.module:
            said += _run(f"python - <<'EOF'\n{block.text}EOF\n", tmp_path)
    _AFTER.get(page, lambda *_: None)(tmp_path, said)


def _run_line(line, commands, folder):
    """What a line of a shell prints; one that starts a module needs no shell, and no imports."""
    module = pages.module_arguments(line)
    if not module:
        return _run(line, folder)
    short = (more for part, more in _SHORT.items() if part in line)
    done = commands.run(*module[1:], *" ".join(short).split(), module=module[0], cwd=folder)
    assert done.code == 0, f"{line}\n{done.out}{done.err}"
    return done.out


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_block_that_no_page_test_runs_has_a_reason(page):
    for block in pages.blocks(page):
        if block.mark.startswith("run by "):
            assert (_ROOT / block.mark.removeprefix("run by ")).is_file(), block
        else:
            assert re.fullmatch("needs .+", block.mark) or not block.mark, block


def _unrun_commands():
    shown = [b for b in _BLOCKS if b.mark and b.language == "sh"]
    shown += [b for b in pages.blocks("README.md") if b.language == "sh"]
    for block in shown:
        for i, words in enumerate(pages.commands(block.text)):
            yield pytest.param(words, id=f"{block.page}:{block.line}-{i}")


def _fault(fields, asked):
    try:
        config.parse(fields, explicit=asked)
    except errors.InputError as fault:
        return str(fault)
    return ""


@pytest.mark.parametrize("words", _unrun_commands())
def test_a_command_that_is_not_run_names_what_there_is(words, monkeypatch):
    module, *arguments = words
    assert importlib.util.find_spec(module)
    if module != "rrd_jax.main":
        return
    monkeypatch.chdir(_ROOT)
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=[module, *arguments]
    )
    rest = values([module, *arguments], known_only=True)[1:]
    given = [word for word in arguments if word.startswith("--config")]
    fault = _fault(holder.value, [word.partition("=")[0][9:] for word in given])
    assert not fault or "does not exist" in fault  # a folder that names the network
    known = re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", (_ROOT / "rrd_jax" / "main.py").read_text())
    for word in rest:
        assert word.removeprefix("--").partition("=")[0] in known, word


@pytest.mark.parametrize("page", _TEXTS)
def test_links_of_a_page_lead_to_files_and_anchors_of_the_repository(page):
    text = (_ROOT / page).read_text()
    for link in links.links(text):
        path = _ROOT / links.target(page, link)
        # Folders are for GitHub alone: the site has none.
        assert path.is_file() or (page not in pages.PAGES and path.exists()), link.target
        if link.anchor and path.suffix == ".md":
            assert link.anchor in links.anchors(path.read_text()), link.target


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_figures_of_the_architecture_are_as_drawn_and_true(name):
    assert (_ROOT / "docs" / "images" / name).read_text() == drawings.DRAWINGS[name]()


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
    path = _ROOT / "docs" / "examples" / "training_loop.py"
    losses = [float(line.split()[-1]) for line in _run(f"python {path}", _ROOT).splitlines()]
    assert losses == sorted(losses, reverse=True)
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len([line for line in lines if not line.strip().startswith(("#", '"""'))]) < 30


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    "name",
    [
        *(
            "library.distillation",
            "library.weights_loader",
            "library.accuracy",
            "objectives",
            "objectives.rrd",
            "objectives.parts.memory",
        ),
        *("data.dataset", "networks", "networks.custom.linen", "networks.custom.nnx"),
        *("networks.custom.equinox", "networks.custom.functions"),
    ],
)
@pytest.mark.long
def test_examples_in_docstrings_print_what_they_say(name):
    failed, count = doctest.testmod(
        importlib.import_module(f"rrd_jax.{name}"),
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert not failed
    assert count
