"""Translation of errors of JAX and the operating system into errors of rrd_jax."""

import errno
import types

import jax
import numpy as np
import pytest
from jax._src import distributed

from rrd_jax import errors, parallel
from rrd_jax.parallel import devices, processes
from rrd_jax.terminal import runtime_errors

_XLA = jax.errors.JaxRuntimeError


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (_XLA("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), errors.InputError, "remat"),
        (_XLA("UNAVAILABLE: Task 1 heartbeat timeout"), errors.LostError, "same command"),
        (_XLA("INTERNAL: CUDA error: unspecified\nmore"), errors.LostError, "CUDA error"),
        (_XLA("UNKNOWN: Gloo AllGather failed"), errors.LostError, "Gloo"),
        (RuntimeError("Unable to initialize backend 'x'"), errors.UnavailableError, "JAX_PLATF"),
        (
            _XLA(
                "INTERNAL: CpuCallback error: Traceback (most recent call last):\n"
                '  File "my.py", line 4, in cb\nKeyError: 3\n----'
            ),
            errors.UserCodeError,
            r'File "my.py", line 4, in cb\nKeyError: 3$',
        ),
        (MemoryError("Unable to allocate 9 GiB"), errors.InputError, "9 GiB"),
        (FloatingPointError("invalid value (nan)"), errors.DivergedError, "JAX_DEBUG_NANS"),
        (OSError(errno.ENOSPC, "No space left on device", "f"), errors.DiskError, "No space"),
    ],
)
def test_errors_that_users_can_resolve_are_translated_into_one_line(error, kind, message):
    with pytest.raises(kind, match=message) as caught, runtime_errors.translated():
        raise error
    assert type(caught.value) is kind
    # Only the traceback of a user's code has several lines.
    assert "\n" not in str(caught.value) or kind is errors.UserCodeError


@pytest.mark.parametrize(
    "error",
    [
        _XLA("INVALID_ARGUMENT: shapes"),
        _XLA("INTERNAL: CpuCallback error: Traceback"),
        RuntimeError("a bug"),
        FileNotFoundError(errno.ENOENT, "No such file"),
        errors.DivergedError("ours"),
    ],
)
def test_bugs_and_errors_of_rrd_jax_are_not_translated(error):
    with pytest.raises(type(error)) as caught, runtime_errors.translated():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error", [RuntimeError("Unable to initialize 'tpu'\nmore"), AssertionError()]
)
def test_a_missing_platform_is_reported_with_the_available_platforms(error, monkeypatch):
    backend, problems = jax.default_backend, iter([error])

    def default_backend():
        for problem in problems:
            raise problem
        return backend()

    monkeypatch.setattr(jax, "default_backend", default_backend)
    # Other tests hold arrays of the backends.
    monkeypatch.setattr(devices, "clear_backends", lambda: None)
    before = jax.config.jax_platforms
    with pytest.raises(errors.UnavailableError, match="available: cpu; unset") as caught:
        parallel.check_platform()
    assert jax.config.jax_platforms == before
    assert "\n" not in str(caught.value)


def test_processes_with_different_configs_are_refused_with_the_differing_field(monkeypatch):
    facts = [{"config": {"seed": 0, "a": [1]}}, {"config": {"seed": 1, "a": [1]}}]
    texts = [processes._encoded(fact) for fact in facts]
    width = max(map(len, texts))
    answers = [
        np.array(list(map(len, texts))),
        np.stack([np.pad(text, (0, width - len(text))) for text in texts]),
    ]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    answer = iter(answers)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", lambda value: next(answer))
    with pytest.raises(errors.InputError, match=r"config.seed is 0 in process 0 but 1 in process"):
        parallel.check_agreement(facts[0])


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_that_a_lost_process_caused_is_no_damage_of_a_checkpoint(monkeypatch, processes):
    state = types.SimpleNamespace(client=object(), num_processes=processes)
    monkeypatch.setattr(distributed, "global_state", state)
    error = errors.InputError("the state cannot be read")
    error.__cause__ = AssertionError("sync_global_devices name mismatch ('restore')")
    lost = runtime_errors.lost_error(error)
    assert (lost is None) == (processes == 1)
    # The words of a lost process in a message of this package, such as a path, mean nothing.
    assert runtime_errors.lost_error(errors.InputError("runs/Gloo is not a folder")) is None
