"""What one registry serves: bytes to many clients at once, and manifests, from its disk and from an S3 storage.

Clients and servers share the cores here, so that what counts is the CPU time that a server spends on a GB and on a
request: a machine of its own has all its cores for that. The clients leave the bytes to the kernel, unread.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from bench.context import Context
from bench.measure import megabytes, say
from bench.report import Findings, Table
from bundles.oci.digest import Digest
from tests.support.fake_registry import Certificate
from tests.support.real_registry import PASSWORD, USER, RealRegistry
from tests.support.real_s3 import KEYS, RealS3

_CLIENTS = (1, 8, 32)
_LAYER = 64 << 20
_TICK = os.sysconf("SC_CLK_TCK")
_SECURED = "on its disk, TLS and a login"
# Who wants none passes it over.
_LOGIN = {"Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclasses.dataclass(frozen=True)
class _Server:
    """A registry with one image, and the processes that it is made of."""

    name: str
    host: str
    layer: Digest
    pids: Sequence[int]
    tls: ssl.SSLContext | None


def run(context: Context) -> Findings:
    rows, requests = [], []
    for server in _servers(context.directory("serve")):
        for clients in _CLIENTS:
            # As many GB for each number of clients.
            pulls = (1 if context.quick else 2) * max(1, 32 // clients)
            seconds, cpu = _timed(server, clients, lambda server=server, pulls=pulls: _pull(server, pulls))
            size = clients * pulls * _LAYER / 1e9
            rows.append(
                (server.name, str(clients), f"{size / seconds:.2f}", *(f"{each / size:.2f}" for each in cpu),
                 megabytes(_peak(server.pids[0])))
            )  # fmt: skip
            say(f"  {server.name}, {clients} clients: {size / seconds:.2f} GB/s")
        count = 200 if context.quick else 1000
        seconds, cpu = _timed(server, 8, lambda server=server, count=count: _ask(server, count))
        requests.append(
            (server.name, f"{8 * count / seconds:.0f}", *(f"{each / (8 * count) * 1000:.2f}" for each in cpu))
        )
    return Findings(
        [
            Table(
                "serving layers",
                f"A layer of {_LAYER >> 20} MiB, again and again, on loopback; CPU time of the registry and of the "
                "storage.",
                ("registry", "clients", "GB/s", "registry, CPU s/GB", "storage, CPU s/GB", "registry, peak MB"),
                rows,
            ),
            Table(
                "serving manifests",
                "HEAD and GET of a manifest by its tag, 8 clients.",
                ("registry", "requests/s", "registry, CPU ms each", "storage, CPU ms each"),
                requests,
            ),
        ]
    )


def _servers(directory: Path) -> Iterator[_Server]:
    with contextlib.ExitStack() as stack:
        (directory / "s3").mkdir()
        s3 = stack.enter_context(RealS3(directory / "s3"))
        certificate = Certificate.make(directory)
        for name, redirect in (("on its disk", None), (_SECURED, None), ("S3", False), ("S3, with redirects", True)):
            place = directory / name.replace(" ", "-")
            place.mkdir()
            bucket = None if redirect is None else (dataclasses.replace(s3.storage("x"), redirect=redirect), KEYS)
            tls = certificate if name == _SECURED else None
            with RealRegistry("distribution3", place, s3=bucket, tls=tls, login=tls is not None) as registry:
                context = ssl.create_default_context(cafile=str(tls.file)) if tls else None
                layer = _push(_connect(registry.host, context))
                yield _Server(name, registry.host, layer, (registry.pid, s3.pid), context)


def _connect(host: str, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if tls is None:
        return http.client.HTTPConnection(host, timeout=60)
    return http.client.HTTPSConnection(host, timeout=60, context=tls)


def _push(connection: http.client.HTTPConnection) -> Digest:
    layer, config = os.urandom(_LAYER), b"{}"
    for data in (layer, config):
        location = urlsplit(_asked(connection, "POST", "/v2/x/blobs/uploads/").getheader("Location") or "")
        _asked(connection, "PUT", f"{location.path}?{location.query}&digest={Digest.of(data)}", data)
    parts = [{"mediaType": "x/y", "digest": str(Digest.of(data)), "size": len(data)} for data in (config, layer)]
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": parts[0], "layers": parts[1:]}
    _asked(connection, "PUT", "/v2/x/manifests/1", json.dumps(manifest).encode(), _MANIFEST)
    connection.close()
    return Digest.of(layer)


def _asked(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", kind: str = "x/y"
) -> http.client.HTTPResponse:
    connection.request(method, path, body, {"Content-Type": kind, **_LOGIN})
    response = connection.getresponse()
    response.read()
    assert response.status < 300, (method, path, response.status)
    return response


def _pull(server: _Server, count: int) -> None:
    buffer = bytearray(1 << 20)
    for _ in range(count):
        host, path = server.host, f"/v2/x/blobs/{server.layer}"
        while path:
            connection = _connect(host, server.tls)
            connection.connect()
            stream = connection.sock
            connection.request("GET", path, headers=_LOGIN if host == server.host else {})
            with connection.getresponse() as response:
                parts = urlsplit(response.getheader("Location") or "")
                host, path = parts.netloc, f"{parts.path}?{parts.query}" if parts.netloc else ""
                left = 0 if path else _LAYER - len(response.peek(1 << 20))
                assert path or response.status == 200
                while left > 0:
                    # Linux throws away what is asked for so.
                    got = stream.recv_into(buffer, len(buffer), 0 if server.tls else socket.MSG_TRUNC)
                    assert got, "the answer is too short"
                    left -= got
            connection.close()


def _ask(server: _Server, count: int) -> None:
    connection, headers = _connect(server.host, server.tls), {"Accept": _MANIFEST, **_LOGIN}
    for number in range(count):
        connection.request(("HEAD", "GET")[number % 2], "/v2/x/manifests/1", headers=headers)
        response = connection.getresponse()
        response.read()
        assert response.status == 200
    connection.close()


def _timed(server: _Server, clients: int, work: Callable[[], None]) -> tuple[float, list[float]]:
    """Seconds, and CPU seconds of each process."""
    before, begun = [_cpu(pid) for pid in server.pids], time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        for client in [pool.submit(work) for _ in range(clients)]:
            client.result()
    seconds = time.monotonic() - begun
    return seconds, [_cpu(pid) - each for pid, each in zip(server.pids, before)]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
