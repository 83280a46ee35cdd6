"""Tables in Markdown that fit the terminal."""

import re

import pytest

from rrd_jax.terminal import tables

_HEADER = ["run", "network", "test top-1, last epoch", "checkpoints"]
_ROWS = [["student alone", "resnet8", "93.10", "/runs/digits/alone"], ["x", "y", "", "数字" * 9]]


def test_markdown_is_aligned_for_wide_characters_too():
    assert tables.markdown(["a", "long"], [["wide cell", "1"], ["数字", "2"]]).split("\n") == [
        "| a         | long |",
        "|-----------|------|",
        "| wide cell | 1    |",
        "| 数字      | 2    |",
    ]


@pytest.mark.parametrize("columns", [*range(8, 40), 60, 70, 80, 200])
def test_a_table_fits_any_width_and_contains_all_words(columns):
    text = tables.fitted(_HEADER, _ROWS, columns)
    assert max(map(tables.cells, text.split("\n"))) <= columns
    content = re.sub(r"[|\s]", "", text)
    for cell in (*_HEADER[1:], "resnet8", "93.10"):
        assert all(word in content for word in cell.split())


def test_the_width_decides_between_markdown_wrapped_cells_and_a_line_per_cell():
    assert tables.fitted(_HEADER, _ROWS, 200) == tables.markdown(_HEADER, _ROWS)
    rows = [["student alone", "resnet8", "93.10", "runs/a"]]
    wrapped = tables.fitted(_HEADER, rows, 60).split("\n")
    assert [line.count("|") for line in wrapped] == [5] * len(wrapped)
    assert tables.fitted(_HEADER, rows, 40).split("\n") == [
        "student alone",
        "  network: resnet8",
        "  test top-1, last epoch: 93.10",
        "  checkpoints: runs/a",
    ]


@pytest.mark.parametrize("empty", ["", "-", "–"])
def test_empty_columns_are_omitted_except_the_first(empty):
    header, rows = ["run", "top-1", "loss", "size"], [["-", empty, "1", "-"], ["-", "-", "-", "7"]]
    short = tables.without_empty_columns(header, rows)
    assert short == (["run", "loss", "size"], [["-", "1", "-"], ["-", "-", "7"]])
    assert tables.without_empty_columns(header, []) == (header, [])
