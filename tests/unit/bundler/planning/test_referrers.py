"""`--referrers`: what is attached to images travels, and is found at a destination that has no referrers API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.create import Options, create
from bundler.definition.spec import Definition, FromDaemon, ImageRequest, Spec, combine
from bundler.planning.plan import Plan
from bundler.planning.referrers import with_referrers
from bundler.planning.resolve import resolve
from bundler.sources.registry import RegistrySource
from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
from bundles.errors import ContentError, NetworkError
from bundles.oci.descriptor import Descriptor
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.registry.transport import Transport
from bundles.runtime.progress import Silent
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.selection import select
from installer.registry.client import Registry
from installer.steps.registry.push import Push
from tests.support.archives import PROGRAM
from tests.support.fake_registry import FakeRegistry

Connect = Callable[..., Transport]
EMPTY = "application/vnd.oci.empty.v1+json"


def attach(registry: FakeRegistry, subject: Descriptor, kind: str) -> Descriptor:
    """An artifact about `subject`, as cosign and oras make them; no tag leads to it."""
    config, layer = registry.add(EMPTY, b"{}"), registry.add("text/plain", f"{kind} of {subject.digest}".encode())
    value = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": kind,
        "config": config.to_json(),
        "layers": [layer.to_json()],
        "subject": Descriptor(subject.media_type, subject.digest, subject.size).to_json(),
    }
    return registry.add("application/vnd.oci.image.manifest.v1+json", json.dumps(value).encode())


def listing(*artifacts: tuple[Descriptor, str]) -> bytes:
    entries = [{**artifact.to_json(), "artifactType": kind} for artifact, kind in artifacts]
    value = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    return json.dumps(value).encode()


@pytest.fixture
def image(registry: FakeRegistry) -> Descriptor:
    return registry.tag("app", "1", registry.index(registry.image("linux/amd64"), registry.image("linux/arm64")))


def carried(registry: FakeRegistry, connect: Connect, tmp_path: Path) -> Path:
    """Create with --referrers."""
    line = Definition(
        images=(Reference.parse(f"{registry.host}/app:1"),),
        platforms=(Platform.parse("linux/amd64"), Platform.parse("linux/arm64")),
        toolchain={role: None for role in ("registry", "buildkit", "buildx", "binfmt", "frontend", "python")},
    )
    spec = combine(Definition(), line, "test")
    options = Options(referrers=True, program=PROGRAM)
    return create(spec, tmp_path / "offline.tar", RegistrySource(connect(), {}), options, Silent()).written.path


def pushed(path: Path, target: FakeRegistry, connect: Connect) -> dict[str, Any]:
    """Install into an empty registry; gives the tags of the image's repository there."""
    with Archive(path) as archive:
        verify_archive(archive)
        images = select(archive, Destination.of(Address.parse(target.host)), (Platform.parse("linux/arm64"),))
        transport = connect(insecure=frozenset({target.host}))
        step = Push(archive, images, Registry(transport, target.host), Silent())
        step.apply(step.look())
        assert not step.look()
    ((_, repository),) = target.repositories.items()
    return repository.tags


def test_cosign_tags(registry: FakeRegistry, fake: Any, connect: Connect, tmp_path: Path, image: Descriptor) -> None:
    expected = {"1": image.digest}
    for suffix in ("sig", "att"):
        tag = f"sha256-{image.digest.hex}.{suffix}"
        config = registry.add("application/vnd.oci.image.config.v1+json", b'{"architecture":"","os":"","rootfs":{}}')
        layer = registry.add("application/vnd.dev.cosign.simplesigning.v1+json", suffix.encode())
        expected[tag] = registry.tag("app", tag, registry.manifest(config, [layer])).digest
    target = fake()
    assert pushed(carried(registry, connect, tmp_path), target, connect) == expected
    for digest in expected.values():
        assert digest in target.content


def test_referrers_of_the_api_and_of_what_is_attached(
    registry: FakeRegistry, fake: Any, connect: Connect, tmp_path: Path, image: Descriptor
) -> None:
    sbom = registry.link("app", attach(registry, image, "sbom"))
    signature = registry.link("app", attach(registry, sbom, "signature"))
    json_type = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
    for subject, found in ((image, listing((sbom, "sbom"))), (sbom, listing((signature, "signature")))):
        registry.fault("GET", f"/referrers/{subject.digest}", times=-1, status=200, body=found, headers=json_type)
    registry.fault("GET", "/referrers/", times=-1, status=200, body=listing(), headers=json_type)
    target = fake()
    tags = pushed(carried(registry, connect, tmp_path), target, connect)
    assert set(tags) == {"1", f"sha256-{image.digest.hex}", f"sha256-{sbom.digest.hex}"}
    index = json.loads(target.content[tags[f"sha256-{image.digest.hex}"]])
    assert [(entry["digest"], entry["artifactType"]) for entry in index["manifests"]] == [(str(sbom.digest), "sbom")]
    for artifact in (sbom, signature):
        assert target.content[artifact.digest] == registry.content[artifact.digest]


