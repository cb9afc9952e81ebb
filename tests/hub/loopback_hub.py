"""A Hub on loopback: what huggingface_hub and transformers ask of huggingface.co, from memory.

Repositories have commits, branches and tags; large files go the LFS way (upload first, then name
them in the commit), so `HF_HUB_DISABLE_XET=1` must be set in clients. Files are visible at a commit
or not at all. A test can close a repository, and break or hold connections half-way.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

OWNER, TOKEN = "ada", "hf_" + "a" * 34


class Blob(NamedTuple):
    content: bytes
    lfs: bool

    @property
    def etag(self) -> str:
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        header = f"blob {len(self.content)}\0".encode()
        return hashlib.sha1(header + self.content).hexdigest()


@dataclass
class Repository:
    private: bool = False
    access: str = "open"  # or "gated": known users only, or "refused": not this user
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, Blob], branch: str = "main") -> str:
        said = json.dumps([sorted((n, b.etag) for n, b in files.items()), len(self.commits)])
        sha = hashlib.sha1(said.encode()).hexdigest()
        self.commits[sha] = files
        self.refs[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        sha = self.refs.get(revision) or self.tags.get(revision) or revision
        return sha if sha in self.commits else None


class Broken(Exception):
    """The connection is to end here."""


class LoopbackHub:
    """The server's state, and the faults that a test asks for.

    Attributes:
        break_download: Path of a file whose next download breaks off half-way.
        hold: If given, connections stop half-way through large files, in either direction, and
            end when it is set.
        held: Set when a file is being held.
        log: Method and path of every request, with its `Range` if it has one.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.break_download: str | None = None
        self.hold: threading.Event | None = None
        self.held = threading.Event()
        self.log: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def running(self) -> Iterator["LoopbackHub"]:
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[repo]
        sha = repository.resolve(revision)
        return {n: b.content for n, b in repository.commits[sha].items()} if sha else {}


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


