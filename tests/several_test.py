"""A student with several teachers."""

import json

import jax
import numpy as np
import pytest

from configs import digits
from rrd_jax import errors, evaluate, networks, objectives, train
from rrd_jax.networks import ensemble
from rrd_jax.objectives import logits
from tests.conftest import use_one_device


def _outputs(seed, width):
    rng = np.random.default_rng(seed)
    return networks.Outputs(
        rng.standard_normal((6, 5)).astype(np.float32),
        rng.standard_normal((6, width)).astype(np.float32),
    )


def _several(weights, each):
    mean = sum(w * one.logits for w, one in zip(weights, each, strict=True))
    return ensemble.EnsembleOutputs(mean, tuple(one._replace(logits=mean) for one in each))


def test_kd_compares_with_the_averaged_logits():
    student, each, weights = _outputs(0, 8), (_outputs(1, 16), _outputs(2, 4)), (0.75, 0.25)
    kd = objectives.averaged("kd", objectives.create("kd"), weights)
    teacher = _several(weights, each)
    state = kd.init(jax.random.key(0), student, teacher)
    losses, _ = kd.loss(state, student, teacher, {})
    wanted = logits.kd_loss(
        student.logits, 0.75 * each[0].logits + 0.25 * each[1].logits, temperature=4.0
    )
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)


def test_rrd_compares_with_a_memory_of_each_teacher():
    student, each, weights = _outputs(0, 8), (_outputs(1, 16), _outputs(2, 4)), (0.75, 0.25)
    one = objectives.create("rrd", queue_size=10, dim=3)
    rrd = objectives.averaged("rrd", one, weights)
    teacher = _several(weights, each)
    state = rrd.init(jax.random.key(0), student, teacher)
    losses, memory = rrd.loss(state, student, teacher, {})
    wanted = 0.0
    for i, weight in enumerate(weights):
        own = objectives.ObjectiveState(*(part[f"teacher{i}"] for part in state))
        alone, pushed = one.loss(own, student, each[i], {})
        wanted += weight * alone
        np.testing.assert_array_equal(memory[f"teacher{i}"].rows, pushed.rows)
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    assert not np.array_equal(memory["teacher0"].rows, memory["teacher1"].rows)


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
    np.testing.assert_array_equal(found.members[1].embedding, own[1].embedding)
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
