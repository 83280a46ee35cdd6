"""Runs whose students are compared with their teacher on held-out images."""

import json

import numpy as np
import pytest

from rrd_jax import data, errors, job, predictions
from rrd_jax.config import parse
from rrd_jax.data import feed
from rrd_jax.proof import figures, rows
from rrd_jax.teacher import frozen, labelled
from tests import launch

pytestmark = [pytest.mark.usefixtures("tiny_network", "one_device")]
_UNLABELLED = ("neighbours_1", "neighbours_10", "cka", "rank_correlation", "effective_rank")


def _config(teacher, argument="smoke,tiny-tiny,rrd", **fields):
    given = {"teacher.checkpoint": str(teacher), "train.epochs": 2, "eval.proof_images": 20}
    return launch.digits(argument, **given | fields)


@pytest.fixture(scope="module")
def proven(tiny_teacher, tmp_path_factory):
    """The folder of a run of two epochs with everything, and its results."""
    from tests.conftest import use_one_device

    folder = tmp_path_factory.mktemp("proven")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        config = _config(tiny_teacher, **{"eval.proof": True, "eval.knn": True, "eval.every": 2})
        return folder, launch.run(config, folder), config


def test_epochs_that_are_looked_at_have_figures_and_others_do_not(proven):
    first, last = launch.rows(proven[0])
    assert not [name for name in first if name.startswith("proof/")]
    assert all(f"proof/{name}" in last for name in (*_UNLABELLED, "deviation"))
    assert "proof/neighbours_20" not in last  # of 20 images there are 19 others
