"""The replay service on a host: its CA, its container, its port, and what is replayed."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Optional

import pytest

from bundles.errors import HostError, UsageError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.runtime.progress import Silent
from installer.host.host import Host
from installer.host.labels import LABEL_PORT, LABEL_ROLE, REPLAY_CONTAINER
from installer.host.paths import Places
from installer.model.job import DesiredState
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.replay import Replay, ReplayedTape, check_direct, join_pieces
from installer.receipt.receipt import BundleName, PushedName, Receipt
from installer.replay.settings import TAPES
from installer.runner import Runner
from installer.steps import replay_container
from installer.steps.replay_container import RemoveReplay, ReplayContainer, misses, service_state, with_replay
from tests.support.fake_engine import FakeEngine
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.ports import free_port
from tests.support.proxy_client import ProxyClient
from tests.support.states import desired
from tests.support.tapes import page, put_tape
from tests.support.tools import give, tool

AMD64 = Platform("linux", "amd64")
PYTHON = tool("library/python:3")
ONE, TWO, THREE = (Digest.of(name) for name in (b"1", b"2", b"3"))


@pytest.fixture
def host(engine: FakeEngine, tmp_path: Path) -> Host:
    places = Places(tmp_path / "docker", tmp_path / "buildx", tmp_path / "state", proc=Path("/proc"), root=tmp_path)
    return Host(engine.engine, None, places)  # type: ignore[arg-type]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def runs(engine: FakeEngine, tmp_path: Path) -> Iterator[None]:
    """Have the container's program really run, with the files that were put into it."""
    processes: list[subprocess.Popen[bytes]] = []

    def end() -> None:
        for process in processes:
            process.terminate()
            process.wait()

    def start() -> None:
        end()
        for name, (_, _, data) in engine.files[REPLAY_CONTAINER].items():
            place = tmp_path / "container" / name.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if "." in place.name:
                place.write_bytes(data)
        (program, directory) = (tmp_path / "container/bundle-replay/program.zip", tmp_path / "container/bundle-replay")
        processes.append(
            subprocess.Popen([sys.executable, "-I", str(program), str(directory)], stdout=subprocess.DEVNULL)
        )

    engine.after(f"POST /containers/{REPLAY_CONTAINER}/start", start)
    yield
    end()


def state(
    replay: Optional[Replay],
    registry: str = "localhost:5000",
    site: Optional[Destination] = None,
    access: Access = PLAIN,
) -> DesiredState:
    tools, data = {"python": PYTHON}, "" if site else "bundle-registry"
    address = Address.of_host(registry)
    return desired(address, data=data, tools=tools, replay=replay, site=site, access=access)


def step(host: Host, replay: Optional[Replay], registry: str = "localhost:5000", **more: Any) -> ReplayContainer:
    """The step without an archive, as `doctor` has it."""
    return ReplayContainer(state(replay, registry), host, Silent(), **more)


@pytest.mark.usefixtures("runs")
def test_the_service_runs_without_rights_and_answers(
    engine: FakeEngine, host: Host, registry: FakeRegistry, port: int
) -> None:
    give(engine, PYTHON)
    digest = put_tape(registry, "app", page("https://h.example/a", b"a"))
    replay = Replay(port, (ReplayedTape("app", (digest,)),))
    first = step(host, replay, registry.host)
    changes = first.look()
    directory = host.places.replay
    assert [(change.action, change.kind, change.name) for change in changes] == [
        ("write", "file", str(directory / "ca.key")),
        ("write", "file", str(directory / "ca.pem")),
        ("start", "container", "bundle-replay"),
    ]
    first.apply(changes)
    assert step(host, replay, registry.host).look() == []
    assert step(host, replay, registry.host).problems() == []
    assert stat.S_IMODE((directory / "ca.key").stat().st_mode) == 0o600
    assert ProxyClient(port, directory / "ca.pem").get("https://h.example/a").body == b"a"

    asked = engine.created[REPLAY_CONTAINER]
    assert (asked["User"], asked["Entrypoint"]) == ("65534:65534", ["python3", "-I", "/bundle-replay/program.zip"])
    wanted = {
        "NetworkMode": "host",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Tmpfs": {"/tmp": "size=1m,mode=1777"},
        "RestartPolicy": {"Name": "always"},
        "Memory": 1073741824,
        "PidsLimit": 1024,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "4m", "max-file": "2"}},
    }
    assert {key: asked["HostConfig"].get(key) for key in wanted} == wanted
    assert not asked["HostConfig"].get("Privileged")
    files = engine.files[REPLAY_CONTAINER]
    assert {name: (oct(mode), owner) for name, (mode, owner, _) in files.items()} == {
        "/bundle-replay": ("0o755", 65534),
        **{f"/bundle-replay/{name}": ("0o400", 65534) for name in ("program.zip", "settings.json", "ca.key", "ca.pem")},
        **{f"/bundle-replay/{name}": ("0o400", 65534) for name in ("registry.pem", "logins.json")},
    }

    # Other tapes need another container; the CA stays.
    key = (directory / "ca.key").read_bytes()
    other = put_tape(registry, "other", page("https://h.example/b", b"b"))
    more = dataclasses.replace(replay, tapes=(*replay.tapes, ReplayedTape("other", (other,))))
    again = step(host, more, registry.host)
    (change,) = again.look()
    assert (change.action, change.detail) == ("replace", f"on 127.0.0.1:{port}, for app, other")
    assert again.explain(change).endswith("has other settings")
    again.apply([change])
    assert ProxyClient(port, directory / "ca.pem").get("https://h.example/b").body == b"b"
    assert (directory / "ca.key").read_bytes() == key


