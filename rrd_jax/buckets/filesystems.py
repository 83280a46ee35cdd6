"""File systems of fsspec for gs:// and s3://, with retries and errors of one line.

Listings are not cached, because other processes change them.
"""

import functools
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any

from rrd_jax import deferred, errors
from rrd_jax.buckets import patience

asyncio = deferred.Library("asyncio")

# Seconds in which a connection must open, and the longest pause within an answer.
_CONNECT, _READ = 10, 60
# Error codes of S3 after which a request may succeed.
_S3_TRANSIENT = {
    "InternalError",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
    "IncompleteBody",
    "BadDigest",
}
_S3_REFUSED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"}
_S3_MISSING = {"NoSuchKey", "NoSuchBucket", "404"}
_S3_CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict", "412"}


@functools.cache
def register() -> None:
    """Registers the file systems of the installed libraries with fsspec."""
    import fsspec

    if importlib.util.find_spec("gcsfs"):
        for name in ("gs", "gcs"):
            fsspec.register_implementation(name, gcs_class(), clobber=True)
    if importlib.util.find_spec("s3fs"):
        fsspec.register_implementation("s3", s3_class(), clobber=True)


def open_filesystem(scheme: str) -> Any:
    """Returns the file system of a scheme, which is the same object for all callers."""
    import fsspec

    register()
    # etils passes this argument, and fsspec has one object for each set of arguments.
    return (
        fsspec.filesystem("gcs", finalize_on_close=True)
        if scheme == "gs"
        else fsspec.filesystem("s3")
    )


def _url(scheme: str, bucket: str) -> str:
    return f"{scheme}://{bucket}"


