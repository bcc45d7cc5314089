"""Living with an installation whose registry is the site's: one contract for modes of tests/support/site_registries.py.

What only a real engine and builder can show is in tests/e2e/test_site.py.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from bundles.archive.reader import Archive
from bundles.cli.app import run
from bundles.oci.digest import Digest
from bundles.runtime.progress import Silent
from installer.host.host import Host
from installer.model.job import Job, Options
from installer.model.registry.access import Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.receipt.receipt import PushedName, Receipt
from installer.receipt.recorder import InstallRecorder
from installer.registry.client import Registry
from installer.registry.connection import transport_to
from installer.runner import Runner
from installer.steps.registry.push import Push
from tests.support import fake_docker
from tests.support.archives import AMD64, image, made
from tests.support.fake_engine import FakeEngine
from tests.support.fake_registry import Certificate, FakeRegistry, Refusal
from tests.support.site_registries import PASSWORD, SITES

Make = Callable[..., FakeRegistry]
BUSYBOX, DEBIAN, ALPINE = "team/library/busybox", "team/library/debian", "team/library/alpine:3"
MODES = [site for site in SITES if site.name in ("harbor", "nexus", "gitlab", "zot")]


class Plant:
    """A host on which a bundle was installed into a registry of the site, as far as that is the registry's matter."""

    def __init__(
        self, directory: Path, engine: FakeEngine, registry: FakeRegistry, user: str, environment: Any
    ) -> None:
        self.directory, self.engine, self.registry = directory, engine, registry
        endpoint = {"Name": "default", "Endpoints": {"docker": {"Host": f"unix://{engine.socket}"}}}
        docker = fake_docker.install(directory / "bin", endpoint=json.dumps([endpoint]))
        engine.root = str(directory)
        for name, value in {"HOME": directory, "PATH": docker}.items():
            environment.setenv(name, str(value))
        auth = base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
        (directory / ".docker").mkdir()
        (directory / ".docker/config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))

    def install(self, *images: str, destination: str = "team", site: Optional[FakeRegistry] = None) -> Receipt:
        """Push and write the receipt; nothing else is installed."""
        path = self.directory / "offline.tar"
        made(*(image(name, seeds=(zlib.crc32(name.encode()),)) for name in images)).write(path)
        registry = site or self.registry
        options = Options(
            site=Destination.parse(f"{registry.host}/{destination}"),
            access=Access(tls=True, authority=str(self.directory / "certificate.pem")),
        )
        host = Host.this(os.environ, None)
        with Archive(path) as archive:
            job = Job.of(archive, options, AMD64)
            with transport_to(job) as transport:
                push = Push(
                    archive, job.images, Registry(transport, registry.host), Silent(), yes=True, prefix=destination
                )
                recorder = InstallRecorder(job, host)
                with recorder.locked():
                    results = Runner([push], None, Silent(), recorder).perform()
                    return recorder.finish(results, push.rebuilt)

    def run(self, command: str, *arguments: object, code: int = 0) -> Any:
        """Run a command; gives its JSON document."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            done = run([command, *map(str, arguments), "--json"])
        assert done == code, out.getvalue() + err.getvalue()
        assert PASSWORD not in out.getvalue() + err.getvalue()
        return json.loads(out.getvalue())

    @property
    def receipt(self) -> Receipt:
        return Receipt.read(Host.this(os.environ, None))

    def tags(self) -> set[str]:
        return {f"{name}:{tag}" for name, each in self.registry.repositories.items() for tag in each.tags}


@pytest.fixture(params=MODES, ids=lambda site: site.name)
def plant(
    request: pytest.FixtureRequest, tmp_path: Path, engine: FakeEngine, fake: Make, monkeypatch: pytest.MonkeyPatch
) -> Plant:
    options = {**request.param.all_options, "tls": Certificate.make(tmp_path)}
    return Plant(tmp_path, engine, fake(**options), request.param.user, monkeypatch)


def removed(document: Any) -> set[str]:
    changes = [change for step in document["steps"] for change in step["changes"] if change["action"] == "remove"]
    return {change["name"] for change in changes if change["kind"] == "tag"}


def test_want_needs_no_list_of_the_repositories(plant: Plant) -> None:
    plant.install("debian:12", "busybox:1")
    document = plant.run("want", "-o", plant.directory / "want.json")
    assert (document["registry"], document["images"]) == (f"{plant.registry.host}/team", 2)
    want = json.loads((plant.directory / "want.json").read_text())
    assert {image["name"] for image in want["images"]} == {f"{DEBIAN}:12", f"{BUSYBOX}:1"}
    for each in plant.registry.repositories.values():
        assert set(map(str, (*each.blobs, *each.manifests))) <= set(want["digests"])


def test_want_of_a_part_of_any_registry(plant: Plant) -> None:
    """Without a receipt, where the registry lists its repositories; else the names cannot be known."""
    plant.install("debian:12")
    plant.registry.repository("another/app").tags["1"] = Digest.of(b"x")
    Host.this(os.environ, None).places.receipt.unlink()
    arguments = ("--registry", f"{plant.registry.host}/team", "--ca", plant.directory / "certificate.pem")
    if plant.registry.catalog:
        error = plant.run("want", "-o", plant.directory / "w.json", *arguments, code=5)["error"]
        assert "does not list its repositories" in error["message"]
        assert error["hint"]
    else:
        assert plant.run("want", "-o", plant.directory / "w.json", *arguments)["images"] == 1


def test_want_reads_a_registry_with_plain_http_and_gives_it_no_login(plant: Plant, fake: Make) -> None:
    open_one = fake()
    plant.install("debian:12")
    assert plant.run("want", "-o", plant.directory / "w.json", "--registry", open_one.host)["images"] == 0
    assert [each for each in open_one.requests if each.authorization] == []


def test_prune_takes_what_earlier_bundles_brought_and_collects_no_garbage(plant: Plant) -> None:
    plant.install("debian:12", "busybox:1")
    plant.registry.repository(BUSYBOX).tags["mine"] = plant.registry.repository(DEBIAN).tags["12"]
    plant.registry.repository(BUSYBOX).manifests |= plant.registry.repository(DEBIAN).manifests
    plant.install("debian:12", "alpine:3")
    document = plant.run("prune")
    assert removed(document) == {f"{BUSYBOX}:1"}
    assert plant.tags() == {f"{DEBIAN}:12", ALPINE, f"{BUSYBOX}:mine"}
    assert [step["step"] for step in document["steps"]] == ["images", "docker images"]
    assert f"when {plant.registry.host} collects its garbage" in document["notes"][-1]
    assert {str(entry) for entry in plant.receipt.brought} == {f"{DEBIAN}:12", ALPINE}
    assert plant.engine.done == []
    assert removed(plant.run("prune")) == set()


DELETION = {
    "not at all": (Refusal(405, "UNSUPPORTED", "The operation is unsupported."), "does not let images be deleted"),
    "not by this account": (Refusal(403, "DENIED", "requested access to the resource is denied"), "denied"),
}


@pytest.mark.parametrize("why", DELETION)
@pytest.mark.parametrize("command", [("prune",), ("uninstall", "--data", "--yes")])
def test_a_registry_that_deletes_nothing_says_so_and_nothing_is_lost(
    plant: Plant, why: str, command: tuple[str, ...]
) -> None:
    plant.install("debian:12", "busybox:1")
    plant.install("debian:12", "alpine:3")
    before, receipt = plant.tags(), plant.receipt
    plant.registry.deletion, message = DELETION[why]
    error = plant.run(*command, code=5)["error"]
    assert message in error["message"]
    assert ("REGISTRY_STORAGE_DELETE_ENABLED" if why == "not at all" else "docker login") in error["hint"]
    assert (plant.tags(), plant.receipt) == (before, receipt)
    assert plant.engine.done == []


def test_a_tag_goes_with_its_manifest_where_it_cannot_go_alone(plant: Plant) -> None:
    plant.install("debian:12", "busybox:1")
    plant.install("debian:12", "alpine:3")
    plant.registry.fault("DELETE", f"{BUSYBOX}/manifests/1", status=405, body=b"no such thing")
    assert removed(plant.run("prune")) == {f"{BUSYBOX}:1"}
    assert plant.tags() == {f"{DEBIAN}:12", ALPINE}
    assert plant.registry.repositories[BUSYBOX].manifests == {}


def test_a_tag_that_cannot_go_alone_stays_where_another_has_its_manifest(plant: Plant) -> None:
    plant.install("debian:12", "busybox:1")
    tags = plant.registry.repository(BUSYBOX).tags
    tags["mine"] = tags["1"]
    plant.install("debian:12", "alpine:3")
    document = plant.run("prune")
    if plant.registry.tag_deletion:
        assert f"{BUSYBOX}:1 stays: this registry deletes manifests and no single tags" in document["notes"][0]
        assert set(tags) == {"1", "mine"}
    else:
        assert set(tags) == {"mine"}
    assert removed(plant.run("prune")) == set()


def test_uninstall_leaves_the_images_unless_told(plant: Plant) -> None:
    plant.install("debian:12")
    plant.registry.repository("team/library/other").tags["1"] = Digest.of(b"x")
    before = plant.tags()
    notes = plant.run("uninstall", "--yes")["notes"]
    assert notes == [f"the images stay in {plant.registry.host}/team: a new installation finds them there"]
    assert plant.tags() == before
    plant.install("debian:12")
    # They were there: nothing of it was brought by this installation, and others may need it.
    assert removed(plant.run("uninstall", "--yes", "--data")) == set()
    assert plant.tags() == before


def test_with_data_goes_what_was_brought_and_nothing_else(plant: Plant) -> None:
    plant.install("debian:12")
    plant.registry.repository("team/library/other").tags["1"] = Digest.of(b"x")
    plan = plant.run("uninstall", "--data", "--plan")
    error = plant.run("uninstall", "--data", code=4)["error"]
    assert f"what was brought from here to {plant.registry.host}/team" in error["problems"][0]["message"]
    assert removed(plan) == removed(plant.run("uninstall", "--yes", "--data")) == {f"{DEBIAN}:12"}
    assert plant.tags() == {"team/library/other:1"}
    assert plant.registry.repositories[DEBIAN].manifests == {}


def test_what_was_brought_elsewhere_is_not_taken_for_what_is_here(plant: Plant, fake: Make) -> None:
    """The same names on another registry are somebody else's, until the host comes back to the first one."""
    second = fake(tls=Certificate(plant.directory / "certificate.pem", plant.directory / "key.pem"))
    plant.install("debian:12", "busybox:1", destination="team")
    (plant.directory / ".docker/config.json").unlink()
    first = plant.registry
    # The same image, and somebody else has put it there.
    second.repositories = {name: dataclasses.replace(each) for name, each in first.repositories.items()}
    second.content = first.content
    receipt = plant.install("debian:12", "alpine:3", site=second)
    assert [str(entry) for entry in receipt.brought] == [ALPINE]
    (elsewhere,) = receipt.elsewhere
    assert elsewhere.registry == first.host
    assert {str(entry) for entry in elsewhere.brought} == {f"{DEBIAN}:12", f"{BUSYBOX}:1"}
    assert Receipt.parse(receipt.to_json()) == plant.receipt
    assert removed(plant.run("prune")) == set()
    notes = plant.run("uninstall", "--plan")["notes"]
    assert notes[-1] == f"what was brought to {first.host} before stays there"


def test_status_and_doctor_speak_of_no_container(plant: Plant) -> None:
    plant.install("debian:12")
    status = plant.run("status", code=4)
    assert status["registry"] == {
        "address": plant.registry.host,
        "container": None,
        "state": None,
        "answers": True,
        "data": None,
        "site": {"host": plant.registry.host, "prefix": "team", "flat": False, "aliases": False, "joined": False},
        "storage": None,
    }
    assert all(each["served"] for each in status["images"])
    assert {problem["check"] for problem in status["problems"]} & {"registry", "daemon", "images", "restart"} == set()
    del plant.registry.repositories[DEBIAN]
    found = {finding["check"]: finding for finding in plant.run("doctor", code=4)["findings"]}
    assert f"{DEBIAN}:12 is gone from the registry" in found["images"]["message"]
    (plant.directory / ".docker/config.json").write_text("{}")
    found = {finding["check"]: finding for finding in plant.run("doctor", code=4)["findings"]}
    if plant.registry.auth:
        assert "docker login" in found["registry"]["hint"]
    plant.registry.close()
    found = {finding["check"]: finding for finding in plant.run("doctor", code=4)["findings"]}
    assert plant.registry.host in found["registry"]["message"]
    assert "docker" not in found["registry"]["hint"]


def test_the_doctor_sees_whom_builds_do_not_trust(plant: Plant, certificate: Certificate) -> None:
    """Docker has the new CA in its own place, and the builder the one from before."""
    plant.install("debian:12")
    directory = plant.directory / ".docker/certs.d" / plant.registry.host
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes((plant.directory / "certificate.pem").read_bytes())
    (plant.directory / "certificate.pem").write_bytes(certificate.file.read_bytes())
    found = {finding["check"]: finding for finding in plant.run("doctor", code=4)["findings"]}
    assert "not by the builder" in found["certificates"]["message"]
    assert found["certificates"]["hint"] == f"python3 {plant.directory}/offline.tar upgrade"
    # The fake gives its tokens itself, and buildx knows the system's CAs alone.
    assert ("token server" in found) == (plant.registry.auth == "bearer")


def test_a_ca_that_is_gone_is_named_with_what_brings_it_back(plant: Plant) -> None:
    plant.install("debian:12")
    (plant.directory / "certificate.pem").unlink()
    for command in ("status", "doctor", "prune", "want"):
        error = plant.run(command, code=4)["error"]
        assert error["message"] == f"the CA of `{plant.registry.host}` is gone from `{plant.directory}/certificate.pem`"
        assert error["hint"] == f"python3 ARCHIVE install --into {plant.registry.host}/team --ca FILE"


def test_entries_of_our_own_registry_wait_for_its_return() -> None:
    """A receipt from before there were others reads as it is."""
    own = PushedName("library/debian", "12", Digest.of(b"x"), "b")
    assert PushedName.parse(own.to_json()) == own
    assert PushedName.parse({"repository": "a", "tag": None, "digest": str(own.digest)}, "old").bundle == "old"
    assert str(Address.of_host("harbor.corp")) == "harbor.corp:443"
