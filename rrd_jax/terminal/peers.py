"""The other processes of a run: notices when one ends, and then ends this process too.

JAX needs 100 seconds to notice that a process has died, and then aborts all others without a
message of this package. Here, each process holds a TCP connection to process 0, which the operating
system closes at once when a process dies, and which fails after `_SILENCE` seconds if a machine or
the network is gone. A process that ends by itself first sends its exit code. Process 0 forwards
news to all processes. A suspended process keeps its connection, and is not lost.
"""

import contextlib
import ctypes
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from typing import NamedTuple

from rrd_jax.terminal import console

# Seconds without an answer of another machine.
_SILENCE = 30
# Seconds for all processes to connect, and for one of them to introduce itself.
_START, _GREETING = 30.0, 5.0
# Seconds in which an error may turn out to be the consequence of a lost process.
_NEWS = 1.0
# The exit code for a lost process, which asks for the same command again.
_LOST = 75
# The first words of the two kinds of news.
_GOODBYE, _LOSS = "ended", "lost"


class Address(NamedTuple):
    """The address at which process 0 accepts the other processes.

    Attributes:
      port: TCP port on the host of process 0.
      token: secret that the other processes send first.
    """

    port: int
    token: str


class _Link(NamedTuple):
    """A connection to another process."""

    socket: socket.socket
    process: int
    host: str


class Server:
    """The socket on which process 0 accepts the other processes."""

    def __init__(self):
        if socket.has_dualstack_ipv6():
            family = socket.AF_INET6
            self._socket = socket.create_server(("", 0), family=family, dualstack_ipv6=True)
        else:
            self._socket = socket.create_server(("", 0))
        self.address = Address(self._socket.getsockname()[1], secrets.token_hex(16))

    def accept(self, count: int) -> list[_Link]:
        """Returns the connections of at most `count` processes that connect in time."""
        links, end = [], time.monotonic() + _START
        with self._socket:
            while len(links) < count and time.monotonic() < end:
                self._socket.settimeout(end - time.monotonic())
                with contextlib.suppress(OSError, ValueError):
                    links.append(self._greeted(self._socket.accept()[0]))
        return links

    def _greeted(self, connection: socket.socket) -> _Link:
        """Reads the first line of a process; raises a ValueError for another program's."""
        connection.settimeout(_GREETING)
        text = b""
        while not text.endswith(b"\n") and len(text) < 1000 and (part := connection.recv(1000)):
            text += part
        token, process, host = text.decode().split()
        if not secrets.compare_digest(token, self.address.token):
            raise ValueError("wrong token")
        return _Link(connection, int(process), host)


def connect(host: str, address: Address, process: int) -> list[_Link]:
    """Connects to process 0; returns no connection if process 0 cannot be reached.

    Args:
      host: the host of process 0.
      address: the address of its server.
      process: the index of this process.
    """
    try:
        link = socket.create_connection((host, address.port), timeout=_GREETING)
        link.sendall(f"{address.token} {process} {socket.gethostname()}\n".encode())
    except OSError:
        return []
    return [_Link(link, 0, host)]


