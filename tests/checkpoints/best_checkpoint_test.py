"""The best checkpoint of a run: retention and selection."""

import jax
import numpy as np
import pytest

from rrd_jax import checkpoints, errors
from tests.checkpoints.checkpoints_test import damage_state, make_state


def _run(folder, scores, *, first=1, best=0.0):
    """Saves one checkpoint per score, from step `first` on; None is a step within an epoch."""
    with checkpoints.Checkpoints(folder) as store:
        for step, score in enumerate(scores, first):
            best = max(best, score or 0.0)
            result = {"top1": score or best, "best_top1": best, "best_epoch": 1}
            meta = {"result": result, "sums": {} if score else {"loss": 1.0}, "model": "m"}
            store.save(make_state(step, float(step)), meta, score)
            store.wait()


def _list_steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def _read(folder, name=""):
    student, _ = checkpoints.load_student(folder, name)
    return float(jax.tree.leaves(student["params"])[0].flat[0])


def test_a_resumed_run_keeps_the_best_checkpoint_of_earlier_starts(tmp_path):
    _run(tmp_path, [10.0, 30.0, 20.0])
    _run(tmp_path, [15.0, None, 5.0], first=4, best=30.0)
    assert _list_steps(tmp_path) == [2, 5, 6]
    _run(tmp_path, [40.0, 1.0, 1.0], first=7, best=30.0)
    assert _list_steps(tmp_path) == [7, 8, 9]


def test_the_best_checkpoint_the_last_checkpoint_and_any_step_can_be_read(tmp_path, capsys):
    _run(tmp_path / "checkpoints", [10.0, 30.0, 20.0, None])
    assert _read(tmp_path) == 4.0
    assert not capsys.readouterr().out
    assert [_read(tmp_path, name) for name in ("best", "last", "2", "3")] == [2.0, 4.0, 2.0, 3.0]
    notes = capsys.readouterr().out.splitlines()
    assert "is step 2, test top-1 30.00 %, which is optimistic" in notes[0]
    assert notes[1].endswith("is step 4")
    for name in ("1", "5", "-2", "beste", "2²", " "):
        with pytest.raises(errors.InputError, match="available: best, last, 2, 3, 4"):
            _read(tmp_path, name)


def test_a_selected_step_is_never_replaced_by_another_step(tmp_path):
    _run(tmp_path, [10.0, 30.0, 20.0, None])
    damage_state(tmp_path / "2")
    with pytest.raises(errors.InputError, match="2 is damaged .*; other steps: 3, 4"):
        _read(tmp_path, "2")
    with pytest.raises(errors.InputError, match="damaged|is missing"):
        _read(tmp_path, "best")
    damage_state(tmp_path / "4")
    assert _read(tmp_path, "last") == 3.0


def test_a_missing_best_checkpoint_is_refused_with_the_reason(tmp_path):
    _run(tmp_path / "a", [20.0, 10.0], best=50.0)
    with pytest.raises(errors.InputError, match="50.00 %, is missing; pass @1 "):
        _read(tmp_path / "a", "best")
    _run(tmp_path / "b", [None, None])
    with pytest.raises(errors.InputError, match="has no best checkpoint"):
        _read(tmp_path / "b", "best")
    weights = {"params": {"w": np.ones(3, np.float32)}, "batch_stats": {}}
    checkpoints.save_network(tmp_path / "c", weights, {"model": "m"})
    with pytest.raises(errors.InputError, match="a converted network"):
        _read(tmp_path / "c", "best")
    assert _read(tmp_path / "c", "0") == 1.0