@pytest.mark.usefixtures("runs")
def test_a_tape_that_comes_back_to_the_registry_is_replayed_without_more_ado(
    engine: FakeEngine, host: Host, registry: FakeRegistry, port: int
) -> None:
    give(engine, PYTHON)
    digest = put_tape(registry, "app", page("http://h.example/a", b"a"))
    held = registry.repositories.pop(TAPES)
    replay = Replay(port, (ReplayedTape("app", (digest,)),))
    run = step(host, replay, registry.host)
    run.apply(run.look())
    assert (service_state(port) or {})["missing"] == [str(digest)]
    client = ProxyClient(port, host.places.replay / "ca.pem")
    assert client.get("http://h.example/a").status == 404
    registry.repositories[TAPES] = held
    assert client.get("http://h.example/a").body == b"a"
    assert (service_state(port) or {})["missing"] == []


def log_in(host: str, password: str) -> None:
    """As `docker login` leaves it."""
    file = Path.home() / ".docker" / "config.json"
    file.parent.mkdir(exist_ok=True)
    entry = base64.b64encode(f"anna:{password}".encode()).decode()
    file.write_text(json.dumps({"auths": {host: {"auth": entry}, "other.corp": {"auth": "b3RoZXI6c2VjcmV0"}}}))


@pytest.mark.usefixtures("runs")
def test_the_registry_of_a_site_is_read_with_the_login_of_this_host(
    engine: FakeEngine,
    host: Host,
    fake: Callable[..., FakeRegistry],
    certificate: Certificate,
    port: int,
    tmp_path: Path,
) -> None:
    give(engine, PYTHON)
    registry = fake(tls=certificate, auth="bearer", users={"anna": "opensesame"}, anonymous_pull=False)
    digest = put_tape(registry, "app", page("https://h.example/a", b"a"), repository="team/offline-bundle/tape")
    authority = tmp_path / "site.pem"
    authority.write_bytes(certificate.file.read_bytes())
    replay = Replay(port, (ReplayedTape("app", (digest,)),))
    wanted = state(replay, registry.host, Destination(registry.host, "team"), Access(True, str(authority)))
    log_in(registry.host, "opensesame")
    run = ReplayContainer(wanted, host, Silent())
    run.apply(run.look())
    assert run.look() == []
    assert ProxyClient(port, host.places.replay / "ca.pem").get("https://h.example/a").body == b"a"

    # The login stands in a file that is the service's alone, and nowhere else; those for others nowhere at all.
    mode, owner, data = engine.files[REPLAY_CONTAINER]["/bundle-replay/logins.json"]
    assert (oct(mode), owner, [login["password"] for login in json.loads(data)]) == ("0o400", 65534, ["opensesame"])
    shown = json.dumps(engine.created[REPLAY_CONTAINER])
    others = [data for name, (_, _, data) in engine.files[REPLAY_CONTAINER].items() if "logins" not in name]
    for secret in ("opensesame", base64.b64encode(b"anna:opensesame").decode()):
        assert secret not in shown
        assert not any(secret.encode() in data for data in others)

    # Another password, and a CA that is trusted as well: another container.
    def is_replaced() -> str:
        (change,) = run.look()
        assert change.action == "replace"
        why = run.explain(change)
        run.apply([change])
        assert run.look() == []
        assert ProxyClient(port, host.places.replay / "ca.pem").get("https://h.example/a").body == b"a"
        return why

    registry.users = {"anna": "another"}
    log_in(registry.host, "another")
    assert is_replaced().endswith(f"has another login for `{registry.host}`, or other CAs, than this host has now")
    (tmp_path / "more").mkdir()
    with authority.open("ab") as file:
        file.write(Certificate.make(tmp_path / "more").file.read_bytes())
    assert is_replaced().endswith("or other CAs, than this host has now")


