"""The emulated buckets, and the faults that their proxy injects."""

import time
import urllib.error
import urllib.request

import pytest
from etils import epath

from tests.servers import faults


@pytest.fixture(params=["gcs", "s3"])
def server(request):
    """Each of the two servers."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def folder(server):
    """A folder of a new bucket, with one file."""
    folder = epath.Path(server.bucket()) / "folder"
    (folder / "a.txt").write_text("text")
    return folder


def _status(server, data=None, method="GET"):
    """Sends a request with HTTP alone, which is not retried; returns the status of the answer."""
    url = f"http://{server.proxy.address}/probe"
    request = urllib.request.Request(url, data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_files_written_to_a_bucket_are_read_back(server, folder):
    assert (folder / "a.txt").read_text() == "text"
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert server.proxy.count("a.txt") > 0


def test_an_error_is_retried_and_a_fault_ends_with_its_count(server, folder):
    with server.proxy.fault(faults.status(503), on="GET .*a.txt", times=1) as fault:
        assert (folder / "a.txt").read_text() == "text"
    assert fault.count == 1


def test_a_delayed_answer_arrives(server):
    start = time.monotonic()
    with server.proxy.fault(faults.slow(0.2), on="GET /probe"):
        _status(server)
    assert time.monotonic() - start >= 0.2


@pytest.mark.parametrize("fault", [faults.truncated, faults.unanswered])
def test_a_cut_connection_has_no_answer(server, fault):
    with server.proxy.fault(fault, on="POST /probe"), pytest.raises((OSError, EOFError)):
        _status(server, b"data", "POST")


def test_an_expired_token_is_rejected(server):
    with server.proxy.fault(faults.expired_token, on="/probe"):
        assert _status(server) == 401


def test_no_connection_is_accepted_while_the_server_is_down(server, folder):
    with server.proxy.down(), pytest.raises(urllib.error.URLError):
        _status(server)
    assert (folder / "a.txt").read_text() == "text"


def test_a_function_is_called_at_a_request(server):
    calls = []
    with server.proxy.fault(faults.call(lambda: calls.append(1)), on="/probe", times=1):
        _status(server)
        _status(server)
    assert calls == [1]