class _Watch:
    """The watch over the connections of this process, in a thread.

    Args:
      process: the index of this process.
      links: connections to process 0, or of process 0 to all others.
    """

    def __init__(self, process: int, links: list[_Link]):
        self._process, self._links = process, links
        self._selector = selectors.DefaultSelector()
        # Taken by the first thread that ends this process, and never released.
        self._ending = threading.Lock()
        # Processes that have sent their exit code, and the time at which this process ends too.
        self._finished: set[int] = set()
        # Incomplete lines by process.
        self._unread: dict[int, bytes] = {}
        self._end: tuple[float, int, str] | None = None
        for link in links:
            _keep_alive(link.socket)
            self._selector.register(link.socket, selectors.EVENT_READ, link)
        # A child process would keep the connections open after the death of its parent.
        os.register_at_fork(after_in_child=self._close)
        threading.Thread(target=self._run, daemon=True).start()

    def say_goodbye(self, code: int, seconds: float) -> None:
        """Sends the exit code of this process; see `goodbye`."""
        if code:
            self._ending.acquire()
        self._send(f"{_GOODBYE} {self._process} {socket.gethostname()} {code} {seconds}")

    def _run(self) -> None:
        while True:
            seconds = max(0.0, self._end[0] - time.monotonic()) if self._end else None
            for key, _ in self._selector.select(seconds):
                self._read(key.data)
            if self._end and time.monotonic() >= self._end[0]:
                self._finish(*self._end[1:])

    def _read(self, link: _Link) -> None:
        try:
            part = link.socket.recv(4096)
        except OSError:
            part = b""
        *lines, rest = (self._unread.get(link.process, b"") + part).split(b"\n")
        self._unread[link.process] = rest
        for line in lines:
            kind, process, host, *numbers = line.decode().split()
            if kind == _LOSS:
                self._lose(int(process), host)
            else:
                self._note_end(int(process), host, int(numbers[0]), float(numbers[1]))
        if not part:
            self._selector.unregister(link.socket)
            if link.process not in self._finished:
                self._lose(link.process, link.host)

    def _note_end(self, process: int, host: str, code: int, seconds: float) -> None:
        """Sets the time at which this process ends if another process has ended with an error."""
        self._finished.add(process)
        if not self._process:
            self._send(f"{_GOODBYE} {process} {host} {code} {seconds}")
        if code and self._end is None:
            message = f"process {process} on {host} ended with exit code {code}; read its message"
            self._end = time.monotonic() + seconds, code, message

    def _lose(self, process: int, host: str) -> None:
        if not self._process:
            self._send(f"{_LOSS} {process} {host}")
        self._finish(
            _LOST,
            f"process {process} on {host} was lost; start the same command in all processes to"
            " resume from the last checkpoint",
        )

    def _finish(self, code: int, message: str) -> None:
        """Ends this process, unless the main thread ends it already."""
        if not self._ending.acquire(blocking=False):
            return
        _silence_runtime()
        console.error(message)
        if not self._process:
            self._send(f"{_GOODBYE} 0 {socket.gethostname()} {code} 0")
            self._await_others()
        os._exit(code)

    def _await_others(self, seconds: float = 3.0) -> None:
        """Waits until the other processes have ended, because the end of process 0 aborts them."""
        end = time.monotonic() + seconds
        while self._selector.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                with contextlib.suppress(OSError):
                    if key.data.socket.recv(4096):
                        continue
                self._selector.unregister(key.data.socket)

    def _send(self, line: str) -> None:
        for link in self._links:
            with contextlib.suppress(OSError):
                link.socket.sendall(f"{line}\n".encode())

    def _close(self) -> None:
        for link in self._links:
            link.socket.close()


_watch: _Watch | None = None


def watch(process: int, links: list[_Link]) -> None:
    """Ends this process with code 75 from now on if another process is lost.

    Args:
      process: the index of this process.
      links: the result of `connect`, or of `Server.accept` in process 0.
    """
    global _watch
    if links:
        _delay_abort()
        _watch = _Watch(process, links)


def settle() -> None:
    """Waits for the news of a lost process, which may be the cause of an error in this process.

    If there is such news, this process ends meanwhile.
    """
    if _watch:
        time.sleep(_NEWS)


def goodbye(code: int, seconds: float = 0.0) -> None:
    """Announces the end of this process; must be called before the process ends.

    Args:
      code: the exit code. Other processes end with the same code unless the code is 0.
      seconds: time for the other processes to end by themselves, with a message of their own.
    """
    if _watch:
        _watch.say_goodbye(code, seconds)


def _delay_abort() -> None:
    """Delays the end of this process by abort(), with which JAX reacts to the loss of process 0.

    The handler of SIGABRT is sleep() of the C library, which takes the number of the signal, 6, for
    the number of seconds. A handler in Python would not be called. The watch ends the process
    meanwhile.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        library.signal.restype = ctypes.c_void_p
        library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))


def _silence_runtime() -> None:
    """Hides messages of JAX about lost processes, which are many lines for a single cause."""
    with contextlib.suppress(OSError):
        stream = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = stream


def _keep_alive(link: socket.socket) -> None:
    """Lets a connection fail after `_SILENCE` seconds without an answer of the other machine."""
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": _SILENCE // 3,
        "TCP_KEEPINTVL": _SILENCE // 6,
        "TCP_KEEPCNT": 4,
        "TCP_USER_TIMEOUT": 1000 * _SILENCE,
    }
    for name, value in options.items():
        # Some operating systems lack some of these options.
        with contextlib.suppress(AttributeError, OSError):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
