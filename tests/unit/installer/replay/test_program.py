"""The service as it runs on a host: one file, started by a Python that has nothing but its standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.writing.program import program as archive_program
from bundles.oci.digest import Digest
from bundles.proxy.certificates import Authority
from bundles.registry.auth import Credential
from installer.replay.program import program
from installer.replay.settings import Settings, logins_to_bytes
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.ports import free_port
from tests.support.proxy_client import ProxyClient
from tests.support.tapes import REPOSITORY, page, pages, put_tape


class Service:
    """The program in a process of its own, on some port."""

    def __init__(self, directory: Path, registry: str, *tapes: Digest, **settings: Any) -> None:
        self.port = free_port()
        self.ca = Authority(directory).certificate
        plain = {"address": "127.0.0.1", "tls": False, "repository": REPOSITORY, "tapes": tuple((t,) for t in tapes)}
        chosen: Any = {**plain, **settings}
        (directory / "settings.json").write_bytes(Settings(port=self.port, registry=registry, **chosen).to_bytes())
        if not (directory / "logins.json").exists():
            (directory / "logins.json").write_bytes(logins_to_bytes(()))
        (directory / "program.zip").write_bytes(program())
        command = [sys.executable, "-I", "-S", str(directory / "program.zip"), str(directory)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
        assert self.process.stdout
        self.first_line = self.process.stdout.readline()
        assert self.first_line, self.process.communicate()
        self.said = ""

    def state(self) -> Any:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port)) as connection:
            connection.request("GET", "/")
            return json.loads(connection.getresponse().read())

    def wait(self) -> None:
        while not self.state()["loaded"]:
            time.sleep(0.01)

    def memory(self) -> int:
        """The most bytes that it ever had in memory."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10

    def end(self) -> int:
        self.process.terminate()
        said, _ = self.process.communicate()
        self.said += said
        return self.process.returncode


@pytest.fixture
def services() -> Iterator[list[Service]]:
    made: list[Service] = []
    yield made
    for service in made:
        service.end()


def test_the_program_answers(tmp_path: Path, registry: FakeRegistry, services: list[Service]) -> None:
    digest = put_tape(registry, "app", *pages({"https://h.example/a": b"a", "http://h.example/b": b"b"}))
    gone = Digest.of(b"gone")
    service = Service(tmp_path, registry.host, digest, gone)
    services.append(service)
    assert service.first_line == f"answers on 127.0.0.1:{service.port}; tapes: 2\n"
    client = ProxyClient(service.port, service.ca)
    assert client.get("https://h.example/a").body == b"a"
    assert client.get("http://h.example/b").body == b"b"
    assert client.get("https://h.example/c").status == 404
    state = service.state()
    assert (state["service"], state["answers"], state["missing"]) == ("offline-bundle replay", 2, [str(gone)])
    # The first process of a container has to end by itself when it is told to.
    assert service.end() == 0


def test_the_program_gets_into_a_registry_of_a_site(
    tmp_path: Path, fake: Callable[..., FakeRegistry], certificate: Certificate, services: list[Service]
) -> None:
    """With TLS, tokens and a prefix. A right that is given later is enough."""
    registry = fake(tls=certificate, auth="bearer", users={"anna": "opensesame"}, anonymous_pull=False)
    repository = "team/offline-bundle/tape"
    digest = put_tape(registry, "app", page("https://h.example/a", b"a"), repository=repository)
    (tmp_path / "registry.pem").write_bytes(certificate.file.read_bytes())
    (tmp_path / "logins.json").write_bytes(logins_to_bytes([Credential("anna", "opensesame")]))
    service = Service(tmp_path, registry.host, digest, tls=True, repository=repository)
    services.append(service)
    assert ProxyClient(service.port, service.ca).get("https://h.example/a").body == b"a"
    assert service.state()["refusal"] is None
    service.end()
    # The password is another one now. It may all be recorded: nobody is told to record it again.
    registry.users = {"anna": "another"}
    refused = Service(tmp_path, registry.host, digest, tls=True, repository=repository)
    services.append(refused)
    client = ProxyClient(refused.port, refused.ca)
    assert client.get("https://h.example/a").status == 503
    state = refused.state()
    assert (state["loaded"], state["refused"], state["missing"]) == (True, [str(digest)], [])
    assert state["refusal"] == f"`{registry.host}` refused the login for `{repository}`"
    assert refused.end() == 0
    assert refused.said == f"waiting for a login or a right: {state['refusal']}\n"
    assert "opensesame" not in refused.first_line + refused.said


