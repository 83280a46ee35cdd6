"""Several seeds step by step in one program."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from rrd_jax import errors, fit, models, parallel, report, train
from rrd_jax.models import layers
from tests.conftest import use_one_device


def _configs(folder, seeds=3, argument="smoke,resnet8-resnet8,rrd+kd", **fields):
    found = {}
    for seed in range(seeds):
        config = digits.get_config(argument)
        config.baseline, config.seed = False, seed
        config.train.epochs, config.optimizer.learning_rate, config.teacher.cache = 3, 0.01, "off"
        config.update_from_flattened_dict(fields)
        found[folder / str(seed)] = config
    return found


def _rows(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in report.speeds(1, 1, 1, 1)} for row in rows]


def _check_same(folder, other, seeds=3):
    for seed in range(seeds):
        mine, others = _rows(folder / str(seed)), _rows(other / str(seed))
        for row, wanted in zip(mine, others, strict=True):
            assert row == pytest.approx(wanted, rel=1e-4)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Data, devices and a teacher, and runs of three seeds one by one."""
    folder = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        config = next(iter(_configs(folder).values()))
        setting = train.prepare(config)
        _, teacher = train.get_teacher(config, folder, setting)
        for own, config in _configs(folder / "alone").items():
            train.train(config, own, setting, "alone", teacher)
    return folder / "alone", setting, teacher


def _together(configs, shared, setting=None):
    labels = [f"seed {i}" for i in range(len(configs))]
    return train.train_together(configs, setting or shared[1], labels, shared[2])


@pytest.mark.parametrize("fields", [{}, {"train.steps_per_dispatch": 3}, {"teacher.cache": "on"}])
def test_seeds_in_step_have_the_numbers_that_they_have_alone(shared, tmp_path, capsys, fields):
    results = _together(_configs(tmp_path, **fields), shared)
    _check_same(tmp_path, shared[0])
    losses = [_rows(tmp_path / str(seed))[-1]["train/loss"] for seed in range(3)]
    assert len(set(losses)) == 3
    assert [result.label for result in results] == ["seed 0", "seed 1", "seed 2"]
    assert capsys.readouterr().out.count("epoch   3/3") == 3


def test_on_eight_devices_too(shared, tmp_path):
    setting = train.Setting(shared[1].dataset, parallel.make_mesh(jax.devices()))
    configs = _configs(tmp_path)
    _, teacher = train.get_teacher(configs[tmp_path / "0"], shared[0].parent, setting)
    train.train_together(configs, setting, ["0", "1", "2"], teacher)
    _check_same(tmp_path, shared[0])


def _stop_at(step, configs, shared, monkeypatch):
    with monkeypatch.context() as patch:
        original = fit._Loop.__init__
        patch.setattr(
            fit._Loop,
            "__init__",
            lambda self, runs, stop: original(self, runs, lambda at: at >= step),
        )
        with pytest.raises(errors.PreemptedError):
            _together(configs, shared)


def _digests(folder, seed):
    path = folder / str(seed) / "checkpoints" / "9" / "meta" / "metadata"
    return json.loads(path.read_text())["digests"]


def test_seeds_that_were_stopped_go_on_together_bit_for_bit(shared, tmp_path, monkeypatch):
    _together(_configs(tmp_path / "whole"), shared)
    _stop_at(4, _configs(tmp_path / "broken"), shared, monkeypatch)
    _together(_configs(tmp_path / "broken"), shared)
    for seed in range(3):
        assert _digests(tmp_path / "broken", seed) == _digests(tmp_path / "whole", seed)
        assert _rows(tmp_path / "broken" / str(seed)) == _rows(tmp_path / "whole" / str(seed))


def test_seeds_at_different_steps_finish_one_group_after_the_other(
    shared, tmp_path, monkeypatch, capsys
):
    configs = _configs(tmp_path)
    first = dict(list(configs.items())[:1])
    _stop_at(4, first, shared, monkeypatch)
    groups, original = [], fit._Loop.__init__

    def start(self, runs, stop):
        groups.append([run.folder.name for run in runs])
        original(self, runs, stop)

    monkeypatch.setattr(fit._Loop, "__init__", start)
    _together(configs, shared)
    assert groups == [["0"], ["1", "2"]]
    _check_same(tmp_path, shared[0])
    _together(configs, shared)  # all are finished
    assert len(groups) == 2
    assert "going on after step 4" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_names_the_run(shared, tmp_path):
    configs = _configs(tmp_path, **{"optimizer.learning_rate": 1e30})
    with pytest.raises(errors.DivergedError, match=f"{tmp_path}/0/checkpoints"):
        _together(configs, shared)


@pytest.mark.parametrize(
    ("groups", "inputs", "features"), [(1, 3, 4), (4, 4, 4), (2, 4, 6)], ids=str
)
def test_under_vmap_each_kernel_has_a_convolution_of_its_own(groups, inputs, features):
    conv = layers.Conv(features, 3, 2, groups=groups)
    x = jax.random.normal(jax.random.key(0), (3, 2, 8, 8, inputs))
    params = jax.vmap(lambda key: conv.init(key, x[0]))(jax.random.split(jax.random.key(1), 3))

    def loss(params, x):
        return jnp.sum(jnp.square(conv.apply(params, x)))

    gradient = jax.jit(jax.vmap(jax.grad(loss, (0, 1))))
    found = gradient(params, x)
    for i in range(3):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], (params, x))
        wanted = jax.grad(loss, (0, 1))(*own)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5)
    if groups == 1:
        text = gradient.lower(params, x).as_text()
        assert len(re.findall(r"stablehlo.convolution", text)) == 3 * 3
        assert not re.search(r"(?:feature|batch)_group_count = [2-9]", text)


def test_a_frozen_network_sees_the_images_of_all_at_once():
    network = models.create("resnet8", 4)
    images = jax.random.normal(jax.random.key(0), (3, 2, 8, 8, 3))
    variables = network.init(jax.random.key(1), images[0])
    apply = jax.jit(jax.vmap(lambda images: network.apply(variables, images).logits))
    each = [network.apply(variables, one).logits for one in images]
    np.testing.assert_allclose(apply(images), jnp.stack(each), rtol=1e-4, atol=1e-5)
    alone = jax.jit(lambda images: network.apply(variables, images).logits)
    counts = [
        f.lower(x).as_text().count("stablehlo.convolution")
        for f, x in ((apply, images), (alone, images[0]))
    ]
    assert counts[0] == counts[1] > 0
