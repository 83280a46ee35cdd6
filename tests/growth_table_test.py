import json
import subprocess
import sys

import numpy as np
import pytest

from experiments import growth_curves, growth_table


def _curve(costs, **others):
    """Three rounds around the costs, by what grows, as growth.json has them."""
    seconds = {str(at): [0.9 * cost, cost, 1.2 * cost] for at, cost in costs.items()}
    return {"seconds": seconds, **others}


def test_the_slope_is_the_exponent_of_a_power():
    x = [1024, 4096, 16_384, 65_536]
    assert growth_table.slope(x, [3e-6 * at**0.75 for at in x]) == pytest.approx(0.75)
    assert growth_table.slope([1, 2, 4], [5, 5, 5]) == pytest.approx(0)


def test_the_line_has_a_start_and_a_cost_of_each():
    start, each = growth_table.line([1, 10, 20], [4 + 0.5 * at for at in (1, 10, 20)])
    assert (start, each) == pytest.approx((4, 0.5))


def test_the_summary_tells_growth_in_its_upper_half_from_a_fixed_cost():
    curve = _curve({8: 1.0, 16: 1.0, 32: 1.0, 64: 2.0, 128: 4.0})
    *_, row = growth_table.summary({"batch": curve}).split("\n")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["a step", "images a step", "8", "128", "4.00"]
    assert cells[5:] == ["0.50", "1.00"]


def test_details_are_relative_to_the_first_point_and_have_temporaries_where_known():
    curve = _curve({1024: 0.01, 4096: 0.03}, temporaries={"1024": 2e6, "4096": 3e6})
    header, _, first, last = growth_table.details("memory", curve).split("\n")
    assert "temporaries, MB" in header
    assert [cell.strip() for cell in first.strip("|").split("|")] == [
        *("1,024", "1.00", "1.00", "0.90 to 1.20", "2.0")
    ]
    assert [cell.strip() for cell in last.strip("|").split("|")] == [
        *("4,096", "3.00", "0.75", "0.90 to 1.20", "3.0")
    ]
    named = _curve({100: 1.0, 200: 1.5}, names={"100": "resnet8", "200": "resnet14"})
    assert "| 200 (resnet14) " in growth_table.details("student", named)


def test_remarks_say_how_many_epochs_a_start_is_worth():
    curve = _curve({at: 6 + 0.5 * at for at in (1, 10, 20)}, cold=10.5)
    (line,) = growth_table.remarks({"batch": _curve({1: 1.0, 2: 2.0}), "epochs": curve})
    assert "the start is worth 12.0 of them, 20.0 where nothing is compiled yet" in line
    assert line.endswith("the line is off by 0 % at most.")


def test_the_picture_has_axes_for_each_curve_and_a_line_in_proportion(tmp_path):
    pytest.importorskip("matplotlib")
    curves = {name: _curve({1: 1.0, 2: 2.0, 4: 3.0}) for name in growth_table.KINDS}
    figure = growth_table.picture(curves)
    assert len(figure.axes) == len(curves)
    measured, *_, proportion = figure.axes[0].lines
    np.testing.assert_allclose(measured.get_ydata(), [1, 2, 3])
    np.testing.assert_allclose(proportion.get_ydata(), [1, 2, 4])
    figure.savefig(tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size < 200_000


def test_there_is_a_measurement_for_each_kind_of_curve():
    assert growth_curves.CURVES.keys() == growth_table.KINDS.keys()


def _run(tmp_path, *options):
    command = [sys.executable, "-m", "experiments.growth", "--smoke", f"--workdir={tmp_path}"]
    return subprocess.run([*command, *options], capture_output=True, text=True)


def test_an_unknown_curve_is_one_line(tmp_path):
    done = _run(tmp_path, "--curves=memroy")
    assert done.returncode == 2
    assert "unknown curve 'memroy'; did you mean 'memory'?" in done.stderr
    assert len(done.stderr.strip().split("\n")) == 1


@pytest.mark.long
def test_every_curve_is_measured_and_kept(tmp_path):
    pytest.importorskip("matplotlib")
    done = _run(tmp_path, "--rounds=1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "growth.md").read_text().strip() in done.stdout
    assert (tmp_path / "growth.png").stat().st_size < 200_000
    kept = json.loads((tmp_path / "growth.json").read_text())
    assert kept.keys() == growth_table.KINDS.keys()
    for curve in kept.values():
        assert len(curve["seconds"]) == 2
        assert all(rounds[0] > 0 for rounds in curve["seconds"].values())
