"""The pages of docs/ that lead somebody: their commands run, and all name fields that exist.

A block that needs what a test has not, such as a GPU or a file of weights, is marked on the line
before it: <!-- needs ... -->.
"""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from rrd_jax.config import parse

_ROOT = pathlib.Path(__file__).parent.parent
_BLOCK = re.compile(r"^(<!-- needs [^\n]*-->\n)?```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Pages whose blocks run here or in docs_test.py, and modules whose commands other tests run.
_GUIDES = ("quickstart", "own_teacher", "caches", "how_rrd_works")
_RUN = (*_GUIDES, "extending", "predicting", "studies")
_TESTED = re.compile(r"-m rrd_jax\.(main|objectives|networks) ?|^--config|^'--config|^#")
# Trainings that take minutes, made short.
_SHORT = {
    "--config=configs/digits.py --workdir=runs/digits": "--config.train.epochs=1"
    " --config.teacher.epochs=1 --config.teacher.train_split=train[:200]",
    "--workdir=runs/digits --report": "--seconds=0",
}


def _blocks(page):
    """(language, text) of a page's blocks that can run here."""
    for needs, language, text in _BLOCK.findall((_ROOT / "docs" / f"{page}.md").read_text()):
        if not needs:
            yield language, text


def _lines(text):
    """The commands of a block, each whole; what is fed to one belongs to it."""
    text = re.sub(r"<<'END'\n(.*?)^END$", r"<<'END'\0\1END", text, flags=re.DOTALL | re.MULTILINE)
    fed = re.sub(r"\0.*?END", lambda found: found[0].replace("\n", "\0"), text, flags=re.DOTALL)
    return [line.replace("\0", "\n") for line in fed.replace("\\\n", " ").splitlines() if line]


def _run(line, commands, folder):
    words = shlex.split(line.split("<<")[0])
    if "<<" not in line and words[:2] == ["python", "-m"]:
        short = (more for part, more in _SHORT.items() if part in line)
        extra = [word for more in short for word in more.split()]
        done = commands.run(*words[3:], *extra, module=words[2], cwd=folder)
        assert done.code == 0, f"{line}\n{done.out}{done.err}"
    else:
        program = line.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
        subprocess.run(["bash", "-ec", program], cwd=folder, check=True, capture_output=True)


@pytest.mark.long
@pytest.mark.parametrize("page", _GUIDES)
def test_the_commands_of_a_guide_run_one_after_the_other(page, commands, tmp_path):
    pytest.importorskip("altair")
    pytest.importorskip("onnxruntime")
    for name in ("configs", "experiments"):
        (tmp_path / name).symlink_to(_ROOT / name)
    run = list(_blocks(page))
    assert run
    for language, text in run:
        if language == "python":
            (tmp_path / "block.py").write_text(text)
            _run("python block.py", commands, tmp_path)
        else:
            for line in _lines(text):
                _run(line, commands, tmp_path)


@pytest.mark.parametrize("page", sorted((_ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_a_block_runs_in_a_test_or_says_what_it_needs(page):
    for needs, language, text in _BLOCK.findall(page.read_text()):
        if needs or page.stem in _RUN or (page.stem, language) == ("data", "python"):
            continue
        assert language in ("sh", "text"), text
        lines = text.replace("\\\n", " ").splitlines()
        assert all(map(_TESTED.search, filter(None, lines))), text


def _trainings():
    """(page, arguments) of each command on any page that trains or tests."""
    pages = [*sorted((_ROOT / "docs").glob("*.md")), _ROOT / "README.md"]
    for page in pages:
        for _, language, text in _BLOCK.findall(page.read_text()):
            for line in text.replace("\\\n", " ").splitlines() if language == "sh" else ():
                found = re.search(r"-m rrd_jax\.main ([^'\n]*('[^']*'[^'\n]*)*)", line)
                if found and "my_" not in line:  # modules of extending.md, whose commands all run
                    arguments = shlex.split(found[1].split("> ")[0], comments=True)
                    yield pytest.param(arguments, id=f"{page.stem}: {' '.join(arguments)[:60]}")


@pytest.mark.parametrize("arguments", _trainings())
def test_a_command_names_a_config_and_fields_that_exist(arguments, monkeypatch):
    import rrd_jax.main

    given = [word for word in arguments if word.startswith("--config")]
    for word in arguments:
        name = word.removeprefix("--").partition("=")[0]
        assert word in given or name in flags.FLAGS or not word.startswith("--"), word
    assert rrd_jax.main.CONFIG.name in flags.FLAGS
    monkeypatch.chdir(_ROOT)
    monkeypatch.setattr(sys, "argv", ["python", *given])  # where ml_collections looks for fields
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values)
    values(sys.argv)
    if "--config.teacher.model=" not in given:  # a folder names its network, and is not there
        parse(config.value, asked=config_flags.get_override_values(values["config"]))
