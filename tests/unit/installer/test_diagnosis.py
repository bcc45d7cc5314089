"""The next step that a finding names installs again what was chosen, and can be pasted into a shell."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any, Optional

import pytest

from bundles.errors import Problem
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.registry.transport import Settings, Transport
from bundles.runtime.progress import Silent
from installer.commands.status import _kubernetes
from installer.diagnosis import Diagnosis, Finding
from installer.host.host import Host
from installer.host.kubectl import KubectlError
from installer.host.paths import Places
from installer.model.cluster import Cluster
from installer.model.job import DesiredState
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.registry.installed import own_access
from installer.model.registry.keys import Keys
from installer.model.registry.storage import S3Storage
from installer.model.replay import Replay, ReplayedTape
from installer.receipt.receipt import BundleName, InstalledImage, Receipt
from installer.registry.client import Registry
from installer.registry.connection import transport_to
from installer.steps.registry.certificates import Certificates
from installer.steps.registry.storage import StorageFiles
from tests.support.fake_engine import FakeEngine
from tests.support.fake_kubectl import FakeHost, refused, state_with
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.nodes import place_in
from tests.support.states import desired
from tests.support.tools import give, tool

AMD64 = Platform("linux", "amd64")


def test_what_needs_the_archive_is_an_upgrade_with_its_path_quoted(engine: FakeEngine, tmp_path: Path) -> None:
    archive = "/media/my stick/off'line.tar"
    state = desired(Address.parse("localhost:5000"))
    receipt = Receipt(BundleName("x", "sha256:1", archive), state)
    host = Host(engine.engine, None, Places(tmp_path, tmp_path, tmp_path))  # type: ignore[arg-type]
    diagnosis = Diagnosis(receipt, host, None, Silent())  # type: ignore[arg-type]
    (finding,) = diagnosis._registry_container()
    assert "its image" in finding.message
    assert shlex.split(finding.hint) == ["python3", archive, "upgrade"]


def test_a_tool_that_became_another_image_is_named_with_both_digests_and_nothing_is_fixed(
    engine: FakeEngine, tmp_path: Path, registry: FakeRegistry
) -> None:
    """The frontend is not started on the host: a newer one is anybody's to push."""
    address = Address.parse(registry.host)
    buildkit = tool("moby/buildkit:1")
    state = desired(address, tools={"buildkit": buildkit})
    pushed = {
        role: registry.tag(name, "1", registry.image("linux/amd64", seed=role)).digest
        for role, name in (("buildkit", "moby/buildkit"), ("frontend", "docker/dockerfile"))
    }
    installed = Digest.of(b"installed")
    images = tuple(
        InstalledImage(f"docker.io/{name}:1", role, installed, (AMD64,), (f"{address}/{name}:1",))
        for role, name in (("buildkit", "moby/buildkit"), ("frontend", "docker/dockerfile"))
    )
    receipt = Receipt(BundleName("x", "sha256:1", "/x.tar"), state, images=images)
    host = Host(engine.engine, None, Places(tmp_path, tmp_path, tmp_path))  # type: ignore[arg-type]
    with Transport(Settings(insecure=frozenset({registry.host}))) as transport:
        diagnosis = Diagnosis(receipt, host, Registry(transport, registry.host), Silent())
        found = list(diagnosis._images(False))
        assert [(finding.check, finding.message.partition(": ")[2]) for finding in found] == [
            ("tools", f"it is {pushed['buildkit']}, and was {installed}"),
            ("images", f"it is {pushed['frontend']}, and was {installed}"),
        ]
        fixable = [Finding("builder", "x", "y", "builder")]
        assert [step.name for step in diagnosis.fixing(fixable)] == ["builder"]
        assert diagnosis.fixing([*fixable, *found]) == []
        # In Docker the name may be anybody's, too.
        give(engine, buildkit)
        assert list(diagnosis._tools()) == []
        other = give(engine, buildkit, str(Digest.of(b"other")))
        (finding,) = diagnosis._tools()
        assert f"it is {other}, and was {buildkit.manifest.digest}" in finding.message
        assert diagnosis.fixing([*fixable, finding]) == []


