"""Registries as they are released, from the testbed: distribution 3 and 2.8.3, with TLS and logins, and crane's.

And an nginx in front of them.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

from installer.model.registry.keys import Keys
from installer.model.registry.storage import S3Storage
from tests.support import ROOT
from tests.support.fake_registry import Certificate
from tests.support.ports import free_port
from tests.support.token_server import TokenServer

_CLONE_NEWNET = 0x40000000
USER, PASSWORD = "bundle", "hunter2-site"
# bcrypt of the password, of which distribution takes no other kind.
_HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuKFVXWW6Gf.T5BIoxnRfvbeeZafk7j/y\n"


@dataclasses.dataclass(frozen=True)
class Lan:
    """Where servers of a site listen that an air-gapped host reaches: an address in the network of the host.

    Args:
        pid: of a process in that network.
        ip, port: where the registry listens.
    """

    pid: int
    ip: str
    port: int

    @property
    def enter(self) -> list[str]:
        """What runs a command of this machine in that network."""
        return ["nsenter", "--target", str(self.pid), "--net"]

    def listen(self, port: int) -> socket.socket:
        """Listen in that network, for a server that runs in this process."""

        def enter() -> socket.socket:
            # Only this thread, which ends then, changes its network.
            libc = ctypes.CDLL(None, use_errno=True)
            with Path(f"/proc/{self.pid}/ns/net").open() as network:
                if libc.setns(network.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return socket.create_server((self.ip, port))

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(enter).result()


class RealRegistry:
    """Run distribution 3 or 2.8.3, or `crane registry serve`, on an ephemeral port of 127.0.0.1, in `directory`.

    with RealRegistry("distribution3", tmp_path, tls=certificate, login=True) as real:
        ...  # real.host, USER, PASSWORD

    Args:
        name: `distribution3`, `distribution2`, or `crane`, which has none of what follows.
        directory: for its storage, its configuration and its log.
        tls: serve HTTPS with this certificate.
        login: ask for a name and a password.
        tokens: take tokens from there, and nothing else.
        sparse: take an index with missing children, where there is such a setting.
        deletes: let tags and manifests be deleted.
        lan: the LAN that it is on: else it is on this machine's loopback.
        s3: keep everything in that bucket, with these keys; else in `directory`.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        tls: Optional[Certificate] = None,
        login: bool = False,
        tokens: Optional[TokenServer] = None,
        sparse: bool = True,
        deletes: bool = True,
        lan: Optional[Lan] = None,
        s3: Optional[tuple[S3Storage, Keys]] = None,
    ) -> None:
        self._s3 = s3
        self._name, self._directory = name, directory
        self._tls, self._login, self._tokens, self._sparse = tls, login, tokens, sparse
        self._deletes, self._enter = deletes, lan.enter if lan else []
        self.port = lan.port if lan else free_port()
        self.host = f"{lan.ip if lan else '127.0.0.1'}:{self.port}"

    def __enter__(self) -> RealRegistry:
        # No `http.debug`: distribution 3's own configuration would listen on :5001.
        configuration: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {**self._storage(), "delete": {"enabled": self._deletes}},
            "http": {"addr": self.host},
        }
        if self._name == "distribution3" and self._sparse:
            configuration["validation"] = {"manifests": {"indexes": {"platforms": "none"}}}
        if self._tls:
            configuration["http"]["tls"] = {"certificate": str(self._tls.file), "key": str(self._tls.key)}
        if self._login:
            passwords = self._directory / "htpasswd"
            passwords.write_text(_HTPASSWD)
            configuration["auth"] = {"htpasswd": {"realm": "site", "path": str(passwords)}}
        if self._tokens:
            configuration["auth"] = self._tokens.configuration
        path = self._directory / "registry.json"
        path.write_text(json.dumps(configuration))
        environment = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
        with self._log.open("ab") as log:
            command = [*self._enter, str(registry_program(self._name)), *self._arguments(path)]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            scheme = "https" if self._tls else "http"
            if self._enter:
                code = f"from tests.support import real_registry; real_registry.wait('{scheme}://{self.host}/v2/')"
                subprocess.run([*self._enter, sys.executable, "-c", code], check=True, cwd=ROOT)
            else:
                _wait(f"{scheme}://{self.host}/v2/", self._process, self._log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _storage(self) -> dict[str, Any]:
        if self._s3 is None:
            return {"filesystem": {"rootdirectory": str(self._directory / "storage")}}
        storage, keys = self._s3
        driver = {
            "bucket": storage.bucket, "rootdirectory": f"/{storage.prefix}", "region": storage.region,
            "regionendpoint": storage.endpoint, "forcepathstyle": True,
            "accesskey": keys.identity, "secretkey": keys.secret,
        }  # fmt: skip
        return {
            "s3": driver, "redirect": {"disable": not storage.redirect}, "cache": {"blobdescriptor": "inmemory"}
        }  # fmt: skip

    @property
    def pid(self) -> int:
        """Of its process, while it runs on this machine's loopback."""
        return self._process.pid

    def _arguments(self, configuration: Path) -> list[str]:
        if self._name == "crane":
            blobs = self._directory / "blobs"
            blobs.mkdir(exist_ok=True)
            return ["registry", "serve", "--address", self.host, "--disk", str(blobs)]
        return ["serve", str(configuration)]

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)

    def restart(self) -> None:
        """End it at once, as a crash would, and start it again at the same address."""
        self.__exit__()
        self.__enter__()

    @property
    def _log(self) -> Path:
        return self._directory / "registry.log"


