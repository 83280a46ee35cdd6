"""A server that answers huggingface_hub as the Hugging Face Hub does: downloads and commits."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import pathlib
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

TOKEN = "hf_TokenOfTheTests0123456789"
_KINDS = {"models": "model", "datasets": "dataset"}
# From this size on, in bytes, files are stored apart from the repository, as with Git LFS.
_LARGE = 2000


@dataclasses.dataclass
class Repository:
    """A repository: its commits, oldest first, each with all its files by path."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    refs: dict[str, str] = dataclasses.field(default_factory=dict)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Adds files to the newest commit of a ref, and returns the new commit."""
        tree = {**self.commits.get(self.refs.get(ref, ""), {}), **files}
        text = repr(sorted(tree.items())) + str(len(self.commits))
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha], self.refs[ref] = tree, sha
        return sha

    def files(self, revision: str = "main") -> dict[str, bytes] | None:
        """Returns the files of a commit or ref; None if it is unknown."""
        return self.commits.get(self.refs.get(revision, revision))


@dataclasses.dataclass
class Hub:
    """The state of the server.

    Attributes:
      url: the value for HF_ENDPOINT.
      storage: the URL of large files, on another host as for the client.
      repositories: repositories by kind and name.
      requests: method and path of each request.
      blobs: large files by their digest, as uploaded.
      status: if not 0, the status of all answers.
    """

    url: str = ""
    storage: str = ""
    repositories: dict[tuple[str, str], Repository] = dataclasses.field(default_factory=dict)
    requests: list[str] = dataclasses.field(default_factory=list)
    blobs: dict[str, bytes] = dataclasses.field(default_factory=dict)
    status: int = 0

    def add(self, name: str, files: dict[str, bytes], kind: str = "model", **options: bool) -> str:
        """Creates a repository with one commit, and returns the commit."""
        repository = self.repositories[kind, name] = Repository(**options)
        return repository.commit(files)


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Starts the server on a free port of this machine."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.storage = f"http://localhost:{server.server_port}/storage"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Refused(Exception):
    """An answer with an error: its status and the hub's code."""

    def __init__(self, status: int, code: str, message: str = ""):
        super().__init__(message or code)
        self.status, self.code = status, code


