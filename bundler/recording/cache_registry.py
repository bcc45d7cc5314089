"""A registry on this machine that takes BuildKit's caches and nothing else, straight into the record.

What BuildKit exports to a directory goes through docker's pipes instead, which takes longer than compressing it.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional
from urllib.parse import parse_qs, urlsplit

from bundler.recording.directory import RecordDirectory
from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from bundles.runtime.closeable import Closeable

_BLOCK = 1 << 20
_MOST_MANIFEST = 4 << 20
# Seconds without a byte.
_TIMEOUT = 600
_ASK = 0.05  # seconds between two looks whether the server is to end: whoever closes it waits for that


class CacheRegistry(Closeable):
    """Listens on loopback until it is closed. Only who knows the name of its one repository can write to it.

    Args:
        record: takes the caches in.
    """

    def __init__(self, record: RecordDirectory) -> None:
        self._repository = secrets.token_hex(16)
        self._server = _Server(record, f"/v2/{self._repository}/")
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_ASK,), name="caches", daemon=True)
        self._thread.start()

    def reference(self, host: str, build: str) -> str:
        """Return where a build's cache is to be exported to, seen from where this machine is called `host`."""
        return f"{host}:{self.port}/{self._repository}:{build}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, record: RecordDirectory, start: str) -> None:
        self.record, self.start = record, start
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that leaves is no error.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    """As distribution-spec v1.1 says of pushing; there is no pulling."""

    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        kind, name = self._wanted()
        if self.path in ("/v2/", "/v2"):
            return self._reply(200)
        digest = _digest(name) if kind == "blobs" else None
        size = self.server.record.size_of(digest) if digest else None
        if size is None or self.command != "HEAD":
            return self._reply(404)
        return self._reply(200, {"Docker-Content-Digest": name}, size)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        kind, _ = self._wanted()
        self._drop_body()
        if kind != "blobs":
            return self._reply(404)
        return self._reply(202, {"Location": f"{self.server.start}blobs/uploads/{secrets.token_hex(8)}"})

    def do_PUT(self) -> None:
        kind, name = self._wanted()
        length = self._length()
        if length is None or not kind:
            self.close_connection = True
            return self._reply(404 if length is not None else 411)
        if kind == "manifests":
            return self._manifest(name, length)
        (digest,) = parse_qs(urlsplit(self.path).query).get("digest", [""])[:1]
        spool = self.server.record.spool()
        try:
            while length and (data := self.rfile.read(min(length, _BLOCK))):
                spool.write(data)
                length -= len(data)
            if length or not self.server.record.take_blob(spool, _digest(digest)):
                return self._reply(400)
        finally:
            spool.path.unlink(missing_ok=True)
        return self._reply(201, {"Docker-Content-Digest": digest})

    def _manifest(self, name: str, length: int) -> None:
        if length > _MOST_MANIFEST:
            self.close_connection = True
            return self._reply(413)
        data = self.rfile.read(length)
        try:
            parse_manifest(data)
        except UsageError:
            return self._reply(400)
        self.server.record.take_cache(name, data)
        return self._reply(201, {"Docker-Content-Digest": str(Digest.of(data))})

    def _wanted(self) -> tuple[str, str]:
        """Return what is asked for: blobs or manifests, and which; nothing for what is not of the repository."""
        path = urlsplit(self.path).path
        match = re.fullmatch(r"(blobs|manifests)/(.+)", path[len(self.server.start) :])
        return (match[1], match[2]) if match and path.startswith(self.server.start) else ("", "")

    def _length(self) -> Optional[int]:
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isdecimal() else None

    def _drop_body(self) -> None:
        # Nobody sends one with the request that begins an upload.
        self.close_connection = self.close_connection or bool(self._length())

    def _reply(self, status: int, headers: Optional[dict[str, str]] = None, length: int = 0) -> None:
        self.send_response_only(status)
        body = json.dumps({"errors": [{"code": "UNSUPPORTED"}]}).encode() if status >= 400 else b""
        body = b"" if self.command == "HEAD" else body
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) or length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: BuildKit says what fails."""


def _digest(text: str) -> Optional[Digest]:
    try:
        return Digest(text)
    except UsageError:
        return None