@functools.cache
def gcs_class() -> type:
    """Returns the file system of gs://."""
    import aiohttp
    from gcsfs import core, retry

    # The library's own retries end after half a minute.
    send = core.GCSFileSystem._request.__wrapped__

    class GcsFileSystem(core.GCSFileSystem):
        """A file system of gs:// whose requests are repeated by `patience.retried`."""

        cachable = True

        def __init__(self, *args: Any, **kwargs: Any):
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_READ)
            kwargs.setdefault("requests_timeout", timeout)
            kwargs.setdefault("use_listings_cache", False)
            kwargs.setdefault("consistency", "md5")
            super().__init__(*args, **kwargs)

        async def _pipe_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
            # The digest of a damaged upload is compared after the answer to `_request`.
            upload, url = super()._pipe_file, _url("gs", self.split_path(path)[0])

            async def attempt() -> Any:
                try:
                    return await upload(path, *args, **kwargs)
                except retry.ChecksumError as error:
                    raise _gcs_error(error, url) from error

            return await patience.retried(url, attempt)

        async def _request(self, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
            url = _url("gs", args[0] if args else _bucket_of(path))

            async def attempt() -> Any:
                try:
                    return await send(self, method, path, *args, **kwargs)
                except Exception as error:
                    if isinstance(error, retry.HttpError) and str(error.code) == "401":
                        self._renew_credentials()
                    raise _gcs_error(error, url) from error

            return await patience.retried(url, attempt)

        def _renew_credentials(self) -> None:
            """Marks a token as expired, so that the next request obtains a new one."""
            credentials = getattr(self.credentials, "credentials", None)
            if hasattr(credentials, "expiry"):
                credentials.token = None

    return GcsFileSystem


def _bucket_of(path: str) -> str:
    """Returns the bucket in the path of a request, such as .../upload/storage/v1/b/BUCKET/o."""
    return path.partition("/b/")[2].partition("/")[0]


def _gcs_error(error: Exception, url: str) -> Exception:
    """Returns `patience.Transient`, a BucketError, or an error about a missing or existing file."""
    import aiohttp
    import google.auth.exceptions
    import requests
    from gcsfs import retry

    text = _one_line(error)
    if isinstance(error, FileNotFoundError | FileExistsError):
        return error
    if isinstance(error, retry.HttpError):
        code = str(error.code)
        if code == "401":
            return patience.Transient(text, is_refusal=True)
        is_transient = code in ("408", "429") or code.startswith("5")
        return patience.Transient(text) if is_transient else _failed(url, text)
    network = (aiohttp.ClientError, asyncio.TimeoutError, requests.RequestException)
    if isinstance(error, (*network, retry.ChecksumError)):
        return patience.Transient(text)
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        is_network = isinstance(error, google.auth.exceptions.TransportError)
        return patience.Transient(text, is_refusal=not is_network)
    if isinstance(error, OSError) and text.startswith("Forbidden"):
        return patience.no_access(url, text.partition(": ")[2] or text)
    if isinstance(error, OSError):
        return patience.Transient(text)
    return _failed(url, text) if isinstance(error, ValueError) else error


@functools.cache
def s3_class() -> type:
    """Returns the file system of s3://."""
    import s3fs
    from fsspec import asyn

    class S3FileSystem(s3fs.S3FileSystem):
        """A file system of s3:// whose requests are repeated by `patience.retried`."""

        retries = 1

        def __init__(self, *args: Any, **kwargs: Any):
            kwargs.setdefault("use_listings_cache", False)
            config = {"retries": {"mode": "standard", "max_attempts": 1}}
            config |= {"connect_timeout": _CONNECT, "read_timeout": _READ}
            kwargs.setdefault("config_kwargs", config)
            super().__init__(*args, **kwargs)

        async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
            call = super()._call_s3
            return await _s3_retried(kwargs.get("Bucket"), lambda: call(method, *args, **kwargs))

        # The library's `call_s3` calls its own `_call_s3`.
        call_s3 = asyn.sync_wrapper(_call_s3)

        async def _cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
            # The content arrives after the answer to `_call_s3`.
            call, bucket = super()._cat_file, self.split_path(path)[0]
            return await _s3_retried(bucket, lambda: call(path, *args, **kwargs))

    return S3FileSystem


async def _s3_retried(bucket: str | None, call: Callable[[], Awaitable]) -> Any:
    url = _url("s3", bucket or "")

    async def attempt() -> Any:
        try:
            return await call()
        except Exception as error:
            raise _s3_error(error, url) from error

    return await patience.retried(url, attempt)


def _s3_error(error: Exception, url: str) -> Exception:
    """Returns `patience.Transient`, a BucketError, or an error about a missing or existing file."""
    import aiohttp
    from botocore import exceptions

    text = _one_line(error)
    # A nested call has already been repeated.
    if isinstance(error, errors.BucketError):
        return error
    cause = error.__cause__ if isinstance(error, OSError) else error
    if isinstance(cause, exceptions.ClientError):
        code = str(cause.response.get("Error", {}).get("Code"))
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _S3_CONFLICTS:
            return FileExistsError(text)
        if code in _S3_MISSING:
            return FileNotFoundError(text)
        if code in _S3_REFUSED:
            return patience.Transient(text, is_refusal=True)
        if code in _S3_TRANSIENT or status >= 500 or status == 429:
            return patience.Transient(text)
        if isinstance(error, PermissionError) or status in (401, 403):
            return patience.no_access(url, text)
        return _failed(url, text)
    if isinstance(error, FileNotFoundError | FileExistsError):
        return error
    refusals = exceptions.NoCredentialsError, exceptions.PartialCredentialsError
    if isinstance(error, (*refusals, exceptions.TokenRetrievalError, PermissionError)):
        return patience.no_access(url, text)
    network = (
        exceptions.HTTPClientError,
        exceptions.ConnectionError,
        exceptions.CredentialRetrievalError,
    )
    if isinstance(error, (*network, aiohttp.ClientError, asyncio.TimeoutError, OSError)):
        return patience.Transient(text)
    if isinstance(error, exceptions.BotoCoreError | ValueError):
        return _failed(url, text)
    return error


def _failed(url: str, text: str) -> errors.BucketError:
    return errors.BucketError(f"{url} refused a request ({text}); correct the cause and try again")


def _one_line(error: Exception) -> str:
    """Returns an error's message on one line, at most 200 characters, or the name of its class."""
    return errors.printable(" ".join(str(error).split()))[:200] or type(error).__name__
