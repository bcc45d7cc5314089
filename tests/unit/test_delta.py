"""Deltas: only what is missing travels, and the host is asked for the rest before anything is changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bundler.definition.spec import ImageRequest, Spec
from bundler.planning.delta import Known, read_base, subtract
from bundler.planning.resolve import resolve
from bundles.archive.manifest import Base
from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
from bundles.errors import ArchiveError, DamagedArchiveError, NetworkError, UsageError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.registry.transport import Transport
from bundles.runtime.progress import Silent
from installer.commands.want import holdings, untagged
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.selection import select
from installer.receipt.receipt import InstalledImage, Receipt
from installer.registry.client import Registry
from installer.steps.registry.push import Push
from tests.support.archives import AMD64, ContentSource, Made, image, made
from tests.support.fake_registry import FakeRegistry
from tests.support.images import Content
from tests.support.program import bundle_here as bundle

Connect = Callable[..., Transport]

REGISTRY = image("registry:3", "registry", (AMD64,), (9,))
FULL = (REGISTRY, image("debian:12", seeds=(1,)))
FIRST = (*FULL, image("ghcr.io/team/gcc:12", seeds=(1, 2)))
SECOND = (*FIRST, image("python:3", seeds=(1, 2, 3)))


def delta(contents: Made, *bases: Path) -> Made:
    return dataclasses.replace(contents, plan=subtract(contents.plan, [read_base(path) for path in bases]))


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A whole archive, a delta on it, and a delta on that one."""
    full = made(*FULL).write(tmp_path / "full.tar").path
    first = delta(made(*FIRST), full).write(tmp_path / "first.tar").path
    second = delta(made(*SECOND), first).write(tmp_path / "second.tar").path
    return full, first, second


def layers(path: Path) -> set[Digest]:
    with Archive(path) as archive:
        return {blob.digest for blob in archive.manifest.blobs if blob.media_type.endswith("tar+gzip")}


def required(path: Path) -> set[Digest]:
    with Archive(path) as archive:
        return {blob.digest for blob in archive.manifest.required}


def push_to(
    host: str, archive: Archive, connect: Connect, platforms: Sequence[Any] = (), *, is_outgoing: bool = False
) -> Push:
    images = select(archive, Destination.of(Address.parse(host)), platforms)
    registry = Registry(connect(insecure=frozenset({host})), host)
    return Push(archive, images, registry, Silent(), is_outgoing=lambda: is_outgoing)


def install(path: Path, registry: FakeRegistry, connect: Connect) -> None:
    with Archive(path) as archive:
        push = push_to(registry.host, archive, connect)
        assert push.problems() == []
        push.apply(push.look())
        assert push.look() == []


def test_only_what_is_missing_travels(chain: tuple[Path, Path, Path]) -> None:
    full, first, second = chain
    assert len(layers(full)) == 3  # registry, and debian for two platforms
    assert len(layers(first)) == 2
    assert required(first) == layers(full)
    assert len(layers(second)) == 2
    assert required(second) == layers(full) | layers(first)
    assert not layers(second) & (layers(first) | layers(full))
    for path in chain:
        with Archive(path) as archive:
            verify_archive(archive)
            whole = made(*{full: FULL, first: FIRST, second: SECOND}[path]).contents().manifest
            assert archive.manifest.images == whole.images
    with Archive(first) as archive, Archive(full) as base:
        assert [(item.name, item.digest) for item in archive.manifest.bases] == [("test", base.digest)]
        for item in archive.manifest.images:
            assert all(archive.has(blob.digest) for blob in archive.walk(item.root))


def test_a_chain_installs_and_ends_where_the_whole_does(
    chain: tuple[Path, Path, Path], fake: Callable[..., FakeRegistry], connect: Connect, tmp_path: Path
) -> None:
    step_by_step, at_once = fake(), fake()
    for path in chain:
        install(path, step_by_step, connect)
    install(made(*SECOND).write(tmp_path / "whole.tar").path, at_once, connect)
    assert step_by_step.repositories == at_once.repositories
    assert step_by_step.content == at_once.content


