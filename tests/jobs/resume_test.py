"""Runs go on: one that an earlier version left behind, and ones with any optimizer."""

import functools
import pathlib
import shutil
import signal

import pytest

from rrd_jax import networks
from rrd_jax.cpu import compiling
from rrd_jax.jobs import loop
from rrd_jax.networks import vit
from tests import fresh, launch

_WORKDIR = pathlib.Path(__file__).parents[1] / "golden" / "workdir.zip"


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_workdir_of_november_2026_goes_on_and_ends_as_an_unbroken_run_did(tmp_path, capsys):
    shutil.unpack_archive(_WORKDIR, tmp_path)
    config = launch.get_config("cifar10", "smoke,tiny-tiny,rrd+kd")
    config.data.image_size = 8
    results = launch.run(config, tmp_path / "workdir")
    said = capsys.readouterr().out
    assert "[teacher]" not in said  # it is trained already
    assert "epoch   1/2" not in said  # so is the first of the two
    assert [result.label for result in results] == ["teacher", "distilled, rrd+kd"]
    rows, unbroken = (launch.rows(tmp_path / name) for name in ("workdir", "unbroken"))
    assert rows[0] == unbroken[0]  # as it was
    for name, value in unbroken[1].items():
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
# A state with the keys of random numbers, with arrays of no elements; an optimizer asks for losses.
_UNUSUAL = {
    "noisy_sgd": {"optimizer.options.seed": 3},
    "galore": {"optimizer.options.rank": 4},
    "momo": {},
}


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.parametrize("name", fresh.mark_long_except(["adamw", *_UNUSUAL], ["adamw"]))
@pytest.mark.long
def test_a_run_with_another_optimizer_goes_on_to_the_same_bits(name, tmp_path):
    fields = _UNUSUAL.get(name, _ADAMW) | {"optimizer.name": name, "optimizer.learning_rate": 0.01}
    config = launch.digits("smoke,tiny,ce", **fields)
    launch.check_resume(config, tmp_path)


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.long
def test_a_run_that_leaves_blocks_out_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    small = functools.partial(vit.VisionTransformer, patch=4, width=8, depth=2, heads=2)
    monkeypatch.setitem(networks.MODELS, "small", small)
    config = launch.digits("smoke,small,ce", **{"student.drop_path": 0.5})
    launch.check_resume(config, tmp_path)


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.parametrize("late", [2, 5])  # the run is stopped after the fourth step
@pytest.mark.long
def test_a_long_run_changes_to_onednn_at_the_same_step_in_every_start(late, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "_compiles_quickly", lambda: False)
    calls = []
    monkeypatch.setattr(compiling, "calls_without_onednn", lambda multiply_adds: late)
    monkeypatch.setattr(compiling.OnednnJit, "__call__", _counted(calls))
    launch.check_resume(launch.digits("smoke,tiny,ce"), tmp_path)
    if compiling.onednn_types():
        assert len(calls) == 2 * (6 - late)


def _counted(calls):
    original = compiling.OnednnJit.__call__

    def call(self, *arguments):
        calls.append(self)
        return original(self, *arguments)

    return call


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_ctrl_c_saves_the_step_at_hand_and_the_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    config = launch.digits("smoke,tiny,ce")
    launch.run(config, tmp_path / "whole")
    original = loop.dispatches

    def dispatches(*arguments):
        for i, dispatch in enumerate(original(*arguments)):
            if i == 3:
                signal.raise_signal(signal.SIGINT)
            yield dispatch

    with monkeypatch.context() as patch:
        patch.setattr(loop, "dispatches", dispatches)
        with pytest.raises(KeyboardInterrupt, match="stopped by Ctrl-C; step 4 is saved in"):
            launch.run(config, tmp_path / "broken")
    launch.run(config, tmp_path / "broken")
    whole, broken = (tmp_path / folder for folder in ("whole", "broken"))
    assert launch.rows(broken) == launch.rows(whole)
    assert launch.digests(broken, 6) == launch.digests(whole, 6)