def test_a_port_that_is_taken_is_said(tmp_path: Path, registry: FakeRegistry, services: list[Service]) -> None:
    services.append(Service(tmp_path, registry.host))
    command = [sys.executable, "-I", "-S", str(tmp_path / "program.zip"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"port {services[0].port} of 127.0.0.1 cannot be listened on: address already in use" in done.stderr


def test_who_comes_before_the_program_is_read_waits(tmp_path: Path) -> None:
    """A program that goes no further than to open its port, until the test has connected; then it is the whole one."""
    Authority(tmp_path)
    (tmp_path / "settings.json").write_bytes(Settings(0, "r.corp", "r.corp", False, REPOSITORY, ()).to_bytes())
    (tmp_path / "logins.json").write_bytes(logins_to_bytes(()))
    whole = tmp_path / "whole.zip"
    whole.write_bytes(program())
    hold = """
import pathlib, socket, sys
sys.path.insert(0, sys.argv.pop(1))
from installer.replay import start
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "installer.replay.service":
            print(listener.getsockname()[1], flush=True)
            sys.stdin.readline()
def listen(port):
    global listener
    listener = before(port)
    return listener
before, start.listen = start.listen, listen
early = sorted(name for name in sys.modules if name.startswith(("bundles.", "installer.")))
assert early == ["bundles.proxy", "bundles.proxy.listener", "installer.replay", "installer.replay.start"], early
sys.meta_path.insert(0, Finder())
start.main()
"""
    command = [sys.executable, "-I", "-S", "-c", hold, str(whole), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        try:
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                process.stdin.write("\n")
                process.stdin.flush()
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        finally:
            process.terminate()


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_nobody_writes_to_a_terminal_through_the_log_or_an_answer(
    tmp_path: Path, registry: FakeRegistry, services: list[Service], locale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    service = Service(tmp_path, registry.host)
    services.append(service)
    said = []
    # Colours, the one-letter CSI, a letter that is none of ASCII, and what to many a reader begins a line.
    for path in (b"\x1b[31mred", b"\x9b2J", b"\xe9", b"a\x85not_recorded:_x"):
        with socket.create_connection(("127.0.0.1", service.port), 20) as raw:
            raw.sendall(b"GET http://h.example/%b HTTP/1.1\r\nConnection: close\r\n\r\n" % path)
            said.append(b"".join(iter(lambda: raw.recv(65536), b"")).decode())
    assert [text[9:12] for text in said] == ["404", "404", "404", "400"]
    assert all(letter.isprintable() or letter in "\r\n" for text in said for letter in text)
    service.end()
    lines = service.said.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("not recorded: GET http://h.example/") and line.isprintable() for line in lines)


def test_ten_thousand_answers_take_less_than_a_hundred_megabytes(
    tmp_path: Path, registry: FakeRegistry, services: list[Service]
) -> None:
    answers = [
        page(
            f"https://files.example/pool/main/x/a-package-{n}/{'x' * 60}_{n}_amd64.deb", b"%d" % n, asked={"accept": ""}
        )
        for n in range(10_000)
    ]
    service = Service(tmp_path, registry.host, put_tape(registry, "app", *answers))
    services.append(service)
    service.wait()
    assert ProxyClient(service.port, service.ca).get(answers[9_999][0].url).body == b"9999"
    assert service.memory() < 100 << 20


def test_the_archives_own_program_makes_the_same(tmp_path: Path) -> None:
    """There it reads itself out of a zip."""
    (tmp_path / "bundle.zip").write_bytes(archive_program())
    script = "import sys; sys.path.insert(0, sys.argv[1])\nfrom installer.replay import program\n" \
             "assert sys.argv[1] in program.__file__\nsys.stdout.buffer.write(program.program())"  # fmt: skip
    command = [sys.executable, "-I", "-c", script, str(tmp_path / "bundle.zip")]
    made = subprocess.run(command, check=True, capture_output=True, cwd="/").stdout
    assert made == program()
    (tmp_path / "made.zip").write_bytes(made)
    with zipfile.ZipFile(tmp_path / "made.zip") as archive:
        assert archive.testzip() is None
