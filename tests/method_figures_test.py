"""The figures of docs/how_rrd_works.md."""

import pathlib
import re

import numpy as np
import pytest

from experiments import method_figures
from rrd_jax.terminal import drawing

pytest.importorskip("matplotlib")
_IMAGES = pathlib.Path(__file__).parent.parent / "docs" / "images"


def test_the_queue_of_the_figure_is_written_in_turn():
    history = method_figures.queue_history(size=5, batch=2, steps=4)
    assert history.tolist() == [
        [0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 2, 2, 0],
        [3, 1, 2, 2, 3],
        [3, 4, 4, 2, 3],
    ]


def test_a_softmax_is_spread_over_all_rows_or_over_one():
    similarities = np.linspace(-1, 1, 50)
    hot, cold = (method_figures.shares(similarities, t) for t in (1e3, 1e-4))
    assert method_figures.effective(hot) == pytest.approx(50, rel=1e-3)
    assert method_figures.effective(cold) == pytest.approx(1)
    assert hot.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.long
def test_figures_are_drawn_of_any_relations(tmp_path):
    rng = np.random.default_rng(0)
    teacher = rng.uniform(0, 1, 300)
    relations = method_figures.Relations(
        rng.integers(0, 256, (8, 8)), rng.integers(0, 256, (300, 8, 8)), teacher, 0.4 * teacher
    )
    for name, make in method_figures.makers(relations).items():
        drawing.write(make, tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").read_text().count("<path") > 10
        assert (_IMAGES / f"{name}.svg").exists()


def test_the_page_shows_every_figure():
    page = (_IMAGES.parent / "how_rrd_works.md").read_text()
    shown = set(re.findall(r"\(images/(rrd_\w+)\.svg\)", page))
    assert shown == {path.stem for path in _IMAGES.glob("rrd_*.svg")}
