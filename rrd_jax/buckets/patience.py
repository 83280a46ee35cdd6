"""Retries of requests, with growing pauses, until a time limit."""

import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator

from rrd_jax import deferred, errors

asyncio = deferred.Library("asyncio")

# Seconds for which a request is repeated while a server cannot be reached: before training starts,
# and during training.
STARTING, TRAINING = 30.0, 600.0
# The longest pause between two attempts, in seconds.
_LONGEST_PAUSE = 15.0
# Seconds after which an outage is reported.
_REPORTED = 10.0
# Rejected credentials rarely become valid before the start of a run.
_MAX_REFUSALS = 3


class _State:
    """The current limit, and what reports outages.

    Attributes:
      limit: seconds for which a request is repeated.
      report: prints a message about an outage.
      reported: time of the last report, by the monotonic clock.
    """

    limit = STARTING
    report: Callable[[str], None] = staticmethod(print)
    reported = -1e9


class Transient(Exception):
    """A failed attempt that may succeed later.

    Args:
      reason: the reason, for messages.
      is_refusal: True if the server rejected the credentials, as an expired token.
    """

    def __init__(self, reason: str, *, is_refusal: bool = False):
        super().__init__(reason)
        self.is_refusal = is_refusal


@contextlib.contextmanager
def patient(report: Callable[[str], None]) -> Iterator[None]:
    """Repeats requests for up to `TRAINING` seconds inside the `with` block.

    Args:
      report: prints a message about an outage.
    """
    before = _State.limit, _State.report
    _State.limit, _State.report = TRAINING, report
    try:
        yield
    finally:
        _State.limit, _State.report = before


async def retried(url: str, attempt: Callable[[], Awaitable]) -> object:
    """Returns the result of an attempt, which is repeated while it raises `Transient`.

    Args:
      url: the bucket, for messages.
      attempt: starts a request.

    Raises:
      BucketError: no attempt succeeded within the time limit, or the server rejected the
        credentials.
    """
    start, pause, count = time.monotonic(), 0.2, 0
    while True:
        try:
            return await attempt()
        except Transient as error:
            count += 1
            waited = time.monotonic() - start
            if error.is_refusal and _State.limit <= STARTING and count >= _MAX_REFUSALS:
                raise no_access(url, str(error)) from error
            if waited + pause > _State.limit:
                raise errors.BucketError(
                    f"{url} cannot be reached for {waited:.0f} s ({error}); check the network and"
                    " the server, then run the same command again"
                ) from error
            _report(url, waited, error)
        await asyncio.sleep(pause * random.uniform(0.75, 1.25))
        pause = min(2 * pause, _LONGEST_PAUSE)


def no_access(url: str, reason: str) -> errors.BucketError:
    """Returns the error for rejected or missing credentials."""
    remedy = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if url.startswith("gs:"):
        remedy = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
    return errors.BucketError(f"no access to {url} ({reason}); {remedy}")


def _report(url: str, waited: float, error: Exception) -> None:
    """Reports an outage once a minute."""
    now = time.monotonic()
    if waited > _REPORTED and now - _State.reported > 60:
        _State.reported = now
        _State.report(
            f"{url} cannot be reached ({error}); trying again for up to {_State.limit:.0f} s"
        )