# Method, pattern of the path, name of the method that answers.
_ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
    ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/(\w+)", "store"),
    ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
    ("POST", r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", "branch"),
    ("POST", r"/api/models/([^/]+/[^/]+)/tag/([^/]+)", "tag"),
    ("GET", r"/api/models/([^/]+/[^/]+)/refs", "list_refs"),
    ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", "tree"),
    ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", "info"),
    ("HEAD|GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
]


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET

    def _route(self) -> None:
        path = urlsplit(self.path).path
        wanted = self.headers.get("Range")
        self.hub.log.append(f"{self.command} {path}" + (f" {wanted}" if wanted else ""))
        found = [
            (name, match.groups())
            for methods, pattern, name in _ROUTES
            if self.command in methods.split("|") and (match := re.fullmatch(pattern, path))
        ]
        name, groups = found[0] if found else ("unknown", (path,))
        try:
            getattr(self, name)(*(None if one is None else unquote(one) for one in groups))
        except Refusal as refusal:
            self._send({"error": str(refusal)}, refusal.status, {"X-Error-Code": refusal.code})
        except (Broken, ConnectionError):
            self.close_connection = True

    def unknown(self, path: str) -> None:
        raise Refusal(404, "", f"This Hub does not know {self.command} {path}.")

    def _send(self, content: Any, status: int = 200, headers: dict | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(key, str(value))
        if status >= 400 and isinstance(content, dict):
            self.send_header("X-Error-Message", str(content["error"]))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self) -> Any:
        return json.loads(self._body() or b"{}")

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, repo: str, *, write: bool = False) -> Repository:
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and not self._is_known()):
            # The Hub does not tell strangers what is private and what is not there.
            status = 404 if self._is_known() else 401
            raise Refusal(status, "RepoNotFound", "Repository not found")
        if write and not self._is_known():
            raise Refusal(403, "", "You need a token that may write here")
        if not write and (
            found.access == "refused" or (found.access == "gated" and not self._is_known())
        ):
            status = 403 if self._is_known() else 401
            raise Refusal(status, "GatedRepo", f"Access to model {repo} is restricted")
        return found

    def _commit_of(self, repo: str, revision: str | None) -> tuple[str, dict[str, Blob]]:
        repository = self._repository(repo)
        sha = repository.resolve(revision or "main")
        if sha is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, repository.commits[sha]

    def whoami(self) -> None:
        if not self._is_known():
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        self._send({"type": "user", "name": OWNER, "orgs": []})

    def create(self) -> None:
        asked = self._json()
        if not self._is_known():
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        if asked.get("organization") not in (None, OWNER):
            raise Refusal(403, "", f"You may not write into {asked['organization']}")
        repo = f"{OWNER}/{asked['name']}"
        said = {"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo}
        if repo in self.hub.repositories:
            self._send({**said, "error": "You already created this model repo"}, 409)
            return
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories[repo] = Repository(private=bool(private))
        self.hub.repositories[repo].commit({".gitattributes": Blob(b"", False)})
        self._send(said)

    def validate(self) -> None:
        self._body()
        self._send({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        asked = self._json()
        self._repository(repo, write=True)
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for one in asked["files"]
        ]
        self._send({"files": files})

    def batch(self, repo: str) -> None:
        asked = self._json()
        self._repository(repo, write=True)
        objects: list[dict] = []
        for one in asked["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}
            objects.append(entry)
        self._send({"transfer": "basic", "objects": objects})

    def _hold(self) -> None:
        """Stop here, and for good, if a test wants it."""
        if self.hub.hold is not None:
            self.hub.held.set()
            self.hub.hold.wait()
            raise Broken

    def store(self, oid: str) -> None:
        size = int(self.headers["Content-Length"])
        content = self.rfile.read(size // 2)
        self._hold()
        content += self.rfile.read(size - len(content))
        if hashlib.sha256(content).hexdigest() != oid:
            raise Broken
        self.hub.objects[oid] = content
        self._send({})

    def commit(self, repo: str, branch: str) -> None:
        lines = [json.loads(line) for line in self._body().splitlines() if line]
        repository = self._repository(repo, write=True)
        if branch not in repository.refs:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        files = dict(repository.commits[repository.refs[branch]])
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                files[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
            elif key == "deletedFile":
                files.pop(value["path"], None)
        sha = repository.commit(files, branch)
        url = f"{self.hub.url}/{repo}/commit/{sha}"
        self._send({"success": True, "commitOid": sha, "commitUrl": url})

    def branch(self, repo: str, name: str) -> None:
        asked = self._json()
        repository = self._repository(repo, write=True)
        if name in repository.refs:
            raise Refusal(409, "", f"Reference already exists: {name}")
        repository.refs[name] = repository.resolve(asked.get("startingPoint", "main")) or ""
        self._send({})

    def tag(self, repo: str, revision: str) -> None:
        asked = self._json()
        repository = self._repository(repo, write=True)
        repository.tags[asked["tag"]] = repository.resolve(revision) or ""
        self._send({})

    def list_refs(self, repo: str) -> None:
        repository = self._repository(repo)
        shown = {
            kind: [{"name": n, "ref": f"refs/{way}/{n}", "targetCommit": s} for n, s in refs]
            for kind, way, refs in (
                ("branches", "heads", repository.refs.items()),
                ("tags", "tags", repository.tags.items()),
            )
        }
        self._send({**shown, "converts": []})

    def tree(self, repo: str, revision: str, folder: str | None) -> None:
        _, files = self._commit_of(repo, revision)
        if folder is not None:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
        entries: list[dict] = []
        for path, blob in files.items():
            size = len(blob.content)
            entry = {"type": "file", "path": path, "size": size, "oid": blob.etag}
            if blob.lfs:
                entry["lfs"] = {"oid": blob.etag, "size": size, "pointerSize": 130}
            entries.append(entry)
        self._send(entries)

    def info(self, repo: str, revision: str | None) -> None:
        sha, files = self._commit_of(repo, revision)
        private = self.hub.repositories[repo].private
        siblings = [{"rfilename": name} for name in files]
        self._send({"id": repo, "sha": sha, "private": private, "siblings": siblings})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        sha, files = self._commit_of(repo, revision)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if path not in files:
            self._send(
                {"error": "Entry not found"}, 404, {**headers, "X-Error-Code": "EntryNotFound"}
            )
            return
        blob = files[path]
        headers |= {"ETag": f'"{blob.etag}"'}
        if blob.lfs:
            headers |= {"X-Linked-ETag": f'"{blob.etag}"', "X-Linked-Size": len(blob.content)}
        content, status = blob.content, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, total = int(wanted[1]), len(content)
            content, status = content[first:], 206
            headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
        breaks = self.hub.break_download == path
        holds = self.hub.hold is not None and blob.lfs
        if self.command != "GET" or not (breaks or holds):
            self._send(content, status, headers)
            return
        self.send_response(status)
        for key, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        self.wfile.flush()
        if breaks:
            self.hub.break_download = None
            raise Broken
        self._hold()
