"""Lines and tables of whole commands: names of runs, columns, time left."""

import json
import pathlib
import re

import pytest

from tests.data import folders

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def teacher(commands, tmp_path_factory):
    """The output of a teacher that is trained on its own, and its workdir."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    outcome = commands.run("--config=configs/digits.py:resnet8,smoke", f"--workdir={folder}")
    assert outcome.code == 0, outcome.err
    return outcome.out, folder


def _table(text: str) -> dict[str, dict[str, str]]:
    """Returns the rows of the last table by name."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_a_teacher_trained_on_its_own_is_called_teacher(teacher, commands, tmp_path):
    out, _ = teacher
    assert not re.search(r"\[student\]|student ", out)
    (row,) = _table(out).values()
    assert (row["run"], row["network"]) == ("teacher", "resnet8")
    assert "agreement with teacher" not in row
    assert out.count("memory per device") == 1
    assert re.search(r"\[teacher\] epoch +1/2 .* \d+:\d\d left\n", out)
    flags = ("--config=configs/digits.py:resnet8,ce,smoke", "--config.train.epochs=1")
    assert "[student] epoch" in commands.run(*flags, f"--workdir={tmp_path}").out


def test_the_table_has_the_row_of_a_teacher_from_a_checkpoint(teacher, commands, tmp_path):
    _, folder = teacher
    flags = (
        "--config=configs/digits.py:resnet8-resnet8,smoke,kd",
        "--config.train.epochs=1",
        f"--config.teacher.checkpoint={folder}@best",
        f"--workdir={tmp_path}",
    )
    for _ in range(2):
        outcome = commands.run(*flags)
        assert outcome.code == 0, outcome.err
        row = _table(outcome.out)["teacher"]
        best = float(_table(teacher[0])["teacher"]["best by test images (epoch)"].split()[0])
        assert float(row["test top-1, last epoch"]) == best
        assert pathlib.Path(row["checkpoints"]) == pathlib.Path(f"{folder}@best")


def test_a_folder_is_called_by_its_name(commands, tmp_path):
    root = tmp_path / "my photos"
    folders.fill(root, number=20)
    config = "--config=configs/image_folder.py:resnet8"
    size = ("--config.data.image_size=8", "--config.train.batch_size=4", "--config.train.epochs=1")
    flags = (config, f"--config.data.manual_dir={root}", *size, f"--workdir={tmp_path / 'run'}")
    outcome = commands.run(*flags)
    assert outcome.code == 0, outcome.err
    card = (tmp_path / "run" / "README.md").read_text()
    assert "- data: `my photos`" in card
    assert "image_folder/" not in card + outcome.out
    stored = json.loads((tmp_path / "run" / "model.json").read_text())["training"]
    assert stored["dataset"].startswith("image_folder/")
