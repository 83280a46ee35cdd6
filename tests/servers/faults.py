"""Faults that a proxy injects: error answers, delays, cut connections.

A fault receives a request and a function that forwards it to the server. It returns an answer, or
raises `CutConnection`.
"""

import http.client
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Request(NamedTuple):
    """A request.

    Attributes:
      method: the HTTP method.
      path: path and query of the URL.
      headers: headers with names in lower case.
      body: the complete body.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Answer(NamedTuple):
    """An answer of a server."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class CutConnection(Exception):
    """The proxy closes the connection to the client without an answer."""


Forward = Callable[[Request], Answer]
Fault = Callable[[Request, Forward], Answer]


def status(code: int, message: str = "") -> Fault:
    """Returns a fault that answers with an error, such as 503 or 403, instead of the server."""
    text = message or http.client.responses[code]

    def fault(request: Request, forward: Forward) -> Answer:
        if _is_s3(request):
            kind, body = "application/xml", f"<Error><Code>{text.replace(' ', '')}</Code></Error>"
        else:
            kind, body = "application/json", json.dumps({"error": {"code": code, "message": text}})
        return Answer(code, [("Content-Type", kind)], body.encode())

    return fault


def expired_token(request: Request, forward: Forward) -> Answer:
    """Rejects the request, as the service does when a token has expired."""
    if _is_s3(request):
        return status(400, "ExpiredToken")(request, forward)
    return status(401, "Invalid Credentials")(request, forward)


def slow(seconds: float) -> Fault:
    """Returns a fault that delays the request."""

    def fault(request: Request, forward: Forward) -> Answer:
        time.sleep(seconds)
        return forward(request)

    return fault


def truncated(request: Request, forward: Forward) -> Answer:
    """Sends the first half of an upload to the server, and cuts both connections."""
    half = request._replace(body=request.body[: len(request.body) // 2])
    # The header announces the complete length, so the server waits for the rest.
    headers = half.headers | {"content-length": str(len(request.body))}
    forward(half._replace(headers=headers))
    raise CutConnection


def unanswered(request: Request, forward: Forward) -> Answer:
    """Lets the server carry the request out, and cuts the connection before the answer."""
    forward(request)
    raise CutConnection


def call(action: Callable[[], Any]) -> Fault:
    """Returns a fault that calls a function before it forwards the request, such as a kill."""

    def fault(request: Request, forward: Forward) -> Answer:
        action()
        return forward(request)

    return fault


def _is_s3(request: Request) -> bool:
    return "x-amz-date" in request.headers