@pytest.mark.parametrize("before", [[], ["full"], ["full", "second"]])
def test_the_wrong_order_is_refused_before_anything_is_sent(
    chain: tuple[Path, Path, Path], registry: FakeRegistry, connect: Connect, before: list[str]
) -> None:
    full, first, second = chain
    if before:
        install(full, registry, connect)
    wrong = second if before == ["full"] else first if not before else None
    if wrong is None:
        install(first, registry, connect)
        install(second, registry, connect)
        install(full, registry, connect)  # an older one again: everything is there, it only moves tags
        return
    sent = len(registry.requests)
    with Archive(wrong) as archive, Archive(full if wrong == first else first) as base:
        problems = push_to(registry.host, archive, connect).problems()
        missing = required(wrong) - (layers(full) if before else set())
        assert len(problems) == len(missing)
        for digest in missing:
            text = next(str(problem) for problem in problems if str(digest) in problem.subject)
            names = ", ".join(item.reference.familiar for item in archive.users_of(digest))
            assert f"used by {names})" in text
            assert str(base.digest) in text
    assert {request.method for request in registry.requests[sent:]} <= {"GET", "HEAD"}


def test_a_layer_that_vanished_between_check_and_push_is_named(
    chain: tuple[Path, Path, Path], registry: FakeRegistry, connect: Connect
) -> None:
    full, first, _ = chain
    install(full, registry, connect)
    with Archive(first) as archive:
        push = push_to(registry.host, archive, connect)
        changes = push.look()
        for repository in registry.repositories.values():
            repository.blobs.clear()
        with pytest.raises(NetworkError, match=r"does not have the layer sha256:.*leaves it to `test` sha256:"):
            push_to(registry.host, archive, connect).apply(changes)
    assert "ghcr.io/team/gcc" not in {name for name, each in registry.repositories.items() if each.tags}


def test_a_layer_of_the_base_that_the_registry_lost_is_missing(
    chain: tuple[Path, Path, Path], registry: FakeRegistry, connect: Connect
) -> None:
    full, first, _ = chain
    install(full, registry, connect)
    install(first, registry, connect)
    with Archive(first) as archive:
        assert push_to(registry.host, archive, connect).problems() == []
        lost = archive.manifest.required[0].digest
        for repository in registry.repositories.values():
            repository.blobs.discard(lost)
        (problem,) = push_to(registry.host, archive, connect).problems()
        assert str(lost) in problem.subject
        install(full, registry, connect)
        install(first, registry, connect)
        assert push_to(registry.host, archive, connect).look() == []


def test_layers_come_from_wherever_on_the_registry_they_are(
    chain: tuple[Path, Path, Path], registry: FakeRegistry, connect: Connect
) -> None:
    full, first, _ = chain
    install(full, registry, connect)
    registry.repositories["elsewhere"] = registry.repositories.pop("library/debian")
    del registry.repositories["debian"]
    install(first, registry, connect)
    assert registry.repositories["ghcr.io/team/gcc"].tags


def test_no_registry_no_delta(chain: tuple[Path, Path, Path], connect: Connect) -> None:
    with Archive(chain[1]) as archive:
        (problem,) = push_to("localhost:1", archive, connect).problems()
    assert "does not answer" in problem.message
    with Archive(chain[0]) as archive:
        assert push_to("localhost:1", archive, connect).problems() == []


def test_a_delta_is_refused_where_the_registry_gets_other_data(
    chain: tuple[Path, Path, Path], registry: FakeRegistry, connect: Connect
) -> None:
    install(chain[0], registry, connect)
    with Archive(chain[1]) as archive:
        assert push_to(registry.host, archive, connect).problems() == []
        (problem,) = push_to(registry.host, archive, connect, is_outgoing=True).problems()
    assert "it is going to have other data" in problem.message
    assert str(problem.hint).endswith("with the same --data; or leave --data out")


