"""Leases, copies and checkpoints in emulated buckets whose server fails."""

import time

import jax
import jax.numpy as jnp
import pytest

from rrd_jax import buckets, checkpoints, errors
from rrd_jax.buckets import conditional, leases, patience
from rrd_jax.training.state import TrainState
from tests.servers import faults


@pytest.fixture(params=["gcs", "s3"])
def server(request, tmp_path, monkeypatch):
    """Each of the two servers, with an empty cache and short limits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(patience, "STARTING", 2.0)
    monkeypatch.setattr(patience._State, "limit", 2.0)
    return request.getfixturevalue(request.param)


@pytest.fixture
def folder(server):
    """A folder of a new bucket."""
    return buckets.path(f"{server.bucket()}/run")


def _state(step):
    parts = {name: {} for name in ("batch_stats", "ema", "opt_state", "frozen", "memory")}
    params = {"student": {"kernel": jnp.full((64, 64), step, jnp.float32)}}
    return TrainState(step=jnp.int32(step), params=params, key=jax.random.key(0), **parts)


def _steal(folder):
    """Takes a lease like another job; its owner may renew it at the same time."""
    text = (
        b'{"owner": "process 1 on other", "released": false, "machine": "", "pid": 1, "start": 1}'
    )
    while not conditional.write(
        folder / leases.NAME, text, conditional.read(folder / leases.NAME).version
    ):
        pass


def _hold(folder):
    return leases.hold(folder, lambda text: None)


@pytest.mark.parametrize(
    "fault",
    [faults.status(503), faults.slow(0.3), faults.truncated, faults.unanswered],
    ids=["503", "slow", "truncated", "unanswered"],
)
def test_an_upload_that_fails_once_is_repeated(server, folder, fault, tmp_path):
    content = bytes(range(256)) * 400
    (tmp_path / "file").write_bytes(content)
    with server.proxy.fault(fault, on="^(POST|PUT) .*", times=1) as injected:
        buckets.upload(tmp_path / "file", folder / "file")
    assert injected.count == 1
    assert buckets.read(folder / "file") == content


def test_an_expired_token_is_renewed_or_reported(server, folder):
    with server.proxy.fault(faults.expired_token, times=1):
        buckets.write(folder / "file", b"content")
    assert buckets.read(folder / "file") == b"content"
    with (
        server.proxy.fault(faults.expired_token),
        pytest.raises(errors.BucketError, match="access"),
    ):
        buckets.write(folder / "file", b"changed")


def test_a_server_that_is_gone_is_reported_and_keeps_the_content(server, folder):
    buckets.write(folder / "file", b"content")
    with server.proxy.down(), pytest.raises(errors.BucketError, match="cannot be reached"):
        buckets.write(folder / "file", b"changed")
    assert buckets.read(folder / "file") == b"content"


def test_a_lease_keeps_others_out_and_passes_on_after_its_release(folder, monkeypatch):
    monkeypatch.setattr(leases, "_RENEWAL", 0.2)
    with _hold(folder):
        assert "process" in leases.owner(folder)
        with pytest.raises(errors.InUseError, match="in use by process"), _hold(folder):
            pass
    assert not leases.owner(folder)
    with _hold(folder):
        pass


def test_a_lease_that_is_not_renewed_expires(folder, monkeypatch):
    monkeypatch.setattr(leases, "DURATION", 3.0)
    monkeypatch.setattr(leases, "_POLL", 0.2)
    text = (
        b'{"owner": "process 1 on other", "released": false, "machine": "x", "pid": 1, "start": 1}'
    )
    conditional.write(folder / leases.NAME, text, None)
    descriptions, start = [], time.monotonic()
    with leases.hold(folder, descriptions.append):
        assert "process 1 on other" in descriptions[0]
    assert time.monotonic() - start < 10


def _save(saved, step):
    saved.save(_state(step), {"epoch": step})
    saved.wait()


# An upload within a checkpoint.
_UPLOAD = "(POST|PUT) .*(2%2Fstate%2F_METADATA|2/state/_METADATA)"


def test_a_job_that_lost_its_lease_completes_no_checkpoint(server, folder, monkeypatch):
    # Each check renews the lease, as after a suspension.
    monkeypatch.setattr(leases, "DURATION", leases._RENEWAL)
    with _hold(folder), checkpoints.Checkpoints(folder / "checkpoints") as saved:
        _save(saved, 1)
        with (
            server.proxy.fault(faults.call(lambda: _steal(folder)), on=_UPLOAD, times=1),
            pytest.raises(errors.InUseError, match="process 1 on other"),
        ):
            _save(saved, 2)
        with pytest.raises(errors.InUseError, match="process 1 on other"):
            buckets.write(folder / "file", b"content")
    assert checkpoints.read_meta(folder / "checkpoints") == {"epoch": 1}
    assert b"process 1 on other" in buckets.read(folder / leases.NAME)


def test_a_save_that_fails_because_the_lease_is_lost_is_not_called_a_full_disk(gcs, monkeypatch):
    monkeypatch.setattr(leases, "DURATION", leases._RENEWAL)
    folder = buckets.path(f"{gcs.bucket()}/run")

    def fault(request, forward):
        _steal(folder)
        return faults.status(404)(request, forward)

    with (
        _hold(folder),
        checkpoints.Checkpoints(folder / "checkpoints") as saved,
        gcs.proxy.fault(fault, on=_UPLOAD, times=1),
        pytest.raises(errors.InUseError, match="process 1 on other"),
    ):
        _save(saved, 2)


def test_a_checkpoint_is_complete_only_with_all_of_its_files(server, folder):
    with checkpoints.Checkpoints(folder / "checkpoints") as saved:
        _save(saved, 1)
        with (
            server.proxy.fault(faults.status(403, "Forbidden"), on=_UPLOAD),
            pytest.raises((errors.BucketError, errors.DiskError)),
        ):
            _save(saved, 2)
    with checkpoints.Checkpoints(folder / "checkpoints") as saved:
        state, meta = saved.restore(_state(0))
    assert (int(state.step), meta) == (1, {"epoch": 1})