def test_a_replay_that_does_not_do_its_work_is_found(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = Digest.of(b"tape")
    replay = Replay(5080, (ReplayedTape("app", (digest,)),))
    tools = {"python": tool("library/python:3")}
    state = desired(Address.parse("localhost:5000"), data="v", tools=tools, replay=replay)
    receipt = Receipt(BundleName("x", "sha256:1", "/x.tar"), state)
    host = Host(engine.engine, None, Places(tmp_path, tmp_path, tmp_path))  # type: ignore[arg-type]
    diagnosis = Diagnosis(receipt, host, None, Silent())  # type: ignore[arg-type]
    # What the step itself finds is not said twice.
    assert list(diagnosis._replaying()) == []
    monkeypatch.setattr(diagnosis._replay, "look", list)
    said: list[Any] = [
        None,
        {"loaded": False},
        {"loaded": True, "missing": [str(digest)]},
        {"loaded": True, "missing": [], "unavailable": [str(digest)]},
        {"loaded": True, "damaged": [str(digest)]},
        {"loaded": True, "missing": [], "unavailable": [], "damaged": []},
    ]
    monkeypatch.setattr(diagnosis, "replay_state", lambda: said.pop(0))
    hints = [[finding.hint for finding in diagnosis._replaying()] for _ in range(6)]
    assert hints == [
        ["docker logs bundle-replay; docker restart bundle-replay"],
        ["docker logs registry"],
        ["python3 /x.tar upgrade"],
        ["docker logs registry"],
        ["bundle uninstall --data; python3 /x.tar install"],
        [],
    ]


def test_a_replay_that_the_registry_of_a_site_refuses_is_found(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = Digest.of(b"tape")
    replay, site = Replay(5080, (ReplayedTape("app", (digest,)),)), Destination("harbor.corp", "team")
    address, tls = Address.of_host("harbor.corp"), Access(tls=True)
    state = desired(address, data="", replay=replay, site=site, access=tls)
    host = Host(engine.engine, None, Places(tmp_path, tmp_path, tmp_path))  # type: ignore[arg-type]

    def found(state: DesiredState, **said: Any) -> list[tuple[str, str]]:
        receipt = Receipt(BundleName("x", "sha256:1", "/x.tar"), state)
        diagnosis = Diagnosis(receipt, host, None, Silent())  # type: ignore[arg-type]
        monkeypatch.setattr(diagnosis._replay, "look", list)
        monkeypatch.setattr(diagnosis, "replay_state", lambda: {"loaded": True, **said})
        return [(finding.message, finding.hint) for finding in diagnosis._replaying()]

    refused: dict[str, Any] = {"refusal": "`harbor.corp` refuses it", "refused": [str(digest)]}
    message = "the replay service gets no tapes: `harbor.corp` refuses it"
    assert found(state, **refused) == [(message, "docker login harbor.corp; bundle doctor --fix")]
    # The password of our own registry is ours.
    own = Access(True, None, "/state/registry/password")
    ours = dataclasses.replace(state, address=Address.parse("localhost:5000"), data="v", site=None, access=own)
    assert found(ours, **refused) == [(message, "python3 /x.tar upgrade")]
    lost, cleared = found(state, unavailable=[str(digest)]), found(state, damaged=[str(digest)])
    assert [hint for _, hint in lost + cleared] == [
        "docker logs bundle-replay",
        "have the repository `harbor.corp/team/offline-bundle/tape` deleted there; python3 /x.tar upgrade",
    ]


def test_what_another_users_builds_missed_is_not_this_ones(engine: FakeEngine, tmp_path: Path) -> None:
    state = desired(Address.parse("localhost:5000"), data="v", replay=Replay(5080, ()))
    host = Host(engine.engine, None, Places(tmp_path, tmp_path, tmp_path))  # type: ignore[arg-type]
    receipt = Receipt(BundleName("x", "sha256:1", "/x.tar"), state)
    diagnosis = Diagnosis(receipt, host, None, Silent())  # type: ignore[arg-type]
    engine.log = b"not recorded: GET http://h.example/a"
    labels = {"offline-bundle.role": "replay", "offline-bundle.owner": str(tmp_path)}
    engine.add("bundle-replay", labels)
    assert diagnosis.unrecorded() == ["GET http://h.example/a"]
    engine.add("bundle-replay", {**labels, "offline-bundle.owner": "/home/anna/.local/state/bundle"})
    assert (diagnosis.unrecorded(), diagnosis.replay_state()) == ([], None)


def secured(registry: FakeRegistry, engine: FakeEngine, root: Path, tls: bool) -> tuple[Diagnosis, Transport]:
    """The diagnosis of an installation at the registry's address, whose container runs there."""
    address = Address.parse(registry.host)
    places = Places(root / "docker", root / "buildx", root / "state")
    access = own_access(places) if tls else PLAIN
    state = desired(address, tools={"registry": tool("registry:3")}, access=access)
    host = Host(engine.engine, None, places)  # type: ignore[arg-type]
    certificates = Certificates(state, host)
    certificates.apply(certificates.look())
    give(engine, tool("registry:3"))
    transport = transport_to(state, attempts=1)
    diagnosis = Diagnosis(
        Receipt(BundleName("x", "sha256:1", "/x.tar"), state), host, Registry(transport, registry.host), Silent()
    )
    return diagnosis, transport


@pytest.mark.parametrize(
    ("tls", "says"),
    [
        (True, "speaks plain HTTP, and this installation uses TLS"),
        (False, "speaks TLS, and this installation uses plain HTTP"),
    ],
)
def test_who_speaks_otherwise_than_was_installed_is_named(
    engine: FakeEngine, tmp_path: Path, tls: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = None if tls else Certificate.make(tmp_path)
    with FakeRegistry(**({"tls": certificate, "client_ca": certificate.file} if certificate else {})) as fake:
        diagnosis, transport = secured(fake, engine, tmp_path, tls)
        with transport:
            monkeypatch.setattr(diagnosis._container, "look", list)
            monkeypatch.setattr(diagnosis._container, "held_by_others", list)
            engine.add("registry", {})
            (finding,) = diagnosis._registry_container()
            assert finding.check == "certificates"
            assert says in finding.message


def test_what_is_renewed_is_given_to_what_shows_it(engine: FakeEngine, tmp_path: Path, registry: FakeRegistry) -> None:
    diagnosis, transport = secured(registry, engine, tmp_path, True)
    with transport:
        assert list(diagnosis._of_certificates()) == []
        (tmp_path / "state/registry/server.pem").unlink()
        found = list(diagnosis._of_certificates())
        assert [(finding.check, finding.fixed_by) for finding in found] == [("certificates", "certificates")]
        assert [step.name for step in diagnosis.fixing(found)][:2] == ["certificates", "registry"]


def test_nodes_are_found_wrong_and_brought_back_with_their_builder(
    engine: FakeEngine, registry: FakeRegistry, tmp_path: Path
) -> None:
    with place_in(tmp_path, engine, registry) as place:
        place.site.add("one")
        place.site.add("two", architecture="aarch64")
        nodes = place.node("one", AMD64), place.node("two")
        place.bring(*nodes)
        receipt = Receipt(BundleName("x", "sha256:1", "/x.tar"), place.state)
        diagnosis = Diagnosis(receipt, place.host, place.client, Silent())
        assert list(diagnosis._of_nodes()) == []
        place.site.remove("one")
        with place.site.machine("two") as machine:
            machine["containers"].clear()
        gone, lost = diagnosis._of_nodes()
        assert (gone.check, gone.fixed_by) == ("nodes", None)
        assert gone.hint == "start it, or give it up: bundle node remove ssh://anna@one"
        assert (lost.message, lost.fixed_by) == (
            "ssh://anna@two has no BuildKit any more, or another one",
            "nodes",
        )
        assert diagnosis.fixing([gone]) == []
        assert [step.name for step in diagnosis.fixing([gone, lost])] == ["nodes"]
        (step,) = diagnosis.fixing([gone, lost])
        step.apply(step.look())
        # The other one is still down.
        assert [finding.message for finding in diagnosis._of_nodes()] == [gone.message]
        builder = Finding("builder", "x", "y", "builder")
        assert [step.name for step in diagnosis.fixing([builder])] == ["builder", "nodes"]


BUCKET = S3Storage("registry", "team", "https://s3.corp")


def test_keys_that_are_of_no_use_any_more_are_found_and_removed(engine: FakeEngine, tmp_path: Path) -> None:
    """As they are left by an installation with --data that was broken off."""
    receipt = Receipt(BundleName("x", "sha256:1", "/x.tar"), desired(Address.parse("localhost:5000")))
    host = Host(engine.engine, None, Places(tmp_path, tmp_path, tmp_path))  # type: ignore[arg-type]
    file = StorageFiles.of(host.places).keys
    file.parent.mkdir(parents=True)
    file.write_bytes(Keys("AKIA1", "secret").to_file())
    diagnosis = Diagnosis(receipt, host, None, Silent())  # type: ignore[arg-type]
    (finding,) = diagnosis._of_storage()
    assert str(file) in finding.message and finding.hint.endswith("doctor --fix")
    (step,) = diagnosis.fixing([finding])
    step.apply(step.look())
    assert not file.exists() and list(diagnosis._of_storage()) == []


@pytest.mark.parametrize(
    ("hint", "typed"),
    [
        ("--s3-region eu-1", "python3 '/my stick/x.tar' install --s3-region eu-1"),
        ("curl -v https://s3.corp", "curl -v https://s3.corp"),
        (None, "python3 '/my stick/x.tar' install --s3-credentials FILE"),
    ],
)
def test_what_helps_against_a_storage_is_a_command(
    hint: Optional[str], typed: str, engine: FakeEngine, tmp_path: Path
) -> None:
    state = desired(Address.parse("localhost:5000"), data=str(BUCKET), storage=BUCKET)
    receipt = Receipt(BundleName("x", "sha256:1", "/my stick/x.tar"), state)
    host = Host(engine.engine, None, Places(tmp_path, tmp_path, tmp_path))  # type: ignore[arg-type]
    diagnosis = Diagnosis(receipt, host, None, Silent())  # type: ignore[arg-type]
    if hint:
        diagnosis.__dict__["storage_trouble"] = Problem("storage", "x", hint)
    # Else there are no keys.
    (finding,) = diagnosis._of_storage()
    assert finding.hint.partition(";")[0] == typed and finding.fixed_by is None


def test_a_cluster_that_does_not_answer_is_asked_once(tmp_path: Path, engine: FakeEngine) -> None:
    fake = FakeHost.at(tmp_path, {"get": refused("net/http: TLS handshake timeout")}, engine=engine.engine)
    state = state_with(Cluster("site", "team"))
    receipt = Receipt(BundleName("x", "sha256:1", "/x.tar"), state)
    diagnosis = Diagnosis(receipt, fake, None, Silent())  # type: ignore[arg-type]
    for step in diagnosis._cluster:
        with pytest.raises(KubectlError, match="TLS handshake timeout"):
            list(diagnosis._of_cluster(step))
    status = _kubernetes(receipt, fake, diagnosis)
    assert status is not None and status["ready"] is None
    assert [call for call, _ in fake.kubectl.calls if "/version" not in call] == []
    assert len(fake.kubectl.calls) == 1
    # Who is refused was answered: a new login may be all that it takes.
    fake.kubectl.answers = {"get": refused("You must be logged in to the server (Unauthorized)"), "view": {}}
    again = Diagnosis(receipt, fake, None, Silent())  # type: ignore[arg-type]
    assert again.cluster_trouble is None
    assert [finding.check for finding in again._of_cluster(again._cluster[0])][:1] == ["cluster access"]
