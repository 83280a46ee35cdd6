import pytest

from experiments import memory_loss_table
from rrd_jax import errors


def _seconds():
    """Of rounds in which ours is linear in K, and PyTorch takes twice as long, or half as long."""
    seconds = {"peak 0 0": [0.5] * 6}
    for rows in (1024, 4096):
        ours = [rows / 1024 * factor for factor in (1, 2, 4)]
        seconds |= {
            f"gradient 32 {rows}": ours,
            f"value 32 {rows}": [time / 2 for time in ours],
            f"eager 32 {rows}": [2 * time for time in ours],
            f"compiled 32 {rows}": [3 * time for time in ours],
            f"attention 32 {rows}": [time / 2 for time in ours],
        }
    return seconds


def test_the_table_has_medians_slopes_and_the_plain_form_that_is_fastest():
    lines = memory_loss_table.table(_seconds(), [(32, 1024), (32, 4096)], 128).split("\n")
    header, _, first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    first, second = (dict(zip(header, row, strict=True)) for row in (first, second))
    assert first["ours, ms"] == "2e+03"
    assert first["value alone"] == "1e+03"
    assert first["slope over K"] == ""
    assert second["slope over K"] == "1.00"
    assert first["eager"] == "2.00 (2.00 to 2.00)"
    assert first["attention"].startswith("0.50")
    assert first["compiled, lse"] == ""
    assert first["fastest plain"] == "**2.00**"
    # 8 B K D operations in 2 s, beside a product of 2 x 1 024^3 in half a second.
    share = 8 * 32 * 1024 * 128 / 2 / (2 * 1024**3 / 0.5)
    assert first["of the peak"] == f"{share:.0%}"


@pytest.mark.parametrize("size", ["32", "32x", "0x4", "axb", "32x-1"])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(errors.InputError, match=f"--sizes has '{size}'"):
        memory_loss_table.size(size)


def test_forms_that_keep_all_similarities_are_left_out_where_these_are_many():
    assert memory_loss_table.cases((256, 2**17), "torch") == [
        f"{form} 256 131072"
        for form in ("eager", "compiled", "compiled_lse", "chunks", "attention")
    ]
    assert memory_loss_table.cases((256, 2**20), "torch") == [
        f"{form} 256 1048576" for form in ("chunks", "attention")
    ]