@pytest.mark.usefixtures("runs")
def test_our_own_registry_is_read_with_its_own_ca_and_password(
    engine: FakeEngine,
    host: Host,
    fake: Callable[..., FakeRegistry],
    certificate: Certificate,
    port: int,
    tmp_path: Path,
) -> None:
    give(engine, PYTHON)
    registry = fake(tls=certificate, auth="basic", users={"bundle": "generated"})
    digest = put_tape(registry, "app", page("https://h.example/a", b"a"))
    password = tmp_path / "password"
    password.write_text("generated\n")
    access = Access(True, str(certificate.file), str(password))
    replay = Replay(port, (ReplayedTape("app", (digest,)),))
    run = ReplayContainer(state(replay, f"localhost:{registry.port}", access=access), host, Silent())
    run.apply(run.look())
    assert run.look() == []
    assert ProxyClient(port, host.places.replay / "ca.pem").get("https://h.example/a").body == b"a"
    # Nobody else's certificates are trusted of it.
    assert engine.files[REPLAY_CONTAINER]["/bundle-replay/registry.pem"][2] == certificate.file.read_bytes()
    # Until the registry's own step has made them again, its files are no error.
    password.unlink()
    assert [change.action for change in run.look()] == ["replace"]


@pytest.mark.usefixtures("runs")
def test_the_mark_of_a_login_is_another_on_each_host(
    engine: FakeEngine, host: Host, registry: FakeRegistry, port: int, tmp_path: Path
) -> None:
    """Everybody may try guesses on what everybody can compute."""
    give(engine, PYTHON)
    log_in(registry.host, "123456")
    other = dataclasses.replace(host, places=dataclasses.replace(host.places, state=tmp_path / "other"))
    marks = []
    for each in (host, other):
        run = ReplayContainer(state(Replay(port, ()), registry.host, Destination(registry.host)), each, Silent())
        run.apply(run.look())
        marks.append(engine.created[REPLAY_CONTAINER]["Labels"]["offline-bundle.access"])
    assert len(set(marks)) == 2


def test_where_the_login_cannot_be_read_the_service_that_is_there_stays(
    engine: FakeEngine, host: Host, port: int, tmp_path: Path
) -> None:
    give(engine, PYTHON)
    engine.add(REPLAY_CONTAINER, {LABEL_ROLE: "replay", "offline-bundle.owner": str(host.places.state)})
    # The registry's own step may still have to make it.
    ours = Access(True, None, str(tmp_path / "password"))
    run = ReplayContainer(state(Replay(port, ()), access=ours), host, Silent())
    with pytest.raises(HostError, match="password` cannot be read"):
        run.apply(run.look())
    file = Path.home() / ".docker" / "config.json"
    file.parent.mkdir()
    file.write_text("{")
    run = ReplayContainer(state(Replay(port, ()), "harbor.corp", Destination("harbor.corp")), host, Silent())
    with pytest.raises(HostError, match="it is not JSON"):
        run.apply(run.look())
    assert REPLAY_CONTAINER in engine.containers


@pytest.mark.parametrize(
    ("registry", "site", "tls", "expected"),
    [
        ("localhost:5000", None, False, ("localhost:5000", "127.0.0.1", "offline-bundle/tape")),
        ("localhost:5000", None, True, ("localhost:5000", "127.0.0.1", "offline-bundle/tape")),
        ("[fd00::1]:5000", None, False, ("[fd00::1]:5000", "fd00::1", "offline-bundle/tape")),
        ("harbor.corp", ("team",), True, ("harbor.corp", "harbor.corp", "team/offline-bundle/tape")),
        ("harbor.corp:8443", ("", True), True, ("harbor.corp:8443", "harbor.corp", "offline-bundle_tape")),
        # A tunnel, for all that is known: it is where it is.
        ("localhost:5001", ("a/b",), False, ("localhost:5001", "localhost", "a/b/offline-bundle/tape")),
    ],
)
def test_where_the_service_reads(
    host: Host, registry: str, site: Optional[tuple[Any, ...]], tls: bool, expected: tuple[str, str, str]
) -> None:
    replay = Replay(5080, ())
    wanted = state(replay, registry, Destination(registry, *site) if site else None, Access(tls))
    settings = ReplayContainer(wanted, host, Silent())._settings(replay)
    assert (settings.registry, settings.address, settings.repository) == expected
    assert settings.tls is tls


