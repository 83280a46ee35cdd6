"""Leases: objects that keep a second job out of a folder in a bucket.

The owner renews its lease every `_RENEWAL` seconds. A lease that has not been renewed for
`DURATION` seconds of the server's clock has expired, and another job may take it. Each write names
the version of the object that it replaces, so that of two jobs one fails.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from rrd_jax import errors
from rrd_jax.buckets import conditional

NAME = "lease"
# Seconds after the last renewal until another job may take a lease, and between renewals.
DURATION, _RENEWAL = 60.0, 15.0
# Seconds between two looks at the lease of another job.
_POLL = 1.0
# The leases of this process, by URL.
_active: dict[str, "_Lease"] = {}


@contextlib.contextmanager
def hold(folder: Any, wait: Callable[[str], None]) -> Iterator[None]:
    """Holds the lease of a folder inside the `with` block.

    The lease of a process that has ended on this machine is taken at once. Otherwise, the function
    waits until the lease is renewed by its owner or expires.

    Args:
      folder: the folder in a bucket.
      wait: called with a description while the function waits; its exceptions end the wait.

    Raises:
      InUseError: another process renews the lease.
      BucketError: the bucket cannot be reached or written.
    """
    lease = _Lease(folder)
    lease.acquire(wait)
    _active[str(folder)] = lease
    try:
        yield
    finally:
        del _active[str(folder)]
        lease.release()


def check() -> None:
    """Checks that this process still holds its leases; must be called before each write of a run.

    After a suspension of the process the leases are renewed first.

    Raises:
      InUseError: another job has taken a lease.
      BucketError: a lease that has expired cannot be renewed.
    """
    for lease in list(_active.values()):
        lease.check()


def owner(folder: Any) -> str:
    """Returns a description of the process that holds the lease of a folder; "" for none."""
    stored = conditional.read(folder / NAME)
    return "" if stored is None or _is_free(stored) else _content(stored)["owner"]


class _Lease:
    """The lease of a folder.

    Args:
      folder: the folder in a bucket.
    """

    def __init__(self, folder: Any):
        self._folder, self._path = folder, folder / NAME
        self._token, self._count = uuid.uuid4().hex, 0
        self._version: Any = None
        self._renewed = 0.0
        self._next_owner = ""
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def acquire(self, wait: Callable[[str], None]) -> None:
        """Takes the lease; see `hold`."""
        first = None
        while True:
            stored = conditional.read(self._path)
            if stored is None or _is_free(stored):
                if self._write(stored.version if stored else None):
                    break
                continue
            first = stored if first is None else first
            left = DURATION - stored.age
            if stored.version != first.version:
                raise errors.InUseError(
                    f"workdir {self._folder} is in use by {_content(stored)['owner']}, whose lease"
                    f" expires {left:.0f} s after its end; pass another --workdir, or wait until"
                    " this run ends"
                )
            name, seconds = _content(stored)["owner"], max(left, 0)
            wait(f"{self._folder} is leased by {name}: waiting up to {seconds:.0f} s for its end")
            time.sleep(_POLL)
        self._thread.start()

    def check(self) -> None:
        """Raises an InUseError if another job has taken the lease; see `check`."""
        if not self._next_owner and _now() - self._renewed > DURATION - _RENEWAL:
            self._renew()
        if self._next_owner:
            raise errors.InUseError(
                f"workdir {self._folder} is now in use by {self._next_owner}, which took the lease"
                f" because this process had not renewed it for {DURATION:.0f} s, as while it was"
                " suspended; this process writes nothing more, and the run continues there"
            )

    def release(self) -> None:
        """Ends the renewals, and marks the lease as free unless it has been lost."""
        self._end.set()
        with self._lock, contextlib.suppress(errors.BucketError):
            if not self._next_owner:
                self._write(self._version, released=True)

    def _keep(self) -> None:
        """Renews the lease until its release; runs in a thread."""
        while not self._end.wait(_RENEWAL) and not self._next_owner:
            # `check` reports an outage that lasts.
            with contextlib.suppress(errors.BucketError):
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            if not (self._end.is_set() or self._next_owner or self._write(self._version)):
                stored = conditional.read(self._path)
                self._next_owner = "another process"
                if stored is not None:
                    self._next_owner = _content(stored)["owner"]

    def _write(self, version: Any, *, released: bool = False) -> bool:
        """Writes the lease if its version is still the expected one; returns False otherwise."""
        start, self._count = _now(), self._count + 1
        content = {"token": self._token, "count": self._count, "released": released}
        text = json.dumps(_process() | content, sort_keys=True).encode()
        written = conditional.write(self._path, text, version)
        if written is None:
            # A request that was repeated because its answer was lost finds its own write.
            stored = conditional.read(self._path)
            if stored is None or stored.content != text:
                return False
            written = stored.version
        self._version, self._renewed = written, start
        return True


def _is_free(stored: conditional.Stored) -> bool:
    """Returns True if a lease was released, has expired, or its process ended on this machine."""
    content = _content(stored)
    return content["released"] or stored.age >= DURATION or _has_ended(content)


def _content(stored: conditional.Stored) -> dict[str, Any]:
    """Returns the JSON of a lease; a lease that is not valid belongs to an unknown process."""
    unknown = {"owner": "another process", "released": False, "machine": "", "pid": 0, "start": 0}
    try:
        return unknown | json.loads(stored.content)
    except (TypeError, ValueError):
        return unknown


def _process() -> dict[str, Any]:
    """Returns the description of this process for the lease."""
    pid = os.getpid()
    return {
        "owner": f"process {pid} on {socket.gethostname()}",
        "machine": _machine(),
        "pid": pid,
        "start": _start(pid),
    }


def _machine() -> str:
    """Returns an identifier of this boot of the machine and of its namespace of processes."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return f"{socket.gethostname()} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _start(pid: int) -> int:
    """Returns the start of a process in ticks since the boot; 0 if the process has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0
    # Z and X are the states of a process that has ended.
    return 0 if fields[0] in "ZX" else int(fields[19])


def _has_ended(content: dict[str, Any]) -> bool:
    is_local = content["machine"] and content["machine"] == _machine()
    return bool(is_local and _start(content["pid"]) != content["start"])


def _now() -> float:
    """Returns seconds that also pass while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
