"""A registry in memory that can be told to fail: for tests of everything that reads from registries or writes to one.

    with FakeRegistry() as registry:
        amd64, arm64 = registry.image("linux/amd64"), registry.image("linux/arm64")
        index = registry.index(amd64, arm64, registry.attestation(amd64))
        registry.tag("library/debian", "12", index)
        registry.fault("GET", "/blobs/", cut_after=1000)     # the next download breaks, once
        ...                                                  # use registry.host
        assert registry.paths("GET", "/blobs/") == [...]

It speaks HTTP/1.1 on 127.0.0.1, over TLS when given a certificate, and follows distribution-spec v1.1.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.server
import json
import re
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Optional, Union
from urllib.parse import parse_qs, urlsplit

from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from tests.support.images import Content

_ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>blobs|manifests|tags)/(?P<rest>.+)")


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as it came; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body_size: int

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")

    @property
    def is_ping(self) -> bool:
        return self.path == "/v2/"


@dataclasses.dataclass
class Fault:
    """What goes wrong with the next `times` requests of `method` whose path has `part` in it; -1 is for ever.

    `status` answers with that, with `headers` and `body`. `redirect` answers 307 to that address. `close` closes
    without an answer. The others bend what would have been the answer: `cut_after` so many bytes the connection breaks;
    `corrupt` turns over its first bit; `longer` and `shorter` announce and send so many bytes more or less;
    `no_length` announces nothing, then closes; `drip` waits so many seconds between its pieces, and `drip_head` between
    the bytes of its head; `extra` are headers put over those of the answer. `before` is called first.
    """

    method: str
    part: str
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    redirect: str = ""
    close: bool = False
    cut_after: int = -1
    corrupt: bool = False
    longer: int = 0
    shorter: int = 0
    no_length: bool = False
    drip: float = 0
    drip_head: float = 0
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    before: Optional[Callable[[], None]] = None


@dataclasses.dataclass(frozen=True)
class Refusal:
    """An answer that is an error; `{}` in `message` and `detail` is what it is about."""

    status: int
    code: str
    message: str
    detail: Optional[str] = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


# An index with a missing child: distribution 2.8.3, and Harbor 2.15 (src/server/registry/manifest.go).
MANIFEST_BLOB_UNKNOWN = Refusal(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
ARTIFACT_NOT_FOUND = Refusal(404, "NOT_FOUND", "artifact {} not found")
TOO_LARGE = (
    b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n"
    b"<center><h1>413 Request Entity Too Large</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n"
    b"</body>\r\n</html>\r\n"
)
DENIED = Refusal(
    403,
    "DENIED",
    "adding 29.0 MiB of storage resource, which when updated to current usage of 1.0 GiB will exceed the configured "
    "upper limit of 1.0 GiB.",
)


@dataclasses.dataclass
class Repository:
    blobs: set[Digest] = dataclasses.field(default_factory=set)
    manifests: dict[Digest, str] = dataclasses.field(default_factory=dict)
    tags: dict[str, Digest] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A TLS certificate and its key; it is its own CA. `file` is what a client has to trust."""

    file: Path
    key: Path

    @classmethod
    def make(cls, directory: Path, *names: str) -> Certificate:
        """For 127.0.0.1, localhost and `names`."""
        self = cls(directory / "certificate.pem", directory / "key.pem")
        subjects = ",".join(["IP:127.0.0.1", "DNS:localhost", *(f"DNS:{name}" for name in names)])
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=fake registry", "-keyout", str(self.key), "-out", str(self.file)]
        for extension in (f"subjectAltName={subjects}", "keyUsage=critical,digitalSignature,keyCertSign"):
            command += ["-addext", extension]
        subprocess.run(command, check=True, capture_output=True)
        return self

    def issue(self, directory: Path, *names: str, with_authority: bool = True) -> Certificate:
        """Make another one for `names` that this one has signed; it presents this one too, as its CA, if so wanted.

        An address is written `IP:192.168.10.10`.
        """
        issued = Certificate(directory / "issued.pem", directory / "issued-key.pem")
        subjects = "subjectAltName=" + ",".join(name if ":" in name else f"DNS:{name}" for name in names)
        command = ["openssl", "req", "-x509", "-CA", str(self.file), "-CAkey", str(self.key), "-newkey", "ec"]
        command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=issued"]
        command += ["-keyout", str(issued.key), "-out", str(issued.file), "-addext", subjects]
        subprocess.run([*command, "-addext", "basicConstraints=critical,CA:FALSE"], check=True, capture_output=True)
        if with_authority:
            issued.file.write_text(issued.file.read_text() + self.file.read_text())
        return issued