def test_bundle_json_is_as_good_a_base_as_its_archive(chain: tuple[Path, Path, Path], tmp_path: Path) -> None:
    full, _, _ = chain
    with Archive(full) as archive:
        (tmp_path / "old.json").write_bytes(archive.manifest.to_bytes())
    assert read_base(tmp_path / "old.json") == read_base(full)


def test_the_config_of_an_artifact_is_always_inside() -> None:
    content = Content()
    config = content.add("application/vnd.cncf.helm.config.v1+json", b"{}")
    chart = content.add("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"chart")
    source = ContentSource(content, {"chart:1": content.manifest(config, [chart])})
    wanted = (ImageRequest(Reference.parse("chart:1"), "base", (AMD64,)),)
    plan = resolve(Spec("test", (AMD64,), (AMD64,), wanted, {}, False), source)
    base = Known(Base("base", Digest.of(b"base")), frozenset({config.digest, chart.digest}))
    less = subtract(plan, [base])
    assert [layer.digest for layer in less.required] == [chart.digest]
    assert [layer.digest for layer, _ in less.layers] == [config.digest]


def test_two_bases_know_more_than_one(chain: tuple[Path, Path, Path], tmp_path: Path) -> None:
    full, _, _ = chain
    other = made(REGISTRY, image("other:1", seeds=(3,))).write(tmp_path / "other.tar").path
    path = delta(made(*SECOND), full, other).write(tmp_path / "x.tar").path
    assert required(path) == layers(full) | layers(other)


def test_an_image_that_docker_loads_is_carried_whole_or_not_at_all(tmp_path: Path) -> None:
    old = made(image("registry:3", "registry", (AMD64,), (8, 9)), image("python:3", "python", (AMD64,), (7,)))
    base = old.write(tmp_path / "old.tar").path
    new = made(image("registry:3", "registry", (AMD64,), (8, 10)), image("python:3", "python", (AMD64,), (7, 8)))
    assert required(delta(new, base).write(tmp_path / "new.tar").path) == set()
    same = delta(old, base).write(tmp_path / "same.tar").path
    assert len(required(same)) == 3
    with Archive(same) as archive:
        assert json.loads(archive.read_file("manifest.json")) == []
        assert [len(archive.left_to_base(item.platforms[0].manifest)) for item in archive.manifest.images] == [2, 1]
        assert "python.tar" not in {file.name for file in archive.manifest.files}
    plan = subtract(old.plan, [read_base(base)], with_python=True)
    assert len(plan.required) == 2
    assert "python.tar" in dataclasses.replace(old, plan=plan).contents().files


@pytest.mark.parametrize("data", ["{}", "[]", '{"want": 2}', '{"want": 1}', "text", '{"format": 1}', ""])
def test_what_is_no_base_is_refused(tmp_path: Path, data: str) -> None:
    path = tmp_path / "base"
    path.write_text(data)
    with pytest.raises((UsageError, ArchiveError)) as caught:
        read_base(path)
    assert str(path) in str(caught.value) or "bundle.json cannot be used" in str(caught.value)


@pytest.mark.parametrize("change", ["twice", "inside", "no base"])
def test_a_delta_that_contradicts_itself_is_damaged(chain: tuple[Path, Path, Path], change: str) -> None:
    with Archive(chain[1]) as archive:
        manifest = archive.manifest
    wrong = {
        "twice": {"required": manifest.required * 2},
        "inside": {"required": manifest.blobs[-1:]},
        "no base": {"bases": ()},
    }[change]
    data = dataclasses.replace(manifest, **wrong).to_json()
    if change == "no base":
        data["required"] = [blob.to_json() for blob in manifest.required]
    with pytest.raises(DamagedArchiveError):
        type(manifest).parse(json.dumps(data).encode())


def test_a_missing_layer_that_is_not_left_to_a_base_is_still_damage(chain: tuple[Path, Path, Path]) -> None:
    known = Known(read_base(chain[0]).base, frozenset())
    contents = made(*FIRST)
    plan = subtract(contents.plan, [known])
    assert plan.required == ()
    broken = dataclasses.replace(contents, plan=dataclasses.replace(plan, layers=plan.layers[:-1]))
    path = broken.write(chain[0].parent / "broken.tar").path
    with Archive(path) as archive, pytest.raises(DamagedArchiveError, match="missing"):
        verify_archive(archive)


def test_create_with_a_base(registry: FakeRegistry, tmp_path: Path) -> None:
    tools = [f"--without={role}" for role in ("registry", "buildkit", "buildx", "binfmt", "frontend", "python")]
    for name in ("debian", "gcc"):
        manifests = [registry.image(platform, seed=name) for platform in ("linux/amd64", "linux/arm64")]
        registry.tag(f"library/{name}", "12", registry.index(*manifests))
    arguments = ("--mirror", f"docker.io={registry.host}", *tools)
    assert bundle("create", "debian:12", *arguments, "-o", "old.tar", cwd=tmp_path).returncode == 0
    before = len(registry.paths("GET", "/blobs/"))
    planned = bundle("create", "debian:12", "gcc:12", *arguments, "--base", "old.tar", "--plan", cwd=tmp_path)
    done = bundle("create", "debian:12", "gcc:12", *arguments, "--base", "old.tar", "-o", "new.tar", cwd=tmp_path)
    assert (planned.returncode, done.returncode) == (0, 0), done.stderr
    with Archive(tmp_path / "old.tar") as old, Archive(tmp_path / "new.tar") as new:
        for said in (planned.stdout, done.stdout):
            assert f"are left to offline {old.digest}" in said
        assert required(tmp_path / "new.tar") == layers(tmp_path / "old.tar")
        fetched = {path.rpartition("/")[2] for path in registry.paths("GET", "/blobs/")[before:]}
        assert fetched.isdisjoint(map(str, layers(tmp_path / "old.tar")))
        assert len(new.manifest.required) == 4
    refused = bundle("create", "gcc:12", *arguments, "--base", "missing.tar", cwd=tmp_path)
    assert (refused.returncode, "missing.tar" in refused.stderr) == (2, True)


def test_commands(chain: tuple[Path, Path, Path], tmp_path: Path) -> None:
    full, first, _ = chain
    verified = bundle("verify", first, "--json", cwd=tmp_path)
    assert json.loads(verified.stdout)["requiredBlobs"] == 3
    for command in ("verify", "inspect"):
        said = bundle(command, first, cwd=tmp_path).stdout
        assert "3 layers (" in said
        assert "are not inside" in said
        with Archive(full) as archive:
            assert str(archive.digest) in said
    document = json.loads(bundle("diff", full, first, "--json", cwd=tmp_path).stdout)
    assert [entry["reference"] for entry in document["added"]] == ["ghcr.io/team/gcc:12"]
    assert (document["removed"], document["moved"], document["platforms"]) == ([], [], [])
    with Archive(first) as new, Archive(full) as old:
        own = {blob.digest for blob in old.manifest.blobs}
        assert document["bytes"] == {
            "added": sum(blob.size for blob in new.manifest.blobs if blob.digest not in own),
            "removed": 0,
            "common": sum(blob.size for blob in old.manifest.blobs),
        }
    back = json.loads(bundle("diff", first, full, "--json", cwd=tmp_path).stdout)
    assert [entry["reference"] for entry in back["removed"]] == ["ghcr.io/team/gcc:12"]
    assert back["bytes"]["removed"] == document["bytes"]["added"]


def test_diff_shows_what_moved(tmp_path: Path) -> None:
    old = made(image("debian:12", seeds=(1,)), image("gcc:12")).write(tmp_path / "old.tar").path
    new = made(image("debian:12", seeds=(2,)), image("gcc:12", platforms=(AMD64,))).write(tmp_path / "new.tar").path
    said = bundle("diff", old, new, cwd=tmp_path).stdout
    with Archive(old) as before, Archive(new) as after:
        digests = before.manifest.images[0].root.digest, after.manifest.images[0].root.digest
    assert f"moved      debian:12  {digests[0]} -> {digests[1]}" in said
    assert "platforms  gcc:12  -linux/arm64" in said
    assert "the same images" in bundle("diff", old, old, cwd=tmp_path).stdout


def test_want_lists_what_a_registry_holds(
    chain: tuple[Path, Path, Path], registry: FakeRegistry, connect: Connect, tmp_path: Path
) -> None:
    full, first, _ = chain
    install(full, registry, connect)
    done = bundle("want", "--registry", registry.host, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    value = json.loads((tmp_path / "want.json").read_text())
    assert {item["name"] for item in value["images"]} == {
        "library/registry:3", "registry:3", "library/debian:12", "debian:12",
    }  # fmt: skip
    with Archive(full) as archive:
        assert set(value["digests"]) == {str(blob.digest) for blob in archive.manifest.blobs}
    path = delta(made(*FIRST), tmp_path / "want.json").write(tmp_path / "x.tar").path
    assert (layers(path), required(path)) == (layers(first), required(first))
    with Archive(path) as archive:
        assert archive.manifest.bases[0].digest == Digest.of((tmp_path / "want.json").read_bytes())
    install(path, registry, connect)
    again = bundle("want", "--registry", registry.host, "-o", "again.json", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["images"] == 5


def test_want_does_not_list_what_is_lost_or_was_never_there(
    registry: FakeRegistry, connect: Connect, tmp_path: Path
) -> None:
    sparse = made(image("gcc:12", absent=(Platform("linux", "arm", "v7"),)))
    install(sparse.write(tmp_path / "x.tar").path, registry, connect)
    lost = next(iter(sparse.layers))
    for repository in registry.repositories.values():
        repository.blobs.discard(lost)
    found = holdings(Registry(connect(insecure=frozenset({registry.host})), registry.host))
    assert found.digests == {descriptor.digest for descriptor, _ in sparse.plan.documents} | set(sparse.layers) - {lost}


def test_want_follows_digests_that_only_the_receipt_knows(registry: FakeRegistry, connect: Connect) -> None:
    manifest = registry.image("linux/amd64")
    registry.tag("debian", "x", manifest)
    registry.repositories["debian"].tags.clear()
    names = (f"localhost:5000/debian@{manifest.digest}", "localhost:5000/a:1")
    image = InstalledImage("debian", "base", manifest.digest, (), names)
    receipt = Receipt(None, None, images=(image,))  # type: ignore[arg-type]  # only the names are looked at
    more = untagged(receipt, "localhost:5000")
    found = holdings(Registry(connect(insecure=frozenset({registry.host})), registry.host), more)
    assert list(found.images) == [f"debian@{manifest.digest}"]
    assert manifest.digest in found.digests


def test_want_without_a_registry(tmp_path: Path) -> None:
    done = bundle("want", "--registry", "localhost:1", cwd=tmp_path)
    assert (done.returncode, "cannot list `localhost:1`" in done.stderr) == (5, True)
    assert not (tmp_path / "want.json").exists()


def test_want_where_nothing_can_be_written(registry: FakeRegistry, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for place, message in (
        (tmp_path, f"`{tmp_path}` cannot be written: is a directory"),
        (missing / "want.json", f"the directory `{missing}` does not exist"),
        (Path("/proc/want.json"), "`/proc/want.json` cannot be written"),
    ):
        done = bundle("want", "--registry", registry.host, "-o", place, cwd=tmp_path)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
