"""Joining a registry that another host has filled: what is asked first, and what is not sent before it is answered."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles.archive.reader import Archive
from bundles.cli.app import run
from bundles.crypto.x509 import fingerprint
from bundles.oci.platform import Platform
from bundles.registry.auth import Credential
from bundles.registry.server_certificates import certificates_of
from bundles.runtime.progress import Silent
from installer.host.host import Host
from installer.model.job import Job, Options
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.selection import select
from installer.receipt.receipt import Receipt
from installer.receipt.recorder import InstallRecorder
from installer.registry.client import Registry
from installer.registry.connection import site_transport, transport_to
from installer.runner import Runner
from installer.steps.registry.held import HeldCheck
from installer.steps.registry.push import Push
from tests.support import fake_docker
from tests.support.archives import AMD64, Made, image, made
from tests.support.fake_engine import FakeEngine
from tests.support.fake_registry import MANIFEST_BLOB_UNKNOWN, Certificate, FakeRegistry

Fake = Callable[..., FakeRegistry]
PASSWORD = "hunter2-lan"
HOST = "registry.example"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="Docker trusts what stands in /etc/docker/certs.d")


class Lan:
    """A host with a fake engine and an archive; registries are made with `registry`."""

    def __init__(self, directory: Path, engine: FakeEngine, fake: Fake) -> None:
        self.directory, self.engine, self._fake = directory, engine, fake
        self.archive = _archive().write(directory / "offline.tar").path
        (directory / "ca").mkdir()
        self.authority = Certificate.make(directory / "ca")
        self.print = fingerprint(certificates_of(self.authority.file.read_text())[0])

    def registry(
        self, prefix: str = "", aliases: bool = True, platforms: tuple[Platform, ...] = (), **options: Any
    ) -> FakeRegistry:
        """Start one that has all that the archive lists."""
        registry = self._fake(**options)
        self.fill(registry, prefix, aliases, platforms)
        registry.requests.clear()
        return registry

    def fill(
        self, registry: FakeRegistry, prefix: str = "", aliases: bool = True, platforms: tuple[Platform, ...] = ()
    ) -> None:
        site = Destination(f"{HOST}:{registry.port}", prefix, aliases=aliases)
        ca = self.authority.file if registry.url.startswith("https") else None
        insecure = () if ca else (site.host,)

        def login(host: str, repository: str) -> list[Credential]:
            return [Credential("bundle", PASSWORD)]

        way = site_transport(ca_file=ca, insecure=insecure, credentials=login)
        with Archive(self.archive) as archive, way as transport:
            push = Push(archive, select(archive, site, platforms), Registry(transport, site.host), Silent())
            push.apply(push.look())

    def secured(self, **options: Any) -> FakeRegistry:
        """Start one as `install --tls --login` makes it."""
        issued = self.authority.issue(self.directory, HOST)
        return self.registry(tls=issued, auth="basic", users={"bundle": PASSWORD}, **options)

    def join(self, registry: FakeRegistry, *arguments: object, code: int = 0, place: str = "") -> Any:
        """Run the command; gives its JSON document."""
        out, err = io.StringIO(), io.StringIO()
        where = place or f"{HOST}:{registry.port}"
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            done = run(["join", str(self.archive), where, *map(str, arguments), "--json"])
        assert done == code, out.getvalue() + err.getvalue()
        assert PASSWORD not in out.getvalue() + err.getvalue()
        return json.loads(out.getvalue())

    def log_in(self, registry: FakeRegistry, password: str = PASSWORD) -> None:
        auth = base64.b64encode(f"bundle:{password}".encode()).decode()
        (self.directory / ".docker").mkdir(exist_ok=True)
        auths = {f"{HOST}:{registry.port}": {"auth": auth}}
        (self.directory / ".docker/config.json").write_text(json.dumps({"auths": auths}))


def _archive() -> Made:
    return made(
        image("registry:3", "registry", (AMD64,), (9,)),
        image("moby/buildkit:buildx-stable-1", "buildkit", (AMD64,), (8,)),
        image("docker/buildx-bin:latest", "buildx", (AMD64,), (7,)),
        image("tonistiigi/binfmt:latest", "binfmt", (AMD64,), (6,)),
        image("debian:12", seeds=(1,)),
        image("ghcr.io/team/gcc:1", seeds=(2,)),
    )


@pytest.fixture
def lan(tmp_path: Path, engine: FakeEngine, fake: Fake, names: None, monkeypatch: pytest.MonkeyPatch) -> Lan:
    engine.root = str(tmp_path)
    endpoint = {"Name": "default", "Endpoints": {"docker": {"Host": f"unix://{engine.socket}"}}}
    docker = fake_docker.install(tmp_path / "bin", endpoint=json.dumps([endpoint]))
    monkeypatch.setenv("PATH", f"{docker}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return Lan(tmp_path, engine, fake)


@pytest.fixture
def on_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))


def changes_of(document: Any) -> dict[str, list[tuple[str, str, str]]]:
    return {
        step["step"]: [(each["action"], each["kind"], each["name"]) for each in step["changes"]]
        for step in document["steps"]
    }


def problems_of(document: Any) -> dict[str, dict[str, str]]:
    return {problem["subject"]: problem for problem in document["error"]["problems"]}


def test_the_plan_pushes_nothing_and_starts_no_registry(lan: Lan) -> None:
    registry = lan.registry()
    plan = lan.join(registry, "--plan")
    host, steps = f"{HOST}:{registry.port}", changes_of(plan)
    assert plan["registry"] == host
    assert "push" not in steps and steps["registry"] == []
    assert ("load", "image", f"{host}/moby/buildkit:buildx-stable-1") in steps["images"]
    assert [change for change in steps["builder"] if change[:2] == ("create", "builder")]
    assert lan.engine.done == []
    assert {request.method for request in registry.requests} == {"GET", "HEAD"}
    assert not (lan.directory / ".local").exists()


def test_no_proxy_is_between_two_hosts_of_a_lan(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = lan.registry()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    lan.join(registry, "--plan")
    assert registry.paths("HEAD", "/v2/library/debian/manifests/12")


def test_what_the_registry_lacks_is_named(lan: Lan) -> None:
    registry = lan.registry()
    del registry.repository("ghcr.io/team/gcc").tags["1"]
    (problem,) = problems_of(lan.join(registry, "--plan", code=4)).values()
    assert problem["message"].startswith("it lacks 1 of 8 names that this archive lists")
    assert problem["message"].endswith(": ghcr.io/team/gcc:1")
    assert "python3 offline.tar install" in problem["hint"]
    assert lan.engine.done == []


def test_an_empty_registry_is_no_other_bundle(lan: Lan, fake: Fake) -> None:
    registry = fake()
    (problem,) = problems_of(lan.join(registry, "--plan", code=4)).values()
    assert problem["message"].startswith("it lacks 6 of 6 names")


def test_a_registry_with_another_bundle_is_said(lan: Lan) -> None:
    registry = lan.registry()
    newer = registry.tag("library/debian", "12", registry.index(registry.image("linux/amd64", seed="newer")))
    (problem,) = problems_of(lan.join(registry, "--plan", code=4)).values()
    assert problem["message"].startswith("it serves another bundle than this archive: library/debian:12 is ")
    assert f" is {newer.digest.short} there, not " in problem["message"]
    assert "join with the archive that was installed there last" in problem["hint"]


@pytest.mark.parametrize("aliases", [True, False])
def test_short_names_are_listed_where_they_are(lan: Lan, aliases: bool) -> None:
    registry = lan.registry(aliases=aliases)
    lan.join(registry, "--plan")
    assert registry.paths("HEAD", "/v2/library/debian/manifests/12")
    assert bool(registry.paths("HEAD", "/v2/debian/manifests/12")) == aliases


def test_a_project_of_the_sites_registry(lan: Lan) -> None:
    registry = lan.registry(prefix="team", aliases=False)
    plan = lan.join(registry, "--plan", place=f"{HOST}:{registry.port}/team")
    assert plan["registry"] == f"{HOST}:{registry.port}/team"
    (problem,) = problems_of(lan.join(registry, "--plan", place=f"{HOST}:{registry.port}/other", code=4)).values()
    assert "6 of 6" in problem["message"]


def test_nothing_is_sent_before_the_ca_is_known(lan: Lan) -> None:
    registry = lan.secured()
    lan.log_in(registry)
    document = lan.join(registry, "--plan", code=4)
    assert lan.print in document["error"]["message"]
    assert document["error"]["hint"].endswith(f"--fingerprint {lan.print}")
    assert registry.requests == []


@AS_ROOT
def test_a_login_that_docker_has_is_used(lan: Lan) -> None:
    registry = lan.secured()
    lan.log_in(registry)
    plan = lan.join(registry, "--plan", "--fingerprint", lan.print)
    authority = str(lan.directory / ".local/state/bundle/registry/site.pem")
    assert changes_of(plan)["authority"] == [("write", "file", authority)]
    trusted = f"/etc/docker/certs.d/{HOST}:{registry.port}/ca.crt"
    assert changes_of(plan)["trust"] == [("write", "file", trusted)]
    assert "login" not in changes_of(plan)
    assert lan.engine.done == [] and not Path(authority).exists()


@AS_ROOT
def test_a_login_may_be_given(lan: Lan, on_stdin: None) -> None:
    registry = lan.secured()
    plan = lan.join(registry, "--plan", "--fingerprint", lan.print, "--username", "bundle", "--password-stdin")
    assert ("log in", "login", f"{HOST}:{registry.port}") in changes_of(plan)["login"]
    assert not (lan.directory / ".docker/config.json").exists()


def test_a_login_that_is_wrong_or_missing_is_said(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = lan.secured()
    document = lan.join(registry, "--plan", "--ca", lan.authority.file, code=5)
    again = f"join {lan.archive} {HOST}:{registry.port}"
    expected = f"{again} --ca {lan.authority.file} --username bundle --password-stdin < FILE"
    assert document["error"]["hint"].endswith(expected)
    monkeypatch.setattr("sys.stdin", io.StringIO("wrong\n"))
    options = ("--fingerprint", lan.print, "--username", "robot$a", "--password-stdin")
    document = lan.join(registry, "--plan", *options, code=5)
    expected = f"{again} --fingerprint {lan.print} --username 'robot$a' --password-stdin < FILE"
    assert document["error"]["hint"].endswith(expected)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    document = lan.join(registry, "--plan", "--password-stdin", code=2)
    assert document["error"]["message"] == "there is no password on stdin"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"h\xfcnter2\n"), encoding="utf-8"))
    document = lan.join(registry, "--plan", "--password-stdin", code=2)
    assert document["error"]["message"] == "the password on stdin is not UTF-8"


def test_somebody_in_between_gets_neither_login_nor_request(
    lan: Lan, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = lan.secured()
    (lan.directory / "other").mkdir()
    other = Certificate.make(lan.directory / "other").issue(lan.directory / "other", HOST)
    impostor = fake(tls=other, auth="basic", users={"bundle": PASSWORD})
    lan.log_in(impostor)
    known = ("--fingerprint", lan.print), ("--ca", lan.authority.file)
    for option in known:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
        document = lan.join(impostor, *option, "--yes", "--password-stdin", code=5)
        assert "nothing was sent" in document["error"]["message"]
    assert impostor.requests == [] and registry.requests == [] and lan.engine.done == []


def test_no_login_goes_over_plain_http(lan: Lan, fake: Fake, on_stdin: None) -> None:
    impostor = fake(auth="basic", users={"bundle": PASSWORD}, anonymous_pull=False)
    lan.log_in(impostor)
    for option in ((), ("--password-stdin",)):
        document = lan.join(impostor, "--plan", "--yes", *option, code=4)
        assert "no login was sent" in document["error"]["message"]
    document = lan.join(impostor, "--plan", "--yes", "--fingerprint", lan.print, code=5)
    assert "speaks plain HTTP, where a certificate is expected" in document["error"]["message"]
    assert [request for request in impostor.requests if request.authorization] == []


def test_where_docker_has_a_login_it_is_not_told_to_speak_plain_http(lan: Lan) -> None:
    """Whoever answers wants none now; with the next pull docker would send it to whom asks."""
    impostor = lan.registry()
    lan.log_in(impostor)
    document = lan.join(impostor, "--plan", "--yes", code=4)
    assert "no login was sent" in document["error"]["message"]
    assert document["error"]["hint"].endswith(f"docker logout {HOST}:{impostor.port}")
    assert impostor.requests == [] and lan.engine.done == []


@pytest.mark.parametrize("place", ["localhost:5000", "127.0.0.1:5000", "localhost"])
def test_this_host_itself_is_none_to_join(lan: Lan, fake: Fake, place: str) -> None:
    document = lan.join(fake(), "--plan", place=place, code=2)
    assert "is this host: expected the address at which the LAN has the registry" in document["error"]["message"]
    assert "install" in document["error"]["hint"]


def test_the_registry_that_was_installed_here_is_none_to_join(lan: Lan) -> None:
    registry = lan.registry()
    host = Host.this(os.environ, None)
    with Archive(lan.archive) as archive:
        address = Address.parse(f"{HOST}:{registry.port}")
        recorder = InstallRecorder(Job.of(archive, Options(registry=address), AMD64), host)
        with recorder.locked():
            recorder.finish([], {})
    before = host.places.receipt.read_bytes()
    document = lan.join(registry, "--yes", code=2)
    assert "is that of this host" in document["error"]["message"]
    assert f"install {lan.archive}" in document["error"]["hint"]
    assert registry.requests == [] and lan.engine.done == []
    assert host.places.receipt.read_bytes() == before


def test_files_for_plain_http_come_with_a_warning(lan: Lan, capsys: pytest.CaptureFixture[str]) -> None:
    registry = lan.registry()
    assert run(["join", str(lan.archive), f"{HOST}:{registry.port}", "--print", "podman"]) == 0
    shown = capsys.readouterr()
    assert "insecure = true" in shown.out
    assert "speaks plain HTTP" in shown.err


def test_the_files_for_another_client_need_no_docker(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = lan.secured()
    monkeypatch.setenv("PATH", "/nowhere")
    document = lan.join(registry, "--fingerprint", lan.print, "--print", "podman")
    assert document["fingerprints"] == [lan.print]
    files = {file["path"]: file["content"] for file in document["files"]}
    assert files[f"/etc/containers/certs.d/{HOST}:{registry.port}/ca.crt"] == lan.authority.file.read_text()
    assert f'location = "{HOST}:{registry.port}/ghcr.io"' in files["/etc/containers/registries.conf.d/50-bundle.conf"]
    # No login is needed for that: it asks for nothing but the certificate.
    assert registry.requests == [] and lan.engine.done == []


def test_a_mistyped_fingerprint_is_said_before_anything_is_asked(lan: Lan, fake: Fake) -> None:
    document = lan.join(fake(), "--plan", "--fingerprint", "AB:CD", code=2)
    assert "`AB:CD` is no SHA-256 fingerprint" in document["error"]["message"]


def joined(lan: Lan, registry: FakeRegistry, platforms: tuple[Platform, ...] = ()) -> Receipt:
    """Write the receipt of a host that has joined, as far as that is the registry's matter."""
    site = Destination(f"{HOST}:{registry.port}", aliases=True, joined=True)
    host = Host.this(os.environ, None)
    with Archive(lan.archive) as archive:
        job = Job.of(archive, Options(site=site, platforms=platforms), AMD64)
        with transport_to(job) as transport:
            check = HeldCheck(archive, job.images, site, Registry(transport, site.host))
            recorder = InstallRecorder(job, host)
            with recorder.locked():
                runner = Runner([check], None, Silent(), recorder)
                runner.check(yes=True)
                return recorder.finish(runner.perform(), check.rebuilt)


