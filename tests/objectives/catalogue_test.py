import inspect
import subprocess
import sys

from rrd_jax import objectives
from rrd_jax.objectives import __main__ as program


def _cells():
    lines = program.table().split("\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


def test_the_catalogue_has_a_row_for_each_objective():
    cells = _cells()
    assert list(cells) == list(objectives.OBJECTIVES) == list(program.NOTES)
    assert all(row["compares"] for row in cells.values())


def test_sizes_stages_and_recipes_are_those_of_the_benchmark():
    cells = _cells()
    layer = 256 * 128 + 128
    assert cells["rrd"]["trained"] == cells["rrd"]["frozen"] == f"{layer:,}"
    assert cells["crd"]["trained"] == f"{2 * layer:,}"
    assert cells["rrd"]["memory"] == "8.39 MB"  # 16 384 x 128 float32
    assert cells["sp"]["memory"] == "-"
    assert cells["ft"]["stage before"] == "30 epochs of its own layers"
    assert cells["ab"]["stage before"] == "30 epochs of the student"
    assert cells["kd"]["method of that name"] == "0.1 ce + 0.9 kd"
    assert cells["semckd"]["method of that name"] == "1 ce + 1 kd + 400 semckd"
    assert cells["ssim"]["method of that name"] == "1 ce + 1 ssim (weight unverified)"


def test_references_are_those_of_the_docstrings():
    for name, (_, reference) in program.NOTES.items():
        source = inspect.getsource(inspect.getmodule(objectives.OBJECTIVES[name]))
        assert name == "ce" or reference in source


def test_the_program_prints_the_table_and_the_combined_methods():
    command = [sys.executable, "-m", "rrd_jax.objectives"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert program.table() in done.stdout
    assert "crd+kd is 1 ce + 1 kd + 0.8 crd" in done.stdout
    assert not done.stderr
