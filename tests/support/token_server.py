"""A server of tokens that distribution takes (its docs, spec/auth/jwt.md), with accounts that may do more or less.

with TokenServer(tmp_path, certificate, {"ci": ("secret", {"pull", "push"})}) as tokens:
    RealRegistry("distribution3", tmp_path, tls=certificate, tokens=tokens)
"""

from __future__ import annotations

import base64
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Optional
from urllib.parse import parse_qs, urlsplit

from tests.support.fake_registry import Certificate

SERVICE, ISSUER = "site registry", "site tokens"
# distribution takes a token for so many seconds longer than it says.
LEEWAY = 60


class TokenServer:
    """Serves HTTPS on 127.0.0.1, as `registry.example`.

    Args:
        directory: for the key that signs, and its certificate.
        tls: what it shows.
        accounts: name -> password, and what it may do with any repository.
        lifetime: how many seconds distribution takes a token; what it tells clients is 300 in any case.
        listener: a socket to serve at instead.
    """

    def __init__(
        self,
        directory: Path,
        tls: Certificate,
        accounts: Mapping[str, tuple[str, Collection[str]]],
        lifetime: float = 300,
        listener: Optional[socket.socket] = None,
    ) -> None:
        self.accounts, self.lifetime = accounts, lifetime
        self.key, self.bundle = directory / "signing.key", directory / "signing.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens"]
        command += ["-keyout", str(self.key), "-out", str(self.bundle)]
        subprocess.run(command, check=True, capture_output=True)
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.file, tls.key)
        handler = type("Handler", (_Handler,), {"tokens": self})
        listener = listener or socket.create_server(("127.0.0.1", 0))
        self._server = http.server.ThreadingHTTPServer(listener.getsockname(), handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self.realm = f"https://registry.example:{listener.getsockname()[1]}/token"
        self._server.socket = context.wrap_socket(listener, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def configuration(self) -> dict[str, Any]:
        """The `auth` of distribution's configuration."""
        bundle = str(self.bundle)
        return {"token": {"realm": self.realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": bundle}}

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(self, user: str, scopes: Collection[str]) -> str:
        """Sign a token with what of `scopes` the user may do."""
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":", 2)
            granted = [action for action in actions.split(",") if action in self.accounts[user][1]]
            access.append({"type": kind, "name": name, "actions": granted})
        claims = {"iss": ISSUER, "sub": user, "aud": SERVICE, "nbf": now - 100, "iat": now - 100, "access": access}
        claims |= {"exp": int(now + self.lifetime - LEEWAY), "jti": uuid.uuid4().hex}
        lines = self.bundle.read_text().splitlines()
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(line for line in lines if "-----" not in line)]}
        signed = b".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        signature = subprocess.run(command, input=signed, check=True, capture_output=True).stdout
        return b".".join((signed, _encoded(signature))).decode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tokens: TokenServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        user, _, password = "", "", ""
        given = self.headers.get("Authorization", "")
        if given.startswith("Basic "):
            user, _, password = base64.b64decode(given[len("Basic ") :]).decode().partition(":")
        self._give(user, password, tuple(parse_qs(urlsplit(self.path).query).get("scope", [])))

    def do_POST(self) -> None:
        """OAuth 2, as BuildKit and docker ask: the login is in the form."""
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        user, password = (form.get(name, [""])[0] for name in ("username", "password"))
        self._give(user, password, tuple(form.get("scope", [""])[0].split()))

    def _give(self, user: str, password: str, scopes: tuple[str, ...]) -> None:
        self.tokens.asked.append((user, scopes))
        if self.tokens.accounts.get(user, ("", ()))[0] != password or not user:
            return self._answer(401, {"details": "incorrect username or password"})
        token = self.tokens.token(user, scopes)
        return self._answer(200, {"token": token, "access_token": token, "expires_in": 300})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