def later(*arguments: object, code: int = 0) -> Any:
    """Run a command on the host that has joined; gives its JSON document."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        done = run([*map(str, arguments), "--json"])
    assert done == code, out.getvalue() + err.getvalue()
    return json.loads(out.getvalue())


def test_a_host_that_joined_has_brought_nothing(lan: Lan) -> None:
    """Also where the registry refused an index, and has another one in its place."""
    registry = lan.registry(platforms=(AMD64,), sparse_index=MANIFEST_BLOB_UNKNOWN)
    receipt = joined(lan, registry, (AMD64,))
    assert [image.reference for image in receipt.images if image.rebuilt]
    assert receipt.brought == () and receipt.state.site is not None and receipt.state.site.joined
    assert Receipt.parse(receipt.to_json()) == Receipt.read(Host.this(os.environ, None))
    assert later("prune", "--plan")["steps"][0]["changes"] == []
    gone = [change for step in later("uninstall", "--data", "--plan")["steps"] for change in step["changes"]]
    assert [change for change in gone if change["kind"] in ("tag", "digest", "volume")] == []


def test_a_registry_that_was_joined_by_tls_is_not_joined_again_by_plain_http(lan: Lan) -> None:
    impostor = lan.registry()
    joined(lan, impostor)
    receipt = Host.this(os.environ, None).places.receipt
    receipt.write_text(receipt.read_text().replace('"tls": false', '"tls": true'))
    lan.log_in(impostor)
    impostor.requests.clear()
    document = lan.join(impostor, "--yes", code=5)
    assert "spoke TLS when this host began to use it" in document["error"]["message"]
    assert "uninstall" in document["error"]["hint"]
    assert impostor.requests == [] and lan.engine.done == []


@pytest.mark.parametrize("command", ["upgrade", "install"])
def test_what_was_joined_stays_joined(lan: Lan, command: str) -> None:
    registry = lan.registry()
    joined(lan, registry)
    registry.requests.clear()
    plan = later(command, lan.archive, "--plan")
    assert plan["registry"] == f"{HOST}:{registry.port}"
    assert "push" not in changes_of(plan) and changes_of(plan)["registry"] == []
    assert {request.method for request in registry.requests} == {"GET", "HEAD"}


def test_status_and_doctor_ask_the_registry_that_was_joined(lan: Lan) -> None:
    registry = lan.registry()
    joined(lan, registry)
    status = later("status", code=4)
    assert status["registry"]["site"]["joined"] is True and status["registry"]["container"] is None
    assert status["registry"]["answers"] is True and all(image["served"] for image in status["images"])
    registry.close()
    assert later("status", code=4)["registry"]["answers"] is False
    assert "registry" in {finding["check"] for finding in later("doctor", code=4)["findings"]}