def test_a_service_that_ends_at_once_is_an_error_with_its_log(engine: FakeEngine, host: Host, port: int) -> None:
    give(engine, PYTHON)
    engine.log = b"no such module"
    engine.after(
        f"POST /containers/{REPLAY_CONTAINER}/start",
        lambda: setattr(engine.containers[REPLAY_CONTAINER], "state", "restarting"),
    )
    run = step(host, Replay(port, ()))
    with pytest.raises(HostError, match="ended as soon as it was started\nno such module") as caught:
        run.apply(run.look())
    assert caught.value.hint == "docker logs bundle-replay"


def test_an_image_that_docker_lacks_is_pulled_by_its_digest(engine: FakeEngine, host: Host, port: int) -> None:
    other = give(engine, PYTHON, "sha256:" + "e" * 64)
    run = step(host, Replay(port, ()))
    changes = run.look()
    assert [(change.action, change.name) for change in changes][2:] == [
        ("pull", PYTHON.pinned),
        ("tag", PYTHON.name),
        ("start", "bundle-replay"),
    ]
    # What came is not it: nothing is started.
    with pytest.raises(HostError, match="which is not the image that was installed"):
        run.apply(changes)
    assert other not in {container.image for container in engine.containers.values()}


@pytest.mark.usefixtures("runs")
def test_a_stopped_one_is_started_and_one_that_was_killed_half_way_is_made_anew(
    engine: FakeEngine, host: Host, registry: FakeRegistry, port: int
) -> None:
    give(engine, PYTHON)
    replay = Replay(port, ())
    first = step(host, replay, registry.host)
    first.apply(first.look())
    actions = []
    for state in ("exited", "created"):
        engine.containers[REPLAY_CONTAINER].state = state
        again = step(host, replay, registry.host)
        changes = again.look()
        actions += [change.action for change in changes]
        again.apply(changes)
        assert step(host, replay, registry.host).look() == []
    assert actions == ["start", "replace"]


def test_somebody_elses_container_is_a_problem(engine: FakeEngine, host: Host, port: int) -> None:
    engine.add(REPLAY_CONTAINER, {})
    (problem,) = step(host, Replay(port, ())).problems()
    assert problem.subject == "container `bundle-replay`"
    assert "docker rename bundle-replay bundle-replay-old" in str(problem.hint)


def test_who_has_the_port_is_said(engine: FakeEngine, registry: FakeRegistry, host: Host) -> None:
    taken = int(registry.host.rpartition(":")[2])
    # A container of ours may say that the port is its own: what answers there is not the service.
    engine.add(REPLAY_CONTAINER, {LABEL_ROLE: "replay", LABEL_PORT: str(taken)})
    (problem,) = step(host, Replay(taken, ())).problems()
    assert problem.subject == f"port {taken} of 127.0.0.1"
    assert f"(process {os.getpid()})" in problem.message
    assert problem.hint == f"sudo ss -ltnp 'sport = :{taken}'"


def test_without_a_python_image_the_way_out_is_named(engine: FakeEngine, host: Host, port: int) -> None:
    bare = dataclasses.replace(state(Replay(port, ())), tools={})
    (problem,) = ReplayContainer(bare, host, Silent()).problems()
    assert "none for linux/amd64" in problem.message
    assert "--no-replay" in str(problem.hint)


def test_where_nothing_is_replayed_any_more_the_service_goes(engine: FakeEngine, host: Host) -> None:
    engine.add(REPLAY_CONTAINER, {LABEL_ROLE: "replay"})
    # Another user's, for all that is known.
    assert step(host, None).look() == []
    run = step(host, None, drops=True)
    changes = run.look()
    assert [change.action for change in changes] == ["remove"]
    run.apply(changes)
    assert engine.containers == {}
    assert step(host, None, drops=True).look() == []


