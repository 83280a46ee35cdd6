"""Fields that are "auto": values of a new workdir, of an earlier start, and of earlier versions."""

import copy

import pytest

from rrd_jax import config as configs
from rrd_jax import errors
from rrd_jax.config import parse
from rrd_jax.config.fields import FIELDS
from rrd_jax.run_folder import workdir
from tests import launch

_OPTION = "objectives.rrd.queue_size"


def _config(**fields):
    return launch.digits("smoke,resnet8-resnet8,rrd", **{"data.image_size": 24, **fields})


def _fields(part):
    return workdir.flatten(part.fields)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [(None, 27), ({"data": {"resize": 99}}, 99), ({"data": {"image_size": 24}}, 256)],
    ids=["new", "recorded", "older"],
)
def test_every_run_of_a_job_records_the_resolved_value(recorded, expected):
    job = parse(_config(baseline=True), recorded=recorded)
    parts = job.student, job.comparisons["alone"], job.teachers[0].part
    assert [part.source.resize for part in parts] == 3 * [expected]
    assert [_fields(part)["data.resize"] for part in parts] == 3 * [expected]
    assert configs.source_of(_config(), recorded).resize == expected


def test_an_invalid_recorded_value_is_refused_with_a_remedy():
    with pytest.raises(errors.InputError, match=r"damaged: data.resize is 'x', .*; correct it, or"):
        parse(_config(), recorded={"data": {"resize": "x"}})


def test_an_explicit_value_replaces_auto_whatever_is_recorded():
    job = parse(_config(**{"data.resize": 30}), recorded={"data": {"resize": 99}})
    assert job.student.source.resize == job.student.fields["data"]["resize"] == 30


def test_a_stored_config_without_the_field_has_the_value_of_earlier_versions():
    fields = copy.deepcopy(parse(_config()).student.fields)
    assert configs.source_of(fields).resize == 27
    del fields["data"]["resize"]
    assert configs.source_of(fields).resize == 256


def test_a_value_that_depends_on_the_data_is_recorded_once_and_then_kept():
    part = parse(_config()).student
    changed = part.with_fields({_OPTION: 12})
    assert (_fields(part)[_OPTION], _fields(changed)[_OPTION]) == (20, 12)
    assert _fields(changed) == {**_fields(part), _OPTION: 12}


def test_only_a_workdir_with_a_checkpoint_of_the_job_has_recorded_fields(tmp_path):
    assert workdir.recorded_fields(tmp_path) is None
    (tmp_path / "config.json").write_text('{"seed": 3, "starts": {}}')
    assert workdir.recorded_fields(tmp_path) is None
    (tmp_path / "teacher/checkpoints/5").mkdir(parents=True)
    assert workdir.recorded_fields(tmp_path) == {"seed": 3}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(errors.InputError, match=r"config\.json is damaged"):
        workdir.recorded_fields(tmp_path)


def test_workdirs_of_version_0_2_keep_their_decays_and_positions():
    fields = {"teacher.model": "vit_small_patch14_dinov2", "teacher.checkpoint": "weights.pth"}
    rules = []
    for recorded in (None, {"data": {"image_size": 24}}):
        job = parse(_config(**fields), recorded=recorded)
        (teacher,) = job.teachers
        choices = job.student.training.network, teacher.network
        rules.append([choice.positions for choice in choices])
        rules[-1].append(job.student.training.optimizer.rules)
        recorded_fields = _fields(job.student)
        assert recorded_fields["optimizer.rules"] == rules[-1][2]
        assert recorded_fields["student.positions"] == rules[-1][0]
    assert rules == [["authors", "authors", "timm"], ["timm", "timm", "0.2.0"]]


@pytest.mark.parametrize("recorded", ["transformers", "timm"])
def test_recorded_fields_of_several_teachers_are_kept(recorded):
    config = launch.get_config("digits", "smoke,resnet8+resnet8-resnet8,kd")
    for teacher in config.teacher:
        teacher.positions = recorded
    fields = parse(config).student.fields
    again = launch.get_config("digits", "smoke,resnet8+resnet8-resnet8,kd")
    job = parse(again, recorded=fields)
    assert [teacher.network.positions for teacher in job.teachers] == 2 * [recorded]


def test_no_run_of_a_job_records_auto_for_a_field_that_is_resolved():
    job = parse(_config(baseline=True))
    parts = job.student, job.comparisons["alone"], job.teachers[0].part
    for part in parts:
        fields = _fields(part)
        open_fields = [
            path
            for path, declared in FIELDS.items()
            if declared.choose and fields.get(path) == "auto"
        ]
        assert not open_fields
