"""A student with several teachers."""

import json

import jax
import numpy as np
import pytest

from configs import digits
from rrd_jax import errors, evaluate, networks, train
from rrd_jax.teacher import ensemble
from tests.conftest import use_one_device


def test_an_ensemble_averages_the_logits_of_its_members():
    members = (networks.create("resnet8", 4), networks.create("wrn_16_1", 4))
    both = ensemble.Ensemble(members, (0.5, 0.5))
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    variables = both.init(jax.random.key(0), images)
    found = both.apply(variables, images, train=False)
    own = [
        member.apply({"params": params, "batch_stats": stats}, images, train=False)
        for member, params, stats in zip(
            members, variables["params"], variables["batch_stats"], strict=True
        )
    ]
    np.testing.assert_allclose(found.logits, (own[0].logits + own[1].logits) / 2, rtol=1e-6)
    np.testing.assert_array_equal(found.each[1].embedding, own[1].embedding)
    assert networks.summarize(both, (16, 16, 3)).parameters == sum(
        networks.summarize(member, (16, 16, 3)).parameters for member in members
    )


def _config(**fields):
    config = digits.get_config("smoke,resnet8+resnet8-resnet8,rrd+kd+at")
    config.baseline = False
    config.teacher[0].weight, config.teacher[1].seed = 3.0, 1
    config.update_from_flattened_dict(fields)
    return config


def test_two_teachers_are_trained_first_and_a_second_start_finds_them(
    tmp_path, monkeypatch, capsys
):
    use_one_device(monkeypatch)
    results = train.run(_config(), str(tmp_path))
    assert [result.label for result in results] == ["teacher", "teacher2", "distilled, rrd+kd+at"]
    said = capsys.readouterr().out
    assert said.count("at compares maps student - teacher:") == 1
    rows = evaluate.run(_config(), str(tmp_path))
    assert [row["run"] for row in rows] == ["teacher", "teacher", "teachers", "student"]
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["agreement"] == pytest.approx(kept[-1]["test/agreement"])
    again = _config()
    again.teacher[1].checkpoint = str(tmp_path / "teacher2")  # where it is does not matter
    assert train.run(again, str(tmp_path))[-1] == results[-1]
    again.teacher[1].weight = 2.0
    with pytest.raises(errors.InputError, match=r"teacher\[1\].weight 1.0 there, 2.0 here"):
        train.run(again, str(tmp_path))


def test_what_several_teachers_cannot_be_is_refused():
    config = _config()
    config.teacher[1].weight = -1.0
    with pytest.raises(errors.InputError, match=r"teacher\[1\].weight is -1"):
        train.check(config)
    with config.unlocked():
        config.teacher[1].weight = 1.0
        config.objectives.simkd = {"weight": 1.0}
    with pytest.raises(errors.InputError, match="'simkd' takes over its teacher's classifier"):
        train.check(config)
