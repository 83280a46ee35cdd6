"""Pages of docs/: code blocks run unless a comment gives a reason, and links are valid."""

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
    """Returns the output of a shell command, with this interpreter as `python`."""
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path}
    outcome = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=env, capture_output=True, text=True
    )
    assert outcome.returncode == 0, f"{command}\n{outcome.stdout}{outcome.stderr}"
    return outcome.stdout


def _check_predictions(folder, output):
    assert len((folder / "best.txt").read_text().splitlines()) == 100
    assert len((folder / "digits.csv").read_text().splitlines()) == 101


def _check_studies(folder, output):
    assert "Does a sharper teacher" in output
    assert len(list((folder / "runs" / "mine" / "runs").iterdir())) == 3


# Additional checks of the files and the output of a page.
_CHECKS = {"docs/predicting.md": _check_predictions, "docs/compare_methods.md": _check_studies}
_PAGES_WITH_CODE = sorted(
    {block.page for block in _BLOCKS if block.language in pages.EXECUTED and not block.mark}
)


# Flags that shorten commands that would take minutes.
_SHORT = {
    "--config=configs/digits.py --workdir=runs/digits": "--config.train.epochs=1"
    " --config.teacher.epochs=1 --config.teacher.train_split=train[:200]",
    "--config.train.epochs=3": "--config.train.epochs=1",
    "--config.train.epochs=20": "--config.train.epochs=2",
    "--study=my_study.py --workdir=runs/mine": "--seeds=1",
}


@pytest.mark.long
@pytest.mark.parametrize("page", _PAGES_WITH_CODE)
def test_the_blocks_of_a_page_run(page, commands, tmp_path):
    """Blocks run in one folder; a Python block with a file name is written to that file."""
    for name in ("configs", "experiments", "docs"):
        (tmp_path / name).symlink_to(_ROOT / name)
    blocks = [b for b in pages.blocks(page) if b.language in pages.EXECUTED and not b.mark]
    for block in blocks:
        if block.module:
            (tmp_path / block.module).write_text(block.text)
    output = ""
    for block in blocks:
        if block.language == "sh":
            output += "".join(
                _run_line(line, commands, tmp_path) for line in pages.lines(block.text)
            )
        elif not block.module:
            (tmp_path / "block.py").write_text(block.text)
            output += _run_line("python block.py", commands, tmp_path)
    _CHECKS.get(page, lambda *_: None)(tmp_path, output)


def _run_line(line, commands, folder):
    """Returns the output of a line; modules and files run in a process with the imports done."""
    module = pages.module_arguments(line)
    if line.startswith("python ") and line.endswith(".py"):
        module = [str(folder / line.removeprefix("python "))]
    if not module:
        return _run(line, folder)
    extra_flags = [text for part, text in _SHORT.items() if part in line]
    if module[0] == "rrd_jax.main" and "configs/digits.py" in line:
        # The page of compared methods trains a student alone.
        extra_flags.append("--config.baseline=False")
    outcome = commands.run(
        *module[1:], *" ".join(extra_flags).split(), module=module[0], cwd=folder
    )
    assert outcome.code == 0, f"{line}\n{outcome.out}{outcome.err}"
    return outcome.out


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_block_with_a_mark_has_a_reason_or_another_test(page):
    for block in pages.blocks(page):
        if block.mark.startswith("run by "):
            assert (_ROOT / block.mark.removeprefix("run by ")).is_file(), block
        else:
            assert re.fullmatch("needs .+", block.mark) or not block.mark, block


def _unrun_commands():
    blocks = [b for b in _BLOCKS if b.mark and b.language == "sh"]
    blocks += [b for b in pages.blocks("README.md") if b.language == "sh"]
    for block in blocks:
        for i, words in enumerate(pages.commands(block.text)):
            yield pytest.param(words, id=f"{block.page}:{block.line}-{i}")


def _config_error(fields, explicit):
    try:
        config.parse(fields, explicit=explicit)
    except errors.InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("command", _unrun_commands())