def test_the_fallback_tag_is_taken_as_it_is(
    registry: FakeRegistry, fake: Any, connect: Connect, tmp_path: Path, image: Descriptor
) -> None:
    sbom = attach(registry, image, "sbom")
    index = registry.add("application/vnd.oci.image.index.v1+json", listing((sbom, "sbom")))
    registry.tag("app", f"sha256-{image.digest.hex}", index)
    tags = pushed(carried(registry, connect, tmp_path), fake(), connect)
    assert tags == {"1": image.digest, f"sha256-{image.digest.hex}": index.digest}


def test_nothing_attached(
    registry: FakeRegistry, fake: Any, connect: Connect, tmp_path: Path, image: Descriptor
) -> None:
    assert pushed(carried(registry, connect, tmp_path), fake(), connect) == {"1": image.digest}


def test_a_registry_that_fails_is_not_taken_for_one_without(
    registry: FakeRegistry, connect: Connect, tmp_path: Path, image: Descriptor
) -> None:
    registry.fault("GET", f"sha256-{image.digest.hex}.sig", times=-1, status=503)
    with pytest.raises(NetworkError, match="503"):
        carried(registry, connect, tmp_path)


def test_registries_are_not_asked_about_local_images(
    registry: FakeRegistry, connect: Connect, image: Descriptor
) -> None:
    local, remote = f"{registry.host}/secret:1", f"{registry.host}/app:1"
    registry.tag("secret", "1", registry.image(seed="local"))
    amd64 = Platform.parse("linux/amd64")
    wanted = tuple(ImageRequest(Reference.parse(name), "base", (amd64,)) for name in (local, remote))
    spec = Spec("test", (amd64,), (amd64,), wanted, {}, False, (FromDaemon.parse(local),))
    source = RegistrySource(connect(), {})
    plan = resolve(spec, source)
    asked = len(registry.seen())
    registry.fault("GET", "/secret/", times=-1, status=403)
    assert with_referrers(plan, source).images == plan.images
    paths = registry.paths()[asked:]
    assert any("/v2/app/" in path for path in paths)
    assert [path for path in paths if "secret" in path] == []


ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
ODD = [
    ({"body": b"<html><title>Sign in</title></html>"}, "sent a web page, `Sign in`"),
    ({"body": json.dumps({"mediaType": ARTIFACT, "blobs": []}).encode()}, f"has the media type `{ARTIFACT}`"),
    ({"body": b'{"schemaVersion": 1}'}, "schema 1"),
    ({"body": b'{"config": {}, "layers": []}'}, "a descriptor has no mediaType"),
    ({"status": 401}, "HTTP status 401"),
    ({"status": 403, "body": b'{"errors": [{"code": "DENIED"}]}'}, "DENIED"),
    ({"status": 501}, "HTTP status 501"),
]


@pytest.mark.parametrize(("answer", "why"), ODD, ids=[why for _, why in ODD])
@pytest.mark.parametrize("place", ["tag", "list"])
def test_an_odd_thing_that_is_attached_is_noted_and_the_others_go_along(
    registry: FakeRegistry, connect: Connect, image: Descriptor, place: str, answer: Any, why: str
) -> None:
    sbom = registry.link("app", attach(registry, image, "sbom"))
    odd = Descriptor.of(sbom.media_type, answer.get("body", b"what it is nobody learns"))
    name = str(odd.digest) if place == "list" else f"sha256-{image.digest.hex}.att"
    registry.fault("GET", f"/manifests/{name}", times=-1, **{"status": 200, **answer})
    entries = [(sbom, "sbom"), (odd, "odd")] if place == "list" else [(sbom, "sbom")]
    registry.fault("GET", f"/referrers/{image.digest}", times=-1, status=200, body=listing(*entries))
    plan = with_referrers(*planned(registry, connect))
    assert [content.manifest.digest for each in plan.images[1:] for content in each.platforms] == [sbom.digest]
    index = json.loads(plan.document(plan.images[1].root.digest))
    assert [entry["digest"] for entry in index["manifests"]] == [str(sbom.digest)]
    (note,) = plan.notes
    assert note.startswith(f"{registry.host}/app{'@' if place == 'list' else ':'}{name}, where something may be")
    assert why in note


def test_what_is_refused_everywhere_for_one_reason_is_said_once(
    registry: FakeRegistry, connect: Connect, image: Descriptor
) -> None:
    registry.fault("GET", "/manifests/sha256-", times=-1, status=403)
    plan = with_referrers(*planned(registry, connect))
    assert len(plan.images) == 1
    # Four tags each of the index and of a platform.
    (note,) = plan.notes
    assert " and 7 more, " in note


