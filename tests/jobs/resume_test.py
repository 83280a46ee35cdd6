"""Resumed runs: a workdir of an earlier version, other optimizers, drop path and Ctrl-C."""

import functools
import pathlib
import shutil
import signal

import pytest

from rrd_jax import networks
from rrd_jax.cpu import compiling
from rrd_jax.jobs import loop
from rrd_jax.networks import vit
from tests import launch

pytestmark = pytest.mark.long

_WORKDIR = pathlib.Path(__file__).parents[1] / "golden" / "workdir.zip"


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_workdir_of_november_2026_resumes_and_equals_the_uninterrupted_run(tmp_path, capsys):
    shutil.unpack_archive(_WORKDIR, tmp_path)
    config = launch.get_config("cifar10", "smoke,tiny-tiny,rrd+kd")
    config.data.image_size = 8
    results = launch.run(config, tmp_path / "workdir")
    output = capsys.readouterr().out
    # The teacher is trained, and the first epoch of the student is complete.
    assert "[teacher]" not in output
    assert "epoch   1/2" not in output
    assert [result.label for result in results] == ["teacher", "distilled, rrd+kd"]
    rows, expected = (launch.rows(tmp_path / name) for name in ("workdir", "unbroken"))
    assert rows[0] == expected[0]
    for name, value in expected[1].items():
        image = 100 / 24
        tolerance = {"abs": image + 1e-3} if "top" in name or "agree" in name else {"rel": 1e-3}
        assert rows[1][name] == pytest.approx(value, **tolerance), name


_ADAMW = {
    "optimizer.name": "adamw",
    "optimizer.options.b2": 0.98,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_epochs": 0.5,
    "optimizer.decay_norm_and_bias": False,
    "optimizer.layer_decay": 0.8,
    "train.ema": 0.9,
    "objectives.ce.label_smoothing": 0.1,
}
# The state of noisy_sgd contains random keys, that of galore empty arrays; momo needs the loss.
_UNUSUAL = {
    "noisy_sgd": {"optimizer.options.seed": 3},
    "galore": {"optimizer.options.rank": 4},
    "momo": {},
}


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.parametrize("name", ["adamw", *_UNUSUAL])
def test_a_resumed_run_with_another_optimizer_is_bit_identical(name, tmp_path):
    fields = _UNUSUAL.get(name, _ADAMW) | {"optimizer.name": name, "optimizer.learning_rate": 0.01}
    config = launch.digits("smoke,tiny,ce", **fields)
    launch.check_resume(config, tmp_path)


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_resumed_run_with_drop_path_is_bit_identical(tmp_path, monkeypatch):
    small = functools.partial(vit.VisionTransformer, patch=4, width=8, depth=2, heads=2)
    monkeypatch.setitem(networks.MODELS, "small", small)
    config = launch.digits("smoke,small,ce", **{"student.drop_path": 0.5})
    launch.check_resume(config, tmp_path)


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.parametrize("standardize", ["phi_s", "running"])
def test_a_resumed_run_with_statistics_of_the_teacher_is_bit_identical(standardize, tmp_path):
    fields = {"objectives.embed.standardize": standardize, "objectives.embed.distance": "unic"}
    launch.check_resume(launch.digits("smoke,tiny-tiny,embed", **fields), tmp_path)


@pytest.mark.usefixtures("one_device", "tiny_network")
# The run is stopped after the fourth step.
@pytest.mark.parametrize("change_step", [2, 5])
def test_a_resumed_run_changes_to_onednn_at_the_same_step(change_step, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "_compiles_quickly", lambda: False)
    calls = []
    monkeypatch.setattr(compiling, "calls_without_onednn", lambda multiply_adds: change_step)
    monkeypatch.setattr(compiling.OnednnJit, "__call__", _count_calls(calls))
    launch.check_resume(launch.digits("smoke,tiny,ce"), tmp_path)
    if compiling.onednn_types():
        assert len(calls) == 2 * (6 - change_step)


def _count_calls(calls):
    original = compiling.OnednnJit.__call__

    def call(self, *arguments):
        calls.append(self)
        return original(self, *arguments)

    return call


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_ctrl_c_saves_the_current_step_and_the_resumed_run_is_bit_identical(tmp_path, monkeypatch):
    config = launch.digits("smoke,tiny,ce")
    launch.run(config, tmp_path / "uninterrupted")
    original = loop.dispatches

    def dispatches(*arguments):
        for i, dispatch in enumerate(original(*arguments)):
            if i == 3:
                signal.raise_signal(signal.SIGINT)
            yield dispatch

    with monkeypatch.context() as patch:
        patch.setattr(loop, "dispatches", dispatches)
        with pytest.raises(KeyboardInterrupt, match="stopped by Ctrl-C; step 4 is saved in"):
            launch.run(config, tmp_path / "resumed")
    launch.run(config, tmp_path / "resumed")
    uninterrupted, resumed = (tmp_path / folder for folder in ("uninterrupted", "resumed"))
    assert launch.rows(resumed) == launch.rows(uninterrupted)
    assert launch.digests(resumed, 6) == launch.digests(uninterrupted, 6)