class Nginx:
    """Run nginx on an ephemeral port of 127.0.0.1 in front of a registry there.

    Args:
        backend: the registry's `host:port`, which speaks plain HTTP.
        directory: for its configuration, its log and what it buffers.
        largest_body: client_max_body_size; 1m when nobody says anything.
        tls: serve HTTPS with this certificate.
        buffering: proxy_request_buffering: read all of a request before the registry gets any of it.
    """

    def __init__(
        self,
        backend: str,
        directory: Path,
        *,
        largest_body: str = "1m",
        tls: Optional[Certificate] = None,
        buffering: bool = True,
    ) -> None:
        self._backend, self._directory = backend, directory
        self._largest_body, self._tls, self._buffering = largest_body, tls, buffering
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Nginx:
        from tests.testbed import debian

        directory = self._directory / "nginx"
        directory.mkdir(exist_ok=True)
        tls = f"ssl_certificate {self._tls.file}; ssl_certificate_key {self._tls.key};" if self._tls else ""
        places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        (directory / "nginx.conf").write_text(f"""
            daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log info;
            events {{}}
            http {{
                access_log {directory}/access.log;
                {" ".join(f"{place}_temp_path {directory}/{place};" for place in places)}
                server {{
                    listen 127.0.0.1:{self.port}{" ssl" if tls else ""}; {tls}
                    client_max_body_size {self._largest_body};
                    proxy_request_buffering {"on" if self._buffering else "off"};
                    proxy_http_version 1.1;
                    location / {{
                        proxy_pass http://{self._backend};
                        proxy_set_header Host $http_host;
                        proxy_set_header X-Forwarded-Proto $scheme;
                    }}
                }}
            }}
        """)
        log = directory / "error.log"
        command = [str(debian.NGINX.make()), "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(log)]
        self._process = subprocess.Popen(command)
        try:
            _wait(f"{'https' if tls else 'http'}://{self.host}/v2/", self._process, log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)

    @property
    def requests(self) -> list[str]:
        """What was asked and answered: its access log, without the waiting for it."""
        lines = (self._directory / "nginx/access.log").read_text().splitlines()
        return [line for line in lines if "Python-urllib" not in line]


def wait(url: str) -> None:
    """Wait as `RealRegistry` does, in a process of its own."""
    with subprocess.Popen(["sleep", "60"]) as alive:
        try:
            _wait(url, alive, Path("/dev/null"))
        finally:
            alive.kill()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until something answers there, be it that it wants a login."""
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unverified)
    )
    deadline = time.monotonic() + 20
    while True:
        try:
            opener.open(url, timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 401:
                return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(log.read_text() if log.exists() else f"nothing answers at {url}") from None
        time.sleep(0.05)


def registry_program(name: str) -> Path:
    """Return the registry's program, made when the testbed has not made it yet."""
    from tests.testbed import debian, gotools

    programs = {"distribution3": gotools.REGISTRY, "distribution2": debian.OLD_REGISTRY, "crane": debian.CRANE}
    return programs[name].make()
