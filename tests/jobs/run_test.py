"""Runs of a newer version, and runs whose optimizer changes nothing."""

import json

import numpy as np
import optax
import pytest

from rrd_jax import errors, library
from rrd_jax.checkpoints import digests
from tests import launch

pytestmark = pytest.mark.long


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.parametrize("finished", [False, True], ids=["stopped", "finished"])
def test_a_run_of_a_newer_version_is_refused_in_one_line(finished, tmp_path):
    config = launch.digits("smoke,tiny,ce", **{"train.epochs": 2})
    if finished:
        launch.run(config, tmp_path)
    else:
        launch.preempt(config, tmp_path, step=4)
    for path in tmp_path.glob("checkpoints/*/meta/metadata"):
        meta, stored = digests.unseal(json.loads(path.read_text()))
        path.write_text(json.dumps(digests.seal(meta | {"invented_later": 1}, stored)))
    message = (
        f"the run in {tmp_path} was written by a newer version .*unknown fields: invented_later"
    )
    with pytest.raises(errors.InputError, match=message):
        launch.run(config, tmp_path)


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_student_whose_weights_do_not_change_is_warned_about(tmp_path, capsys):
    rng = np.random.default_rng(0)
    split = rng.integers(0, 256, (16, 8, 8, 1), np.uint8), np.arange(16) % 4
    for optimizer, is_unchanged in ((optax.set_to_zero(), True), (optax.sgd(0.01), False)):
        options = {"optimizer": optimizer, "epochs": 1, "batch_size": 8}
        library.train_teacher("tiny", split, split, **options)
        assert ("did not change the student's weights" in capsys.readouterr().out) == is_unchanged
