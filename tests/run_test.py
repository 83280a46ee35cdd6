"""Where a run stands, as its checkpoints keep it: by this version, or by a newer one."""

import json

import pytest

from rrd_jax import errors
from rrd_jax.checkpoints import sealed
from tests import launch


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.parametrize("ends", [False, True], ids=["stopped", "finished"])
def test_a_run_of_a_newer_version_is_one_line(ends, tmp_path):
    config = launch.digits("smoke,tiny,ce", **{"train.epochs": 2})
    if ends:
        launch.run(config, tmp_path)
    else:
        launch.preempt(config, tmp_path, step=4)
    for path in tmp_path.glob("checkpoints/*/meta/metadata"):
        meta, digests = sealed.unseal(json.loads(path.read_text()))
        path.write_text(json.dumps(sealed.seal(meta | {"invented_later": 1}, digests)))
    message = f"the run in {tmp_path} was written by a newer version .* keeps invented_later"
    with pytest.raises(errors.InputError, match=message):
        launch.run(config, tmp_path)