@pytest.mark.usefixtures("runs")
def test_the_service_of_another_user_is_taken_with_consent_only(
    engine: FakeEngine, host: Host, registry: FakeRegistry, port: int, tmp_path: Path
) -> None:
    give(engine, PYTHON)
    anna = dataclasses.replace(host, places=dataclasses.replace(host.places, state=tmp_path / "anna"))
    replay = Replay(port, (ReplayedTape("app", (put_tape(registry, "app", page("http://h.example/a", b"a")),)),))
    hers, his = step(anna, replay, registry.host), step(host, replay, registry.host)
    # What is not there is nobody's, and what is one's own needs no consent.
    assert (hers.question(), his.question()) == (None, None)
    hers.apply(hers.look())
    assert (hers.look(), hers.question()) == ([], None)
    # The same tapes and the same port: it is hers all the same.
    assert his.problems() == []
    question = his.question()
    assert question
    assert str(tmp_path / "anna") in question
    with pytest.raises(HostError, match="is not ready") as caught:
        Runner([his], None, Silent()).check(yes=False)
    (problem,) = caught.value.problems
    assert (problem.subject, problem.hint) == ("consent", "run this again with --yes")
    with pytest.raises(HostError, match="not agreed to: take the replay"):
        Runner([his], lambda _: False, Silent()).check(yes=False)
    assert hers.look() == []
    # Where nothing is replayed, nothing is taken either.
    assert (step(host, None, drops=True).look(), step(host, None, drops=True).question()) == ([], None)
    # With consent it changes hands, and her doctor says where it went.
    Runner([his], None, Silent()).check(yes=True)
    changes = his.look()
    assert (changes[-1].action, changes[-1].detail.rpartition("; ")[2]) == (
        "replace",
        f"it was that of the installation in {tmp_path / 'anna'}",
    )
    his.apply(changes)
    assert (his.look(), his.question()) == ([], None)
    (change,) = hers.look()
    assert hers.explain(change).endswith(
        f"is now that of the installation that has its receipt in `{host.places.state}`"
    )
    assert hers.question()


@pytest.mark.usefixtures("runs")
def test_a_ca_that_is_gone_makes_a_service_nobody_elses(
    engine: FakeEngine, host: Host, registry: FakeRegistry, port: int
) -> None:
    give(engine, PYTHON)
    run = step(host, Replay(port, ()), registry.host)
    run.apply(run.look())
    (host.places.replay / "ca.key").unlink()
    assert ([change.action for change in run.look()], run.question()) == (["write", "replace"], None)


def test_uninstalling_takes_the_service_and_its_ca(engine: FakeEngine, host: Host) -> None:
    engine.add(REPLAY_CONTAINER, {LABEL_ROLE: "replay"})
    host.places.replay.mkdir(parents=True)
    for name in ("ca.key", "ca.pem"):
        (host.places.replay / name).write_text("x")
    receipt = Receipt(BundleName("x", "sha256:1", "/x.tar"), state(None))
    run = RemoveReplay(receipt, host)
    changes = run.look()
    assert [change.kind for change in changes] == ["container", "file", "file"]
    run.apply(changes)
    assert (engine.containers, list(host.places.replay.iterdir())) == ({}, [])
    # Somebody else's container stays.
    engine.add(REPLAY_CONTAINER, {})
    assert RemoveReplay(receipt, host).look() == []


def test_what_was_not_recorded_is_in_the_log_each_once_and_the_last_first(engine: FakeEngine, host: Host) -> None:
    engine.add(REPLAY_CONTAINER, {LABEL_ROLE: "replay"})
    first, long = "GET https://h.example/first", "GET https://h.example/" + "a" * 500
    lines = ["answers on 127.0.0.1:5080", *(f"not recorded: {url}" for url in (first, long, "GET x", first)), "lost: x"]
    engine.log = "\n".join(lines).encode()
    assert misses(host) == [first, "GET x", long]


def test_tapes_of_another_bundle_in_a_registry_of_a_site(host: Host) -> None:
    site = Destination("harbor.corp", "team")
    names = (PushedName("team/offline-bundle/tape", "x", ONE, "old", "tape"),)
    there = state(None, "harbor.corp", site, Access(tls=True))
    Receipt(BundleName("mine", "sha256:1", "/x.tar"), there, brought=names).save(host.places)
    job = dataclasses.replace(a_job(host), data="", site=site)
    assert tapes_of(job, host) == ["x"]
    # No part of it has what another one has.
    for other in (Destination("harbor.corp", "other"), Destination("nexus.corp", "team")):
        assert tapes_of(dataclasses.replace(job, site=other), host) is None


def test_pieces_of_a_tape_are_one() -> None:
    names = [("app", ONE), ("app.2", TWO), ("v1.2", THREE), ("app.4", ONE)]
    assert join_pieces(names) == (
        ReplayedTape("app", (ONE, TWO)),
        ReplayedTape("v1.2", (THREE,)),
        ReplayedTape("app.4", (ONE,)),
    )


