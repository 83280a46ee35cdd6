"""An HTTP proxy in front of a test server: records requests, injects faults, goes up and down."""

import contextlib
import http.client
import http.server
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.servers.faults import Answer, CutConnection, Fault, Request

# Headers that concern one connection, not the request.
_CONNECTION_HEADERS = {"connection", "keep-alive", "transfer-encoding", "expect"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class _Server(http.server.ThreadingHTTPServer):
    """A server that can be closed with all of its connections, and opened again on its port."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores connections that clients close, such as those of killed processes."""


class Proxy:
    """A proxy that forwards requests to a server on this machine.

    Attributes:
      address: host and port of the proxy.
      requests: all requests since the start, as "METHOD PATH".
    """

    def __init__(self, port: int) -> None:
        """Starts the proxy.

        Args:
          port: port of the server, which must keep the header "Host" of the proxy.
        """
        self.requests: list[str] = []
        self._server_port = port
        self._faults: list[_Injected] = []
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Accepts connections, on the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Closes all connections and refuses new ones."""
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Refuses connections while the context is active."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def down_for(self, seconds: float) -> None:
        """Refuses connections from now on for some seconds; returns immediately."""

        def pause() -> None:
            with self.down():
                time.sleep(seconds)

        threading.Thread(target=pause).start()

    @contextlib.contextmanager
    def fault(self, fault: Fault, on: str = "", times: int | None = None) -> Iterator["_Injected"]:
        """Injects a fault while the context is active.

        Args:
          fault: a fault of `tests.servers.faults`.
          on: regular expression that is searched in "METHOD PATH", with the path URL-encoded.
          times: number of requests that the fault applies to; None for all.

        Yields:
          the injected fault, with `count`, the number of requests that it applied to.
        """
        injected = _Injected(fault, re.compile(on), times)
        self._faults.append(injected)
        try:
            yield injected
        finally:
            self._faults.remove(injected)

    def count(self, pattern: str) -> int:
        """Returns the number of requests so far that a regular expression is found in."""
        return sum(bool(re.search(pattern, request)) for request in list(self.requests))

    def _answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(str(request))
            fault = next((f.fault for f in self._faults if f.take(str(request))), None)
        return fault(request, self._forward) if fault else self._forward(request)

    def _forward(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._server_port, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(
                request.method, request.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers.items():
                if name not in _CONNECTION_HEADERS:
                    connection.putheader(name, value)
            connection.endheaders(request.body)
            if len(request.body) < int(request.headers.get("content-length", 0)):
                # The rest of a truncated upload never comes.
                raise CutConnection
            response = connection.getresponse()
            headers = [h for h in response.getheaders() if h[0].lower() not in _CONNECTION_HEADERS]
            return Answer(response.status, headers, response.read())

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Answers are sent in one packet, and small ones without delay.
            wbufsize = -1
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with proxy._lock:
                    proxy._connections.add(self.connection)

            def finish(self) -> None:
                with proxy._lock:
                    proxy._connections.discard(self.connection)
                super().finish()

            def handle_expect_100(self) -> bool:
                self.send_response_only(100)
                self.end_headers()
                self.wfile.flush()
                return True

            def log_message(self, *arguments: Any) -> None:
                """Prints nothing."""

            def answer(self) -> None:
                body = self._body()
                headers = {name.lower(): value for name, value in self.headers.items()}
                headers["content-length"] = str(len(body))
                try:
                    answer = proxy._answer(Request(self.command, self.path, headers, body))
                except (CutConnection, OSError, http.client.HTTPException):
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response_only(answer.status)
                for name, value in answer.headers:
                    if name.lower() != "content-length" or self.command == "HEAD":
                        self.send_header(name, value)
                if self.command != "HEAD" and answer.status not in (204, 304):
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                chunks = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return b"".join(chunks)

        for method in _METHODS:
            setattr(Handler, f"do_{method}", Handler.answer)
        return Handler


class _Injected:
    """A fault and the requests that it applies to."""

    def __init__(self, fault: Fault, pattern: re.Pattern[str], times: int | None) -> None:
        self.fault, self.count = fault, 0
        self._pattern, self._times = pattern, times

    def take(self, request: str) -> bool:
        """Returns True if the fault applies to a request, which is then counted."""
        is_spent = self._times is not None and self.count >= self._times
        applies = not is_spent and bool(self._pattern.search(request))
        self.count += applies
        return applies
