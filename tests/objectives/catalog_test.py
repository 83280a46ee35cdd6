import subprocess
import sys

from rrd_jax import objectives
from rrd_jax.objectives import __main__ as catalog
from rrd_jax.terminal import tables


def _cells(text):
    lines = text.split("\n\n")[0].split("\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


def test_the_catalog_has_a_row_for_each_objective_and_the_sizes_of_the_benchmark():
    cells = _cells(tables.markdown(*catalog.table()))
    assert list(cells) == list(objectives.OBJECTIVES)
    layer = 256 * 128 + 128
    assert cells["rrd"]["trained"] == cells["rrd"]["frozen"] == f"{layer:,}"
    assert cells["crd"]["trained"] == f"{2 * layer:,}"
    # The memory is float32 [16384, 128].
    assert cells["rrd"]["memory"] == "8.39 MB"
    assert cells["sp"]["memory"] == "-"
    assert cells["ft"]["stage before"] == "30 epochs of its own layers"
    assert cells["ab"]["stage before"] == "30 epochs of the student"
    assert cells["kd"]["method of that name"] == "0.1 ce + 0.9 kd"
    assert cells["semckd"]["method of that name"] == "1 ce + 1 kd + 400 semckd"
    assert cells["ssim"]["method of that name"] == "1 ce + 1 ssim (weight unverified)"
    assert cells["dkd"]["compares"] == objectives.RECORDS["dkd"].compares


def test_the_program_prints_the_table_and_the_combined_methods():
    command = [sys.executable, "-m", "rrd_jax.objectives"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert list(_cells(process.stdout)) == list(objectives.OBJECTIVES)
    assert "crd+kd is 1 ce + 1 kd + 0.8 crd" in process.stdout
    assert not process.stderr