def test_a_command_that_tests_do_not_run_has_valid_modules_flags_and_fields(command, monkeypatch):
    module, *arguments = command
    assert importlib.util.find_spec(module)
    if module != "rrd_jax.main":
        return
    monkeypatch.chdir(_ROOT)
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=[module, *arguments]
    )
    main_flags = values([module, *arguments], known_only=True)[1:]
    overrides = [word for word in arguments if word.startswith("--config")]
    message = _config_error(holder.value, [word.partition("=")[0][9:] for word in overrides])
    # Tests do not have the folders of networks that the pages name.
    assert not message or "does not exist" in message
    flag_names = re.findall(
        r"(?:DEFINE_\w+|define_path)\(\s*\"(\w+)\"", (_ROOT / "rrd_jax" / "main.py").read_text()
    )
    for word in main_flags:
        assert word.removeprefix("--").partition("=")[0] in flag_names, word


@pytest.mark.parametrize("page", _TEXTS)
def test_links_of_a_page_lead_to_files_and_anchors_of_the_repository(page):
    text = (_ROOT / page).read_text()
    for link in links.links(text):
        path = _ROOT / links.target(page, link)
        # Only GitHub shows folders; the site does not.
        assert path.is_file() or (page not in pages.PAGES and path.exists()), link.target
        if link.anchor and path.suffix == ".md":
            assert link.anchor in links.anchors(path.read_text()), link.target


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_figures_of_the_architecture_are_up_to_date(name):
    assert (_ROOT / "docs" / "images" / name).read_text() == drawings.DRAWINGS[name]()


@pytest.mark.long
def test_make_unlabelled_matches_its_page_and_compares_student_and_teacher(commands, tmp_path):
    ready, home = tmp_path / ".venv" / "ready", tmp_path / "runs"
    output = _run(
        f"make --no-print-directory -n -o {ready} unlabelled VENV={ready.parent} UNLABELLED={home}",
        _ROOT,
    )
    text = output.replace(f"{ready.parent}/bin/python", "python")
    page = (_ROOT / "docs" / "unlabelled.md").read_text()
    for command in text.replace(str(home), "runs/unlabelled").split("python")[1:]:
        assert command.rstrip() in page
    first, second = pages.lines(text)
    short = "--config.train.epochs=2"
    output = _run_line(f"{first} {short} --config.teacher.epochs=2", commands, _ROOT)
    rows = re.findall(r"^\| ([a-z, ]+) .* (\d\d\.\d\d) +\| \d\d\.\d\d +\|$", output, re.MULTILINE)
    top1 = {name.strip(): float(value) for name, value in rows}
    assert top1["random weights"] < top1["distilled, rrd"] < top1["teacher"], output
    output = _run_line(f"{second} {short}", commands, _ROOT)
    assert re.search(r"^\| student +\|.* [+-]\d+\.\d\d ", output, re.MULTILINE), output


def test_the_custom_training_loop_learns_in_fewer_than_thirty_lines(commands):
    path = _ROOT / "docs" / "examples" / "training_loop.py"
    output = _run_line(f"python {path}", commands, _ROOT)
    losses = [float(line.split()[-1]) for line in output.splitlines()]
    assert losses == sorted(losses, reverse=True)
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len([line for line in lines if not line.strip().startswith(("#", '"""'))]) < 30


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    "name",
    [
        "library.distillation",
        "library.weights_loader",
        "library.accuracy",
        "objectives",
        "objectives.rrd",
        "objectives.parts.memory",
        "data.dataset",
        "networks",
        "networks.custom.linen",
        "networks.custom.nnx",
        "networks.custom.equinox",
        "networks.custom.functions",
    ],
)
@pytest.mark.long
def test_examples_in_docstrings_print_their_output(name):
    failed, count = doctest.testmod(
        importlib.import_module(f"rrd_jax.{name}"),
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert not failed
    assert count
