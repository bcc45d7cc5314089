"""A Docker Engine in memory: its HTTP API on a socket, as far as the installer asks, and what goes wrong on demand.

    with FakeEngine() as fake:
        fake.add("registry", {"offline-bundle.role": "registry"})
        fake.engine.container("registry")  # the product's own client, connected to it

A container runs nothing: it "ends" with `exit_code` at once. What only a real engine can show is for tests/e2e.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import re
import shutil
import socketserver
import tarfile
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Optional
from urllib.parse import parse_qs, unquote, urlsplit

from installer.host.docker.engine import Engine, EngineEndpoint


@dataclasses.dataclass
class Container:
    """A container of the fake; what a test changes is what the next request sees."""

    labels: Mapping[str, str]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    state: str = "running"
    restart: str = "always"
    image: str = "sha256:1"
    ports: Sequence[tuple[str, int]] = ()

    def shown(self, name: str) -> dict[str, Any]:
        return {
            "Id": name,
            "Name": f"/{name}",
            "Image": self.image,
            "State": {"Status": self.state},
            "Config": {
                "Labels": dict(self.labels),
                "Env": [f"{key}={value}" for key, value in self.environment.items()],
                "Tty": False,
            },
            "HostConfig": {"RestartPolicy": {"Name": self.restart}},
            "NetworkSettings": {
                "Ports": {"5000/tcp": [{"HostIp": ip, "HostPort": str(port)} for ip, port in self.ports]}
            },
        }


class FakeEngine:
    """Hold containers, volumes and images by name, all of them open to the test.

    `images` has the files of each image, `ids` the id of those that have one of their own. `done` lists what changed
    something: "create NAME", "start NAME", ...
    `commands` has the command of each container that was created, `created` by name what Docker was asked for then,
    `files` what was put into them: mode, owner and bytes. All have written `log`.
    `exit_code` and `command` are those of every container and image.
    `insecure` gives the registries that may be asked without TLS; `security` is Docker's SecurityOptions, and
    `proxies` what it says of proxies: HttpProxy, HttpsProxy, NoProxy.
    """

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.volumes: dict[str, Mapping[str, str]] = {}
        self.images: dict[str, Mapping[str, bytes]] = {}
        self.ids: dict[str, str] = {}
        self.done: list[str] = []
        self.commands: list[Sequence[str]] = []
        self.created: dict[str, Mapping[str, Any]] = {}
        self.files: dict[str, dict[str, tuple[int, int, bytes]]] = {}
        self.log = b""
        self.exit_code = 0
        self.command: Sequence[str] = ("serve", "/etc/config.yml")
        self.root = "/var/lib/docker"
        self.security: Sequence[str] = ()
        self.networks: Sequence[str] = ("bridge", "host", "none")
        self.proxies: Mapping[str, str] = {}
        self.insecure: Callable[[], Sequence[str]] = lambda: ()
        self.refused: dict[str, str] = {}
        self._after: dict[str, Callable[[], None]] = {}
        # No file of a container is on its way.
        self.idle = threading.Event()
        self.idle.set()
        # The path of a socket has at most 107 bytes: that of a test's own directory may be longer.
        self._directory = Path(tempfile.mkdtemp())
        self.socket = self._directory / "docker.sock"
        self.engine = Engine(EngineEndpoint(f"unix://{self.socket}"))

    def add(self, name: str, labels: Mapping[str, str], **environment: str) -> Container:
        """Have a running container."""
        self.containers[name] = Container(labels, environment)
        return self.containers[name]

    def refuse(self, what: str, message: str) -> None:
        """Answer every such request with an error: `refuse("GET /info", "not today")`."""
        self.refused[what] = message

    def after(self, what: str, action: Callable[[], None]) -> None:
        """Call `action` when such a request was obeyed: `after("POST /containers/registry/stop", ...)`."""
        self._after[what] = action

    def __enter__(self) -> FakeEngine:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.engine._connected is not None:
            self.engine._connected.close()
        shutil.rmtree(self._directory)

    def stop(self) -> None:
        """Stop listening, as a Docker that is not running; twice does no harm."""
        if self.socket.exists():
            self._server.shutdown()
            self._server.server_close()
            self.socket.unlink()

    def answer(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Any:
        """Obey a request: gives what becomes JSON, or bytes, or None."""
        what = f"{method} {path}"
        if what in self.refused:
            raise _Refusal(500, self.refused[what])
        for pattern, obey in _ROUTES:
            match = re.fullmatch(pattern, what)
            if match:
                result = obey(self, *match.groups(), query=query, body=body)
                self._after.get(what, lambda: None)()
                return result
        raise _Refusal(404, f"page not found: the fake engine has no `{what}`")

    # One method for each kind of request.

    def _version(self, **_: Any) -> Any:
        return {"ApiVersion": "1.43", "Version": "28.5.2"}

    def _info(self, **_: Any) -> Any:
        return {
            "ServerVersion": "28.5.2",
            "OSType": "linux",
            "Architecture": "x86_64",
            "DockerRootDir": self.root,
            "SecurityOptions": list(self.security),
            **self.proxies,
            "RegistryConfig": {"IndexConfigs": {name: {"Secure": False} for name in self.insecure()}},
        }

    def _list(self, query: Mapping[str, str], **_: Any) -> Any:
        return [
            {
                "Names": [f"/{name}"],
                "Ports": [{"IP": ip, "PublicPort": port, "Type": "tcp"} for ip, port in container.ports],
            }
            for name, container in self.containers.items()
            if query.get("all") == "1" or container.state == "running"
        ]

    def _inspect(self, name: str, **_: Any) -> Any:
        return self._container(name).shown(name)

    def _create(self, query: Mapping[str, str], body: bytes, **_: Any) -> Any:
        name = query.get("name") or f"unnamed{len(self.done)}"
        if name in self.containers:
            raise _Refusal(409, f"Conflict. the name is in use: {name}")
        wanted = json.loads(body)
        environment = dict(entry.partition("=")[::2] for entry in wanted.get("Env") or ())
        policy = ((wanted.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "no"
        image = wanted.get("Image", "")
        bindings = (wanted.get("HostConfig") or {}).get("PortBindings") or {}
        ports = [(each["HostIp"], int(each["HostPort"])) for places in bindings.values() for each in places]
        self.containers[name] = Container(
            wanted.get("Labels") or {}, environment, "created", policy, self.ids.get(image, image), ports
        )
        self.done.append(f"create {name}")
        self.commands.append(wanted.get("Cmd") or ())
        self.created[name], self.files[name] = wanted, {}
        return {"Id": name, "Warnings": []}

    def _start(self, name: str, **_: Any) -> None:
        self._container(name).state = "running"
        self.done.append(f"start {name}")

    def _stop(self, name: str, **_: Any) -> None:
        self._container(name).state = "exited"
        self.done.append(f"stop {name}")

    def _wait(self, name: str, **_: Any) -> Any:
        self._container(name).state = "exited"
        return {"StatusCode": self.exit_code}

    def _update(self, name: str, body: bytes, **_: Any) -> Any:
        self._container(name).restart = json.loads(body)["RestartPolicy"]["Name"]
        return {"Warnings": []}

    def _logs(self, name: str, **_: Any) -> bytes:
        self._container(name)
        # A frame of the stream of stdout, as for every container without a terminal.
        return bytes([1, 0, 0, 0]) + len(self.log).to_bytes(4, "big") + self.log if self.log else b""

    def _remove(self, name: str, **_: Any) -> None:
        self._container(name)
        # Docker 26.1 waits for ever.
        if not self.idle.wait(5):
            raise _Refusal(500, f"a file of {name} is on its way, and nobody reads it")
        del self.containers[name]
        self.done.append(f"remove {name}")

    def _archive(self, name: str, query: Mapping[str, str], **_: Any) -> bytes:
        files = self.images.get(self._container(name).image, {})
        if query["path"] not in files:
            raise _Refusal(404, f"Could not find the file {query['path']} in container {name}")
        data, buffer = files[query["path"]], io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            member = tarfile.TarInfo(Path(query["path"]).name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        return buffer.getvalue()

    def _put(self, name: str, body: bytes, **_: Any) -> bytes:
        self._container(name)
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            for member in tar:
                content = tar.extractfile(member)
                self.files[name][f"/{member.name}"] = member.mode, member.uid, content.read() if content else b""
        return b""

    def _image(self, name: str, **_: Any) -> Any:
        if name not in self.images:
            raise _Refusal(404, f"No such image: {name}")
        return {"Id": self.ids.get(name, "sha256:1"), "RepoTags": [name], "Config": {"Cmd": list(self.command)}}

    def _pull(self, query: Mapping[str, str], **_: Any) -> Any:
        name = "@".join((query["fromImage"], query["tag"])) if ":" in query["tag"] else ":".join(query.values())
        self.done.append(f"pull {name}")
        self.images[name] = {}
        return {"status": "pulled"}

    def _tag(self, name: str, query: Mapping[str, str], **_: Any) -> Any:
        new = f"{query['repo']}:{query['tag']}"
        self.images[new], self.ids[new] = self.images[name], self.ids[name]
        return {}

    def _remove_image(self, name: str, **_: Any) -> Any:
        self._image(name)
        del self.images[name]
        self.done.append(f"remove {name}")
        return [{"Untagged": name}]

    def _volumes(self, query: Mapping[str, str], **_: Any) -> Any:
        # docker-py sends a list; Docker itself takes {"label": {"NAME=VALUE": true}} as well.
        wanted = [label.partition("=")[::2] for label in json.loads(query.get("filters", "{}")).get("label", ())]
        found = [
            name for name, labels in self.volumes.items() if all(labels.get(key) == value for key, value in wanted)
        ]
        return {"Volumes": [{"Name": name} for name in found]}

    def _volume(self, name: str, **_: Any) -> Any:
        if name not in self.volumes:
            raise _Refusal(404, f"no such volume: {name}")
        return {"Name": name, "Labels": dict(self.volumes[name])}

    def _remove_volume(self, name: str, **_: Any) -> None:
        self._volume(name)
        del self.volumes[name]
        self.done.append(f"remove {name}")

    def _networks(self, **_: Any) -> Any:
        return [{"Name": name} for name in self.networks]

    def _sizes(self, **_: Any) -> Any:
        return {"Volumes": []}

    def _container(self, name: str) -> Container:
        if name not in self.containers:
            raise _Refusal(404, f"No such container: {name}")
        return self.containers[name]


_NAME = "([^/]+)"
_ROUTES: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("GET /version", FakeEngine._version),
    ("GET /info", FakeEngine._info),
    ("GET /networks", FakeEngine._networks),
    ("GET /system/df", FakeEngine._sizes),
    ("GET /containers/json", FakeEngine._list),
    ("POST /containers/create", FakeEngine._create),
    (f"GET /containers/{_NAME}/json", FakeEngine._inspect),
    (f"GET /containers/{_NAME}/logs", FakeEngine._logs),
    (f"(?:GET|HEAD) /containers/{_NAME}/archive", FakeEngine._archive),
    (f"PUT /containers/{_NAME}/archive", FakeEngine._put),
    (f"POST /containers/{_NAME}/start", FakeEngine._start),
    (f"POST /containers/{_NAME}/stop", FakeEngine._stop),
    (f"POST /containers/{_NAME}/wait", FakeEngine._wait),
    (f"POST /containers/{_NAME}/update", FakeEngine._update),
    (f"DELETE /containers/{_NAME}", FakeEngine._remove),
    ("POST /images/create", FakeEngine._pull),
    ("POST /images/(.+)/tag", FakeEngine._tag),
    ("GET /images/(.+)/json", FakeEngine._image),
    ("DELETE /images/(.+)", FakeEngine._remove_image),
    ("GET /volumes", FakeEngine._volumes),
    (f"GET /volumes/{_NAME}", FakeEngine._volume),
    (f"DELETE /volumes/{_NAME}", FakeEngine._remove_volume),
)


class _Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    # Connections that a client keeps open are not waited for.
    block_on_close = False

    def __init__(self, fake: FakeEngine) -> None:
        self.fake = fake
        super().__init__(str(fake.socket), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _obey(self) -> None:
        url = urlsplit(self.path)
        path = unquote(re.sub(r"^/v1\.\d+", "", url.path))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, kind = 200, "application/json"
        try:
            result = self.server.fake.answer(self.command, path, query, body)
        except _Refusal as refusal:
            status, result = refusal.status, {"message": str(refusal)}
        if result is None:
            status, data = 204, b""
        elif isinstance(result, bytes):
            kind, data = "application/octet-stream", result
        else:
            data = json.dumps(result).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if path.endswith("/archive") and self.command == "GET":
            stat = json.dumps({"name": query.get("path"), "size": len(data), "mode": 0o755})
            self.send_header("X-Docker-Container-Path-Stat", base64.b64encode(stat.encode()).decode())
        self.end_headers()
        if self.command != "HEAD":
            self._send(data, None if kind == "application/json" else self.server.fake.idle)

    def _send(self, data: bytes, idle: Optional[threading.Event]) -> None:
        if idle:
            idle.clear()
        try:
            self.wfile.write(data)
        finally:
            if idle:
                idle.set()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _obey

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
