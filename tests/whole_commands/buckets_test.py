"""Whole commands with paths in buckets: runs, readers, and errors of one line."""

import re

import PIL.Image
import pytest

from experiments.page import bucket_copies
from rrd_jax import buckets
from tests.servers import faults, kills

_MAIN, _PREDICT = "rrd_jax.main", "rrd_jax.predict"
_CONFIG = "--config=configs/digits.py:resnet8-resnet8,smoke,rrd"


@pytest.fixture(params=["gcs", "s3"])
def server(request):
    """Each of the two servers."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    ("module", "arguments", "code", "message"),
    [
        (_MAIN, [_CONFIG, "--workdir=WRONG/run"], 2, "the bucket .*wrong does not exist; create"),
        (_MAIN, [_CONFIG, "--workdir=BUCKET"], 2, "is a whole bucket; name a folder"),
        (_PREDICT, ["--workdir=WRONG/run", "IMAGE"], 2, "the bucket .*wrong does not exist"),
        (_PREDICT, ["--workdir=BUCKET/none", "IMAGE"], 2, "no intact checkpoint .*does not exist"),
        (_PREDICT, ["--workdir=BUCKET/none.pth", "IMAGE"], 2, "none.pth, which does not exist"),
        (_PREDICT, ["--workdir=x", "BUCKET/x.png"], 1, "does not support buckets; copy"),
        ("rrd_jax.runs", ["BUCKET/none"], 2, "no runs in .*none or below"),
        ("rrd_jax.runs", ["WRONG"], 2, "the bucket .*wrong does not exist"),
        (
            "rrd_jax.convert",
            ["--model=resnet8", "--input=BUCKET/x.pth", "--output=y"],
            2,
            "does not exist|missing",
        ),
        ("experiments.page", ["--workdir=BUCKET/run", "--output=x"], 2, "run has no config.json"),
        ("experiments.page", ["--study=WRONG/study", "--output=x"], 2, "wrong does not exist"),
        ("experiments.page", ["--study=BUCKET/x", "--output=BUCKET/y"], 1, "not support buckets"),
        ("experiments.study", ["--study=x.py", "--workdir=BUCKET/s"], 1, "pass a folder on a disk"),
    ],
)
def test_a_path_in_a_bucket_is_refused_in_a_line(
    commands, gcs, tmp_path, module, arguments, code, message
):
    places = {
        "BUCKET": gcs.bucket(),
        "WRONG": "gs://bucket-wrong",
        "IMAGE": str(tmp_path / "a.png"),
    }
    PIL.Image.new("L", (8, 8)).save(places["IMAGE"])
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
    outcome = commands.run(*arguments, module=module, env=gcs.environment, seconds=60)
    assert re.search(message, outcome.check_refused(code)), outcome.err


def test_a_bucket_without_access_is_refused_in_a_line(commands, server):
    with server.proxy.fault(faults.status(403, "Forbidden")):
        arguments = (_CONFIG, f"--workdir={server.bucket()}/run")
        outcome = commands.run(*arguments, env=server.environment, seconds=60)
    assert re.search("no access to .*; (run gcloud|set AWS)", outcome.check_refused(74))


def test_the_copy_for_a_page_follows_the_study_in_the_bucket(gcs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    study = tmp_path / "study"
    names = (
        "study.json",
        "runs/a/failed.json",
        "runs/a/metrics.jsonl",
        "runs/a/checkpoints/6/data",
    )
    for name in (*names, "runs/a/checkpoints/6/meta/metadata"):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text(name)
    place = buckets.path(f"{gcs.bucket()}/study")
    buckets.upload(study, place)
    copy = bucket_copies.localize(str(place), "study.json")[1]
    copied = {x.relative_to(copy).as_posix() for x in copy.rglob("*") if x.is_file()}
    assert copied == {*names[:3], "runs/a/checkpoints/6/meta/metadata"}
    buckets.delete(place / "runs/a/failed.json")
    buckets.delete(place / "runs/a/checkpoints")
    buckets.write(place / "runs/a/metrics.jsonl", b"changed content")
    bucket_copies.localize(str(place), "study.json")
    assert [x.name for x in sorted(copy.glob("runs/a/**/*"))] == ["checkpoints", "metrics.jsonl"]
    assert (copy / "runs/a/metrics.jsonl").read_text() == "changed content"


@pytest.mark.long
def test_a_run_that_is_killed_in_a_bucket_ends_with_the_bits_of_a_local_run(
    commands, server, tmp_path
):
    local = kills.Runs(commands, tmp_path, {}).finish(str(tmp_path / "local"))[1]
    runs, bucket = kills.Runs(commands, tmp_path, server.environment), server.bucket()
    count = len(server.proxy.requests)
    assert runs.finish(f"{bucket}/run")[1] == local
    share = 0.4 if bucket.startswith("s3") else 0.7
    number = int(share * (len(server.proxy.requests) - count))
    assert runs.kill(server, f"{bucket}/killed", number, 1).ending == local
    image = tmp_path / "image.png"
    PIL.Image.new("L", (8, 8)).save(image)
    flags = {"module": _PREDICT, "env": server.environment}
    outcomes = [
        commands.run(f"--workdir={folder}", image, **flags)
        for folder in (tmp_path / "local", f"{bucket}/killed@last")
    ]
    assert outcomes[0].out == outcomes[1].out
    assert outcomes[0].code == outcomes[1].code == 0
    outcome = commands.run(bucket, "--format=csv", module="rrd_jax.runs", env=server.environment)
    assert outcome.out.count(",done,") == 4
    assert not list(buckets.path(f"{bucket}/killed").glob("crash-*"))