class FakeRegistry(Content):
    """See the module. Attributes may be changed while it runs.

    Args:
        tls: serve HTTPS with this certificate.
        auth: None, `basic` or `bearer`.
        users: name -> password.
        members: name -> the part of the registry that is open to that user; users that are not here may go anywhere.
        client_ca: with tls: a CA whose certificates clients have to show.
        identity_tokens: refresh tokens that the token server takes.
        anonymous_pull: with bearer: tokens for reading are given to everyone.
        token_lifetime: `expires_in`, and how long tokens are taken, in seconds.
        token_realm: the token server's address, when it is not this server.
        ranges: whether Range is understood.
        digest_header: whether answers have Docker-Content-Digest.
        mounts: whether blobs can be mounted from another repository: else an upload is opened; or the answer to such a
            wish.
        page_size: at most so many entries in a list.
        sparse_index: the answer to an index with a missing child; without one it is taken.
        upload_base: an address put before the Location of uploads, which is relative otherwise.
        projects: the first parts of names that exist, as Harbor has it: for others the token server gives a token that
            is good for nothing, and the registry answers 401 without saying how to log in.
        created: the repositories that exist, where none is made by a push.
        immutable_tag: the answer to a tag that is there already, be it with the same manifest.
        quota: how many bytes of blobs it takes.
        over_quota: what it says to more.
        deletion: the answer to who wants to delete a manifest or tag; without one that is done.
        tag_deletion: the answer to who wants to delete a tag alone.
        held: the answer to who wants to delete a manifest that an index lists, which goes with the index.
        catalog: the answer to who asks for the list of repositories, when that is not the list.
        closed: whether /v2/ itself is nobody's, with 401 for tokens that are good for repositories.
        largest_body: how many bytes a request may have: the limit of a proxy in front, which closes the connection.
        chunks: whether blobs can be uploaded in pieces: the answer to who tries.
        smallest_chunk: what it says in OCI-Chunk-Min-Length, and refuses pieces below, but the last.
        token_uses: how many requests a token is good for.
    """

    def __init__(
        self,
        *,
        tls: Optional[Certificate] = None,
        auth: Optional[str] = None,
        users: Optional[Mapping[str, str]] = None,
        members: Optional[Mapping[str, str]] = None,
        client_ca: Optional[Path] = None,
        identity_tokens: frozenset[str] = frozenset(),
        anonymous_pull: bool = True,
        token_lifetime: float = 300,
        token_realm: Optional[str] = None,
        ranges: bool = True,
        digest_header: bool = True,
        mounts: Union[bool, Refusal] = True,
        page_size: int = 1000,
        sparse_index: Optional[Refusal] = None,
        upload_base: str = "",
        projects: Optional[frozenset[str]] = None,
        created: Optional[frozenset[str]] = None,
        immutable_tag: Optional[Refusal] = None,
        quota: Optional[int] = None,
        over_quota: Refusal = DENIED,
        catalog: Optional[Refusal] = None,
        closed: bool = False,
        deletion: Optional[Refusal] = None,
        tag_deletion: Optional[Refusal] = None,
        held: Optional[Refusal] = None,
        largest_body: Optional[int] = None,
        chunks: Optional[Refusal] = None,
        smallest_chunk: int = 0,
        token_uses: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.auth, self.users, self.identity_tokens = auth, dict(users or {}), identity_tokens
        self.anonymous_pull, self.token_lifetime, self.token_realm = anonymous_pull, token_lifetime, token_realm
        self.ranges, self.digest_header, self.mounts, self.page_size = ranges, digest_header, mounts, page_size
        self.sparse_index, self.upload_base = sparse_index, upload_base
        self.projects, self.created, self.immutable_tag = projects, created, immutable_tag
        self.quota, self.over_quota, self.catalog, self.deletion = quota, over_quota, catalog, deletion
        self.tag_deletion, self.held = tag_deletion, held
        self.closed = closed
        self.largest_body, self.chunks, self.smallest_chunk = largest_body, chunks, smallest_chunk
        self.token_uses = token_uses
        self.uses: dict[str, int] = {}
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.uploads: dict[str, bytearray] = {}
        self.tokens: dict[str, tuple[dict[str, set[str]], float]] = {}
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.scheme = "https" if tls else "http"
        self.members = dict(members or {})
        self._server = _Server(self, tls, client_ca)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def host(self) -> str:
        """`127.0.0.1:port`, to be used as a registry's name."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def __enter__(self) -> FakeRegistry:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; connections are cut. May be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.end()

    # What is in it

    def repository(self, name: str) -> Repository:
        """The repository, new when there was none."""
        with self.lock:
            return self.repositories.setdefault(name, Repository())

    def tag(self, repository: str, tag: str, descriptor: Descriptor) -> Descriptor:
        """Put a manifest or index, and all that it refers to, under a tag."""
        self.link(repository, descriptor)
        self.repository(repository).tags[tag] = descriptor.digest
        return descriptor

    def link(self, repository: str, descriptor: Descriptor, children: bool = True) -> Descriptor:
        """Put content into a repository, what it refers to included; without, an index is sparse."""
        target = self.repository(repository)
        if descriptor.is_index or descriptor.is_manifest:
            target.manifests[descriptor.digest] = descriptor.media_type
            for child in self.children(descriptor) if children else ():
                if child.digest in self.content:
                    self.link(repository, child)
        else:
            target.blobs.add(descriptor.digest)
        return descriptor

    def blob(self, repository: str, data: bytes) -> Descriptor:
        """Put a blob into a repository."""
        return self.link(repository, self.add("application/octet-stream", data))

    @property
    def blob_size(self) -> int:
        """How many bytes the blobs have, each counted once."""
        with self.lock:
            blobs = set().union(*(repository.blobs for repository in self.repositories.values()))
        return sum(len(self.content[digest]) for digest in blobs)

    # What was asked, what goes wrong

    def fault(self, method: str, part: str, **what: Any) -> Fault:
        """Let the next such request fail, see `Fault`. The first one that fits is used up first."""
        fault = Fault(method, part, **what)
        with self.lock:
            self.faults.append(fault)
        return fault

    def seen(self, method: str = "", part: str = "") -> list[Request]:
        """The requests so far with this method and this in their path, pings of /v2/ left out."""
        with self.lock:
            return [
                each
                for each in self.requests
                if not each.is_ping and each.method in (method or each.method) and part in each.path
            ]

    def paths(self, method: str = "", part: str = "") -> list[str]:
        """The paths of `seen`."""
        return [each.path for each in self.seen(method, part)]

    def has_project(self, name: str) -> bool:
        return self.projects is None or name.partition("/")[0] in self.projects

    def expire_tokens(self) -> None:
        """Take no token that was given so far."""
        with self.lock:
            self.tokens.clear()

    def take_fault(self, method: str, path: str) -> Optional[Fault]:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.part in path:
                    fault.times -= 1
                    return fault
        return None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for them
    request_queue_size = 128

    def __init__(self, registry: FakeRegistry, tls: Optional[Certificate], client_ca: Optional[Path]) -> None:
        self.registry = registry
        self.tls: Optional[ssl.SSLContext] = None
        if tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(tls.file, tls.key)
            if client_ca:
                self.tls.load_verify_locations(client_ca)
                self.tls.verify_mode = ssl.CERT_REQUIRED
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def track(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def untrack(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def end(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.track(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.untrack(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients break connections in these tests; other failures show as missing answers."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    fault: Optional[Fault] = None
    name = "fake"

    def setup(self) -> None:
        """Greet a client of the other protocol as Go does, and not with silence."""
        self.encrypted: Optional[ssl.SSLSocket] = None
        is_tls = self.request.recv(1, socket.MSG_PEEK) == b"\x16"
        if is_tls != (self.server.tls is not None):
            self.request.recv(65536)  # what is left unread would turn the answer into a reset
            self.request.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
            raise ConnectionAbortedError
        if self.server.tls:
            raw = self.request
            self.request = self.encrypted = self.server.tls.wrap_socket(
                raw, server_side=True, do_handshake_on_connect=False
            )
            self.server.untrack(raw)
            self.server.track(self.encrypted)
            try:
                self.encrypted.do_handshake()
            except OSError:
                self._forget()
                raise
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self._forget()

    def _forget(self) -> None:
        if self.encrypted:
            self.server.untrack(self.encrypted)
            with contextlib.suppress(OSError):
                self.encrypted.shutdown(socket.SHUT_RDWR)
            self.encrypted.close()

    def version_string(self) -> str:
        return self.name

    def log_message(self, format: str, *args: Any) -> None:
        pass

    @property
    def registry(self) -> FakeRegistry:
        return self.server.registry

    def handle_any(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        size = int(headers.get("content-length", 0))
        if self.registry.largest_body is not None and size > self.registry.largest_body:
            return self.too_large(Request(self.command, self.path, headers, size))
        body = self.rfile.read(size)
        with self.registry.lock:
            self.registry.requests.append(Request(self.command, self.path, headers, len(body)))
        self.fault = self.registry.take_fault(self.command, self.path)
        if self.fault and self.fault.before:
            self.fault.before()
        if self.fault and self.fault.close:
            self.close_connection = True
        elif self.fault and self.fault.redirect:
            self.answer(307, b"", {"Location": self.fault.redirect}, whole=True)
        elif self.fault and self.fault.status:
            self.answer(self.fault.status, self.fault.body, self.fault.headers, whole=True)
        elif "transfer-encoding" in headers:
            self.close_connection = True
            self.error(411, "SIZE_INVALID", "uploads need a Content-Length")
        else:
            self.route(body)
        return None

    def too_large(self, request: Request) -> None:
        """As nginx does it: the answer at once, then what still comes is read and thrown away, then it closes."""
        self.close_connection, self.fault, self.name = True, None, "nginx/1.22.1"
        with self.registry.lock:
            self.registry.requests.append(request)
        self.answer(413, TOO_LARGE, {"Content-Type": "text/html", "Connection": "close"})
        left = request.body_size
        with contextlib.suppress(OSError):
            while left and (piece := self.rfile.read1(min(left, 1 << 20))):
                left -= len(piece)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def answer(
        self, status: int, data: bytes = b"", headers: Optional[Mapping[str, str]] = None, whole: bool = False
    ) -> None:
        """Send an answer, bent by the fault of this request unless it is to be `whole`."""
        fault = Fault("", "") if whole or not self.fault else self.fault
        if fault.corrupt and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        data = data[: len(data) - fault.shorter] + b"x" * fault.longer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {}), **fault.extra}.items():
            if not (fault.no_length and name == "Content-Length"):
                self.send_header(name, value)
        if fault.no_length:
            self.send_header("Connection", "close")
        if fault.drip_head:
            head, self._headers_buffer = b"".join(self._headers_buffer), []
            for start in range(len(head)):
                self.wfile.write(head[start : start + 1])
                time.sleep(fault.drip_head)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.cut_after >= 0:
            self.close_connection = True
            data = data[: fault.cut_after]
        step = 1000 if fault.drip else max(len(data), 1)
        for start in range(0, len(data), step):
            self.wfile.write(data[start : start + step])
            time.sleep(fault.drip)

    def json(self, value: Any, status: int = 200, headers: Optional[Mapping[str, str]] = None) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def error(
        self,
        status: int,
        code: str,
        message: str,
        headers: Optional[Mapping[str, str]] = None,
        detail: Optional[str] = None,
    ) -> None:
        self.json({"errors": [{"code": code, "message": message, "detail": detail}]}, status, headers)

    def refuse(self, refusal: Refusal, subject: str) -> None:
        detail = refusal.detail and refusal.detail.format(subject)
        self.error(refusal.status, refusal.code, refusal.message.format(subject), refusal.headers, detail)

    def route(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/token":
            return self.token(body)
        found = _ROUTE.fullmatch(parts.path)
        name = found["name"] if found else ""
        if not self.allowed(name):
            return None
        if parts.path == "/v2/":
            return self.json({})
        if parts.path == "/v2/_catalog" and self.registry.catalog:
            return self.refuse(self.registry.catalog, "the catalog")
        if parts.path == "/v2/_catalog":
            return self.listing("repositories", sorted(self.registry.repositories), query, "/v2/_catalog")
        if not found:
            return self.error(404, "NAME_UNKNOWN", "no such page")
        if self.registry.created is not None and name not in self.registry.created:
            return self.error(404, "NAME_UNKNOWN", f"The repository with name '{name}' does not exist in the registry")
        if found["kind"] == "blobs" and found["rest"].startswith("uploads/"):
            return self.upload(name, found["rest"][len("uploads/") :], query, body)
        if found["kind"] == "blobs":
            return self.blob(name, found["rest"])
        if found["kind"] == "manifests":
            if self.command == "DELETE":
                return self.delete_manifest(name, found["rest"])
            return (
                self.put_manifest(name, found["rest"], body)
                if self.command == "PUT"
                else self.manifest(name, found["rest"])
            )
        repository = self.registry.repositories.get(name)
        if repository is None:
            return self.error(404, "NAME_UNKNOWN", "repository name not known to registry")
        return self.listing("tags", sorted(repository.tags), query, parts.path, {"name": name})

    # Logins

    def allowed(self, name: str) -> bool:
        registry = self.registry
        given = self.headers.get("Authorization", "")
        if registry.auth is None:
            return True
        # Harbor lets who reads log in first.
        if name and not registry.has_project(name) and (given or self.command not in ("GET", "HEAD")):
            self.error(401, "UNAUTHORIZED", f"project {name.partition('/')[0]} not found", {"WWW-Authenticate": ""})
            return False
        action = "pull" if self.command in ("GET", "HEAD") else "push"
        if self.command == "DELETE" and "/manifests/" in self.path:
            action = "delete"
        if registry.auth == "basic":
            user = self.user()
            if user is not None and self.is_open_to(user, name):
                return True
            challenge = 'Basic realm="fake, registry"'
        else:
            with registry.lock:
                scopes, expires = registry.tokens.get(given[len("Bearer ") :], ({}, 0.0))
                registry.uses[given] = registry.uses.get(given, 0) + 1
                if registry.token_uses is not None and registry.uses[given] > registry.token_uses:
                    scopes, expires = {}, 0.0
            fresh = given.startswith("Bearer ") and expires > time.monotonic()
            closed = registry.closed and self.path == "/v2/"
            if fresh and not closed and (not name or action in scopes.get(name, ())):
                return True
            realm = registry.token_realm or f"{registry.url}/token"
            actions = {"pull": "pull", "push": "pull,push", "delete": "delete"}[action]
            scope = f',scope="repository:{name}:{actions}"' if name else ""
            challenge = f'Bearer realm="{realm}",service="fake, service"{scope}'
        self.error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})
        return False

    def user(self) -> Optional[str]:
        """Who sent this request with a Basic login."""
        given = self.headers.get("Authorization", "")
        if not given.startswith("Basic "):
            return None
        name, _, password = base64.b64decode(given[len("Basic ") :]).decode().partition(":")
        return name if self.registry.users.get(name) == password else None

    def is_open_to(self, user: str, name: str) -> bool:
        part = self.registry.members.get(user)
        return part is None or f"{name}/".startswith(f"{part}/")

    def token(self, body: bytes) -> None:
        registry = self.registry
        form = parse_qs(body.decode() if self.command == "POST" else urlsplit(self.path).query)
        user = self.user()
        if self.command == "POST":
            user = "identity" if form.get("refresh_token", [""])[0] in registry.identity_tokens else None
        if user is None and (self.command == "POST" or "Authorization" in self.headers or not registry.anonymous_pull):
            return self.error(401, "UNAUTHORIZED", "incorrect username or password")
        scopes: dict[str, set[str]] = {}
        for scope in " ".join(form.get("scope", [])).split():
            kind, name, actions = scope.split(":", 2)
            # A user gets a token anyway, which is good for nothing where that user has no access.
            open_to = registry.has_project(name) and (not user or self.is_open_to(user, name))
            wanted = set(actions.split(",")) if open_to else set()
            scopes[name if kind == "repository" else ""] = wanted if user else wanted & {"pull"}
        token = uuid.uuid4().hex
        with registry.lock:
            registry.tokens[token] = (scopes, time.monotonic() + registry.token_lifetime)
        return self.json(
            {"access_token" if self.command == "POST" else "token": token, "expires_in": registry.token_lifetime}
        )

    # Content

    def listing(
        self,
        key: str,
        entries: list[str],
        query: Mapping[str, str],
        path: str,
        more: Optional[Mapping[str, str]] = None,
    ) -> None:
        size = min(int(query.get("n", 100)), self.registry.page_size)
        rest = [entry for entry in entries if entry > query.get("last", "")]
        headers = {}
        if len(rest) > size:
            headers["Link"] = f'<{path}?n={size}&last={rest[size - 1]}>; rel="next"'
        self.json({**(more or {}), key: rest[:size]}, 200, headers)

    def blob(self, name: str, text: str) -> None:
        repository = self.registry.repositories.get(name, Repository())
        digest = Digest(text)
        if digest not in repository.blobs:
            return self.error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        data = self.registry.content[digest]
        headers = {"Content-Type": "application/octet-stream", **self.digest_header(digest)}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked or not self.registry.ranges:
            return self.answer(200, data, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if first > last:
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self.answer(206, data[first : last + 1], headers)

    def manifest(self, name: str, selector: str) -> None:
        repository = self.registry.repositories.get(name, Repository())
        digest = repository.tags.get(selector) or (Digest(selector) if ":" in selector else None)
        media_type = repository.manifests.get(digest) if digest else None
        if not digest or not media_type:
            return self.error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        if media_type not in ",".join(self.headers.get_all("Accept", [])):
            return self.error(404, "MANIFEST_UNKNOWN", f"{media_type} found, but accept header does not support it")
        return self.answer(
            200, self.registry.content[digest], {"Content-Type": media_type, **self.digest_header(digest)}
        )

    def digest_header(self, digest: Digest) -> dict[str, str]:
        return {"Docker-Content-Digest": str(digest)} if self.registry.digest_header else {}

    def put_manifest(self, name: str, selector: str, body: bytes) -> None:
        registry, repository = self.registry, self.registry.repository(name)
        descriptor = Descriptor.of(self.headers.get("Content-Type", ""), body)
        if ":" in selector and selector != str(descriptor.digest):
            return self.error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        if registry.immutable_tag and selector in repository.tags:
            return self.refuse(registry.immutable_tag, selector)
        with registry.lock:
            registry.content[descriptor.digest] = body
            missing = [
                child
                for child in registry.children(descriptor)
                if child.digest not in (repository.manifests if descriptor.is_index else repository.blobs)
            ]
            refusal = registry.sparse_index if descriptor.is_index else MANIFEST_BLOB_UNKNOWN
            if missing and refusal:
                return self.refuse(refusal, f"{name}@{missing[0].digest}")
            repository.manifests[descriptor.digest] = descriptor.media_type
            if ":" not in selector:
                repository.tags[selector] = descriptor.digest
        location = f"/v2/{name}/manifests/{descriptor.digest}"
        return self.answer(201, b"", {"Location": location, **self.digest_header(descriptor.digest)})

    def listed(self, digest: Digest) -> set[Digest]:
        """What an index lists; nothing when it is none."""
        value = json.loads(self.registry.content.get(digest, b"{}"))
        return {Digest(child["digest"]) for child in value.get("manifests", ())}

    def delete_manifest(self, name: str, selector: str) -> None:
        """As distribution does: a tag, or a manifest with all of its tags."""
        if self.registry.deletion:
            return self.refuse(self.registry.deletion, name)
        repository = self.registry.repositories.get(name, Repository())
        if ":" not in selector and self.registry.tag_deletion:
            return self.refuse(self.registry.tag_deletion, selector)
        if self.registry.held and ":" in selector:
            if any(Digest(selector) in self.listed(digest) for digest in repository.manifests):
                return self.refuse(self.registry.held, selector)
            tagged = set(repository.tags.values())
            for child in self.listed(Digest(selector)) - tagged:
                others = (digest for digest in repository.manifests if str(digest) != selector)
                if not any(child in self.listed(digest) for digest in others):
                    repository.manifests.pop(child, None)
        if ":" not in selector:
            gone = repository.tags.pop(selector, None)
        else:
            gone = Digest(selector) if repository.manifests.pop(Digest(selector), None) else None
            for tag in [tag for tag, digest in repository.tags.items() if digest == gone]:
                del repository.tags[tag]
        return self.answer(202) if gone else self.error(404, "MANIFEST_UNKNOWN", "manifest unknown")

    def upload(self, name: str, session: str, query: Mapping[str, str], body: bytes) -> None:
        registry = self.registry
        if self.command == "POST":
            if "mount" in query and isinstance(registry.mounts, Refusal):
                return self.refuse(registry.mounts, name)
            source = registry.repositories.get(query.get("from", ""), Repository())
            if registry.mounts and "mount" in query and Digest(query["mount"]) in source.blobs:
                registry.repository(name).blobs.add(Digest(query["mount"]))
                return self.answer(201, b"", {"Location": f"/v2/{name}/blobs/{query['mount']}"})
            session = uuid.uuid4().hex
            registry.uploads[session] = bytearray()
            return self.accepted(name, session)
        if session not in registry.uploads:
            return self.error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if self.command == "DELETE":
            del registry.uploads[session]
            return self.answer(204)
        if self.command == "GET":
            return self.accepted(name, session, 204)
        if query.get("_state") != self.state(session):
            return self.error(400, "BLOB_UPLOAD_INVALID", "the state of the upload is not the last one that was given")
        if self.command == "PATCH":
            return self.patch(name, session, body)
        data = bytes(registry.uploads.pop(session)) + body
        if query.get("digest") != str(Digest.of(data)):
            return self.error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        if registry.quota is not None and registry.blob_size + len(data) > registry.quota:
            return self.refuse(registry.over_quota, name)
        descriptor = registry.blob(name, data)
        location = f"/v2/{name}/blobs/{descriptor.digest}"
        return self.answer(201, b"", {"Location": location, **self.digest_header(descriptor.digest)})

    def patch(self, name: str, session: str, body: bytes) -> None:
        """Take a piece, as distribution, Gitea and zot do: with its place, which has to be the next one."""
        registry, held = self.registry, self.registry.uploads[session]
        if registry.chunks:
            return self.refuse(registry.chunks, name)
        place = f"{len(held)}-{len(held) + len(body) - 1}"
        if self.headers.get("Content-Range") != place or not body:
            return self.error(416, "BLOB_UPLOAD_INVALID", f"expected {place}")
        if registry.smallest_chunk and len(held) % registry.smallest_chunk:
            return self.error(400, "SIZE_INVALID", "the piece before this one was too small")
        held += body
        return self.accepted(name, session)

    def state(self, session: str) -> str:
        return f"state-{session}-{len(self.registry.uploads[session])}"

    def accepted(self, name: str, session: str, status: int = 202) -> None:
        location = f"{self.registry.upload_base}/v2/{name}/blobs/uploads/{session}?_state={self.state(session)}"
        held = len(self.registry.uploads[session])
        headers = {"Location": location, "Range": f"0-{max(held - 1, 0)}", "Docker-Upload-UUID": session}
        if self.registry.smallest_chunk:
            headers["OCI-Chunk-Min-Length"] = str(self.registry.smallest_chunk)
        self.answer(status, b"", headers)