class _Handler(http.server.BaseHTTPRequestHandler):
    """The answers to requests."""

    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, *arguments: Any) -> None:
        """Prints nothing."""

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        self.body = self._chunks() if chunked else self.rfile.read(length)
        self.path = urllib.parse.unquote(self.path)
        path = self.path.partition("?")[0]
        self.state.requests.append(f"{self.command} {path}")
        try:
            if self.state.status:
                raise _Refused(self.state.status, "Broken")
            for pattern, answer in _ROUTES:
                if match := re.fullmatch(pattern, f"{self.command} {path}"):
                    return answer(self, **match.groupdict())
            raise _Refused(404, "NoRoute", f"no route for {self.command} {path}")
        except _Refused as error:
            text = json.dumps({"error": str(error)}).encode()
            headers = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            self._send(error.status, text, **headers)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), **{"Content-Type": "application/json"})

    def _is_known(self) -> bool:
        """Returns True for a valid token; raises an error for another one."""
        value = self.headers.get("Authorization")
        if value not in (None, f"Bearer {TOKEN}"):
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        return value is not None

    def _repository(self, kind: str, name: str, *, content: bool = False) -> Repository:
        """Returns a repository; `content` is whether its files are requested."""
        is_known = self._is_known()
        repository = self.state.repositories.get((kind, name))
        if repository is None or (repository.private and not is_known):
            raise _Refused(404 if is_known else 401, "RepoNotFound", "Repository not found")
        if content and repository.gated and not is_known:
            raise _Refused(401, "GatedRepo", f"Access to model {name} is restricted")
        return repository

    def _files(self, repository: Repository, revision: str) -> dict[str, bytes]:
        files = repository.files(revision)
        if files is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return files

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        """Describes a repository."""
        kind = _KINDS[kind]
        repository = self._repository(kind, name)
        files = self._files(repository, revision or "main") if repository.commits else {}
        sha = repository.refs.get(revision or "main", revision)
        description = {"id": name, "private": repository.private, "gated": repository.gated}
        siblings = [{"rfilename": path} for path in sorted(files)]
        self._json({**description, "sha": sha, "siblings": siblings, "tags": []})

    def tree(self, kind: str, name: str, revision: str) -> None:
        """Lists the files of a repository."""
        repository = self._repository(_KINDS[kind], name)
        entries = []
        for path, content in sorted(self._files(repository, revision).items()):
            digest = hashlib.sha256(content).hexdigest()
            entry = {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            if len(content) >= _LARGE:
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self._json(entries)

    def resolve(self, name: str, revision: str, path: str, kind: str | None = None) -> None:
        """Returns a file, or redirects to the storage of large files."""
        repository = self._repository(_KINDS[kind or "models"], name, content=True)
        files = self._files(repository, revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        content, commit = files[path], repository.refs.get(revision, revision)
        if len(content) < _LARGE:
            return self._send(
                200, content, **{"X-Repo-Commit": commit, "ETag": f'"{_oid(content)}"'}
            )
        digest = hashlib.sha256(content).hexdigest()
        self.state.blobs[digest] = content
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{self.state.storage}/{digest}",
        }
        return self._send(302, b"", **headers)

    def blob(self, digest: str) -> None:
        """Returns a large file, or the rest of it."""
        content = self.state.blobs[digest]
        start = int(re.sub(r"\D", "", self.headers.get("Range", "0").partition("-")[0]) or 0)
        self._send(206 if start else 200, content[start:], ETag=f'"{digest}"')

    def whoami(self) -> None:
        """Names the owner of the token."""
        if not self._is_known():
            raise _Refused(401, "", "Invalid user token")
        self._json({"type": "user", "name": "me", "orgs": [{"name": "org"}], "auth": {}})

    def _write_to(self, kind: str, name: str) -> Repository:
        if not self._is_known():
            raise _Refused(401, "", "Unauthorized")
        if name.partition("/")[0] not in ("me", "org"):
            raise _Refused(403, "", f"You don't have the rights to write to {name}")
        return self._repository(_KINDS[kind], name)

    def create(self) -> None:
        """Creates a repository."""
        request = json.loads(self.body)
        name = f"{request.get('organization') or 'me'}/{request['name']}"
        kind = request.get("type") or "model"
        if not self._is_known():
            raise _Refused(401, "", "Unauthorized")
        if name.partition("/")[0] not in ("me", "org"):
            raise _Refused(403, "", f"You don't have the rights to create {name}")
        if (kind, name) in self.state.repositories:
            raise _Refused(409, "", "You already created this model repo")
        is_private = request.get("private") or request.get("visibility") == "private"
        self.state.repositories[kind, name] = Repository(private=bool(is_private))
        self.state.repositories[kind, name].commit({".gitattributes": b""})
        self._json({"url": f"{self.state.url}/{name}", "name": name, "id": name})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        """Says for each file whether it belongs to the repository or to the storage."""
        del revision
        self._write_to(kind, name)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= _LARGE else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._json({"files": files})

    def batch(self, name: str) -> None:
        """Says where large files are uploaded to."""
        self._write_to("models", name)
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.state.storage}/{item['oid']}"}}}
            for item in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def store(self, digest: str) -> None:
        """Stores a large file."""
        if hashlib.sha256(self.body).hexdigest() != digest:
            raise _Refused(400, "", "wrong digest")
        self.state.blobs[digest] = self.body
        self._send(200, b"")

    def commit(self, kind: str, name: str, revision: str) -> None:
        """Commits files."""
        repository = self._write_to(kind, name)
        files = {}
        for line in self.body.splitlines():
            key, value = (json.loads(line)[part] for part in ("key", "value"))
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.state.blobs[value["oid"]]
        sha = repository.commit(files, revision)
        url = f"{self.state.url}/{name}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def check_card(self) -> None:
        """Accepts the metadata of a model card."""
        self._json({"errors": [], "warnings": []})


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_KIND, _NAME = "(?P<kind>models|datasets)", "(?P<name>[^/]+(?:/[^/]+)?)"
_REV, _BLOB = "(?P<revision>[^?]+?)", "/storage/(?P<digest>[0-9a-f]{64})"
_ROUTES = [
    ("GET /api/whoami-v2", _Handler.whoami),
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.check_card),
    (f"GET /api/{_KIND}/{_NAME}/revision/{_REV}", _Handler.info),
    (f"GET /api/{_KIND}/{_NAME}/tree/{_REV}", _Handler.tree),
    (f"POST /api/{_KIND}/{_NAME}/preupload/{_REV}", _Handler.preupload),
    (f"POST /api/{_KIND}/{_NAME}/commit/{_REV}", _Handler.commit),
    (f"GET /api/{_KIND}/{_NAME}", _Handler.info),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (f"(GET|HEAD) {_BLOB}", _Handler.blob),
    (f"PUT {_BLOB}", _Handler.store),
    (
        "(GET|HEAD) /(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)/resolve/"
        "(?P<revision>refs/[^/]+/[^/]+|[^/]+)/(?P<path>.+)",
        _Handler.resolve,
    ),
]


@contextlib.contextmanager
def connected(cache: pathlib.Path) -> Iterator[Hub]:
    """Starts the server; huggingface_hub uses it in this process, with a new cache."""
    from huggingface_hub import constants

    with running() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        patch.delenv("HF_TOKEN", raising=False)
        yield hub


def environment(hub: Hub, home: pathlib.Path) -> dict[str, str]:
    """Returns the variables with which a command uses the server."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