@pytest.mark.parametrize("text", ["mirror.corp", "Mirror.corp:8080", ".corp", "*.corp", "10.0.0.0/8", "[fd00::1]:80"])
def test_hosts_that_builds_reach_themselves(text: str) -> None:
    assert check_direct(text) == text.lower()


@pytest.mark.parametrize("text", ["", "http://mirror.corp/", "a,b", "a b", 'a"', "*"])
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(UsageError, match="is no host"):
        check_direct(text)


def a_job(host: Host, *tapes: tuple[str, Digest], name: str = "mine", **options: Any) -> Any:
    """As much of a job as settling looks at."""
    images = [
        SimpleNamespace(tag=tag, root=SimpleNamespace(digest=digest), image=SimpleNamespace(role="tape"))
        for tag, digest in tapes
    ]
    chosen = SimpleNamespace(**{"replay": True, "direct": (), "succeeds": False, **options})
    return _Job(images, chosen, SimpleNamespace(manifest=SimpleNamespace(name=name)))


@dataclasses.dataclass(frozen=True)
class _Job:
    images: Any
    options: Any
    archive: Any
    tools: Any = dataclasses.field(default_factory=dict)
    address: Any = dataclasses.field(default_factory=lambda: Address("localhost", 5000))
    data: str = "bundle-registry"
    site: Optional[Destination] = None
    replay: Optional[Replay] = None


@pytest.fixture
def brought(host: Host) -> Callable[..., None]:
    """Write the receipt of an installation that brought these tapes: bundle, tag, digest."""

    def write(*entries: tuple[str, str, Digest], replay: Optional[Replay] = None) -> None:
        names = tuple(PushedName(TAPES, tag, digest, bundle, "tape") for bundle, tag, digest in entries)
        Receipt(BundleName("mine", "sha256:1", "/x.tar"), state(replay), brought=names).save(host.places)

    return write


def tapes_of(job: Any, host: Host) -> Optional[list[str]]:
    replay = with_replay(job, host).replay
    return None if replay is None else [tape.name for tape in replay.tapes]


def test_own_tapes_come_first_then_those_of_other_bundles(host: Host, brought: Callable[..., None]) -> None:
    assert tapes_of(a_job(host), host) is None
    assert tapes_of(a_job(host, ("app", ONE)), host) == ["app"]
    brought(("mine", "before", ONE), ("old", "x", ONE), ("old", "x", TWO), ("old", "x.2", THREE), ("new", "y", ONE))
    settled = with_replay(a_job(host, ("app", ONE)), host)
    assert settled.replay
    assert settled.replay.tapes == (
        ReplayedTape("app", (ONE,)),
        ReplayedTape("y", (ONE,)),
        ReplayedTape("x", (TWO, THREE)),
    )
    # Not this bundle's own earlier ones, and not those of the one that is succeeded.
    assert tapes_of(a_job(host, name="next", succeeds=True), host) == ["y", "x"]
    assert tapes_of(a_job(host, name="next"), host) == ["y", "x", "before"]
    assert tapes_of(a_job(host, ("app", ONE), replay=False), host) is None
    # Another registry has other content.
    other = dataclasses.replace(a_job(host), data="/srv/registry")
    assert tapes_of(other, host) is None
    elsewhere = dataclasses.replace(a_job(host), data="", site=Destination("harbor.corp", "team"))
    assert tapes_of(elsewhere, host) is None
    # At another address the same registry has the same.
    moved = dataclasses.replace(a_job(host, name="next"), address=Address("localhost", 5001))
    assert tapes_of(moved, host) == ["y", "x", "before"]
    # The image that it ran in is what it runs in where the archive has none.
    assert with_replay(a_job(host, name="next"), host).tools == {"python": PYTHON}


def test_a_port_that_is_taken_is_passed_and_the_one_it_has_is_kept(
    host: Host, brought: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        free = free_port()
        monkeypatch.setattr(replay_container, "_PORTS", (taken, free))
        settled = with_replay(a_job(host, ("app", ONE)), host)
        assert settled.replay == Replay(free, (ReplayedTape("app", (ONE,)),))
        brought(replay=Replay(free, (), ()))
        monkeypatch.setattr(replay_container, "_PORTS", (taken,))
        assert with_replay(a_job(host, ("app", ONE)), host).replay == settled.replay
