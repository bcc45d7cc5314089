"""A web server on loopback as packages come from: signed redirects, pages by Accept, logins, bodies that break off."""

from __future__ import annotations

import os
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional

BIG = bytes(range(256)) * 4096


class WebOrigin:
    """Serves https with `context`, http without. `seen` has what was asked: method, path, headers in lower case.

    /release leads to /signed with another signature each time, which alone opens it; /breaks ends in the midst as
    often as `breaks` says.
    """

    def __init__(self, context: Optional[ssl.SSLContext] = None) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.breaks = 0
        self.signatures: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.origin = self  # type: ignore[attr-defined]
        if context:
            # The handshake belongs to the connection's own thread.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{'https' if context else 'http'}://localhost:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def paths(self) -> list[str]:
        """What was asked for, without queries."""
        return [f"{method} {path.partition('?')[0]}" for method, path, _ in self.seen]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        origin: WebOrigin = self.server.origin  # type: ignore[attr-defined]
        headers = {name.lower(): value for name, value in self.headers.items()}
        origin.seen.append((self.command, self.path, headers))
        path, _, query = self.path.partition("?")
        if path == "/release":
            signature = os.urandom(8).hex()
            origin.signatures.add(signature)
            location = f"{origin.url}/signed?se=1&sig={signature}"
            self.reply(302, f"see {location}".encode(), Location=location)
        elif path == "/signed":
            opened = query.rpartition("sig=")[2] in origin.signatures
            self.reply(200, b"the release", Content_Type="application/gzip") if opened else self.reply(403)
        elif path == "/relative":
            self.reply(301, Location="page#part")
        elif path == "/page":
            page = f"page for {headers.get('accept')}".encode()
            self.reply(200, page, Vary="Accept, Cookie", Content_Type="text/html", ETag='"1"', Set_Cookie="session=1")
        elif path == "/login":
            known = "authorization" in headers
            self.reply(200, b"private") if known else self.reply(401, WWW_Authenticate='Basic realm="x"')
        elif path == "/token":
            self.reply(200, f"for {query}".encode())
        elif path == "/pages":
            link = f'</pages?page=2&apiKey={headers["x-jfrog-art-api"]}>; rel="next"'
            there = f"{origin.url}/pages?sig={headers['x-jfrog-art-api']}"
            self.reply(200, b"one", Link=link, Content_Location=there, X_There=there, Vary="X-JFrog-Art-Api")
        elif path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nhello\r\n" * 3 + b"0\r\n\r\n")
        elif path == "/big":
            self.reply(200, BIG)
        elif path == "/breaks" and origin.breaks:
            origin.breaks -= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(BIG)))
            self.end_headers()
            self.wfile.write(BIG[: len(BIG) // 2])
            self.close_connection = True
        elif path == "/breaks":
            self.reply(200, BIG)
        elif path == "/busy":
            self.reply(503)
        elif path.startswith("/v2/files/"):
            self.reply(200, b"no registry's")
        elif path.startswith("/v2/"):
            self.reply(307, Location=f"{origin.url}/blob")
        elif path == "/blob":
            self.reply(200, b"a layer")
        else:
            self.reply(404, b"no such page")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.origin.seen.append(("POST", self.path, {}))  # type: ignore[attr-defined]
        self.reply(200, b"posted " + body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