def test_an_attachment_with_wrong_bytes_is_not_passed_over(
    registry: FakeRegistry, connect: Connect, image: Descriptor
) -> None:
    sbom = registry.link("app", attach(registry, image, "sbom"))
    registry.fault("GET", f"/referrers/{image.digest}", times=-1, status=200, body=listing((sbom, "sbom")))
    registry.fault("GET", f"/manifests/{sbom.digest}", times=-1, corrupt=True)
    with pytest.raises(ContentError, match="digest"):
        with_referrers(*planned(registry, connect))


def planned(registry: FakeRegistry, connect: Connect) -> tuple[Plan, RegistrySource]:
    """Plan the image for one platform, without what is attached."""
    amd64 = Platform.parse("linux/amd64")
    wanted = (ImageRequest(Reference.parse(f"{registry.host}/app:1"), "base", (amd64,)),)
    source = RegistrySource(connect(), {})
    return resolve(Spec("test", (amd64,), (amd64,), wanted, {}, False), source), source


def notes_of(registry: FakeRegistry, connect: Connect) -> tuple[str, ...]:
    """Plan with --referrers; what the source says then."""
    plan, source = planned(registry, connect)
    with_referrers(plan, source)
    return source.notes


REFUSALS = [
    ({"status": 200, "body": b"<html><title>Sign in</title></html>"}, "sent a web page, `Sign in`"),
    ({"status": 200, "body": b"[]"}, "not a JSON object"),
    ({"status": 200, "body": b'{"errors": []}'}, "no list of manifests"),
    ({"status": 401}, ""),
    ({"status": 403, "body": b'{"errors": [{"code": "DENIED"}]}'}, "DENIED"),
    ({"status": 406}, "HTTP status 406"),
    ({"status": 501}, "HTTP status 501"),
]


@pytest.mark.parametrize(("fault", "why"), REFUSALS, ids=[why for _, why in REFUSALS])
def test_a_registry_that_refuses_its_list_has_the_tag(
    registry: FakeRegistry, fake: Any, connect: Connect, tmp_path: Path, image: Descriptor, fault: Any, why: str
) -> None:
    sbom = attach(registry, image, "sbom")
    index = registry.add("application/vnd.oci.image.index.v1+json", listing((sbom, "sbom")))
    registry.tag("app", f"sha256-{image.digest.hex}", index)
    registry.fault("GET", "/referrers/", times=-1, **fault)
    tags = pushed(carried(registry, connect, tmp_path), fake(), connect)
    assert tags == {"1": image.digest, f"sha256-{image.digest.hex}": index.digest}
    (note,) = notes_of(registry, connect)
    assert note.startswith(f"{registry.host} does not list what is attached to images")
    assert why in note


@pytest.mark.parametrize("fault", [{"status": 404}, {"status": 200, "body": b'{"manifests": null}'}])
def test_a_registry_without_a_list_is_nothing_to_talk_about(
    registry: FakeRegistry, connect: Connect, image: Descriptor, fault: Any
) -> None:
    registry.fault("GET", "/referrers/", times=-1, **fault)
    assert notes_of(registry, connect) == ()


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_list_that_fails_for_now_is_not_passed_over(
    registry: FakeRegistry, connect: Connect, image: Descriptor, status: int
) -> None:
    registry.fault("GET", "/referrers/", times=-1, status=status)
    with pytest.raises(NetworkError) as caught:
        notes_of(registry, connect)
    assert caught.value.status == status


def test_a_tag_that_is_the_image_itself_has_nothing_attached(
    registry: FakeRegistry, fake: Any, connect: Connect, tmp_path: Path, image: Descriptor
) -> None:
    """As GitLab tags what it scans. The third platform, which nobody wants, stays where it is."""
    riscv = registry.image("linux/riscv64")
    whole = registry.tag("app", "1", registry.index(*registry.children(image), riscv))
    for one in (whole, *registry.children(whole)):
        registry.tag("app", f"sha256-{one.digest.hex}", one)
    target = fake()
    assert pushed(carried(registry, connect, tmp_path), target, connect) == {"1": whole.digest}
    assert riscv.digest not in target.content
    assert registry.paths("GET", f"/manifests/{riscv.digest}") == []


def test_an_index_under_the_tag_that_is_about_something_else(
    registry: FakeRegistry, fake: Any, connect: Connect, tmp_path: Path, image: Descriptor
) -> None:
    other = registry.index(registry.image("linux/amd64", seed="other"), registry.image("linux/riscv64"))
    registry.tag("app", f"sha256-{image.digest.hex}", other)
    assert pushed(carried(registry, connect, tmp_path), fake(), connect) == {"1": image.digest}
