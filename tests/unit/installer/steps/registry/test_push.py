"""Pushing: order, mounting, sparse and rebuilt indexes, second runs, damage, interruption. Real HTTP throughout."""

from __future__ import annotations

import copy
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bundles.archive.reader import Archive
from bundles.errors import DamagedArchiveError, InterruptedByUser, NetworkError
from bundles.oci.digest import Digest
from bundles.oci.image import parse_index
from bundles.oci.platform import Platform
from bundles.registry.transport import Transport
from bundles.runtime.progress import Progress, Silent, Task
from installer import preflight
from installer.host.labels import LABEL_ADDRESS, LABEL_DATA, LABEL_ROLE
from installer.host.paths import Places
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.selection import Place, left_out, places, select
from installer.registry.client import Registry
from installer.steps.registry.push import Push
from tests.support.archives import AMD64, ARM64, Made, example, image, made
from tests.support.fake_engine import FakeEngine
from tests.support.fake_registry import ARTIFACT_NOT_FOUND, MANIFEST_BLOB_UNKNOWN, FakeRegistry, Fault, Refusal
from tests.support.stall import PATIENT, Stall

Connect = Callable[..., Transport]
ARM_V7 = Platform("linux", "arm", "v7")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(example().write(tmp_path / "offline.tar").path) as opened:
        yield opened


def push_to(
    host: str,
    archive: Archive,
    connect: Connect,
    platforms: tuple[Platform, ...] = (),
    progress: Progress | None = None,
    is_outgoing: Callable[[], bool] = lambda: False,
    is_ours: Callable[[Place, Digest], bool] = lambda place, digest: False,
    yes: bool = False,
    **settings: Any,
) -> Push:
    selected = select(archive, Destination.of(Address.parse(host)), platforms)
    transport = connect(insecure=frozenset({host}), **settings)
    return Push(
        archive,
        selected,
        Registry(transport, host),
        progress or Silent(),
        is_outgoing=is_outgoing,
        is_ours=is_ours,
        yes=yes,
    )


def install(push: Push) -> int:
    changes = push.look()
    if changes:
        push.apply(changes)
    return len(changes)


def root(archive: Archive, name: str) -> Digest:
    return next(item.root.digest for item in archive.manifest.images if item.reference.familiar == name)


def test_everything_arrives_with_the_digest_of_its_origin(
    archive: Archive, registry: FakeRegistry, connect: Connect
) -> None:
    install(push_to(registry.host, archive, connect))
    found = {name: repository.tags for name, repository in registry.repositories.items()}
    assert found == {
        "library/registry": {"3": root(archive, "registry:3")},
        "registry": {"3": root(archive, "registry:3")},
        "library/debian": {"12": root(archive, "debian:12")},
        "debian": {"12": root(archive, "debian:12")},
        "ghcr.io/team/gcc": {"12": root(archive, "ghcr.io/team/gcc:12")},
    }
    for item in archive.manifest.images:
        for blob in archive.walk(item.root):
            place = archive.layout.blob(blob.digest)
            assert registry.content[blob.digest] == archive.volume.read(place.data_offset, place.size)


def test_content_goes_before_what_refers_to_it_and_tags_last(
    archive: Archive, registry: FakeRegistry, connect: Connect
) -> None:
    install(push_to(registry.host, archive, connect))
    kinds = []
    for request in registry.requests:
        if request.method == "PUT" and "/blobs/uploads/" in request.path:
            kinds.append("blob")
        elif request.method == "PUT":
            _, _, selector = request.path.partition("/manifests/")
            index = "index" in request.headers["content-type"]
            kinds.append(("index" if index else "manifest") if ":" in selector else "tag")
    order = ["blob", "manifest", "index", "tag"]
    assert set(kinds) == set(order)
    assert kinds == sorted(kinds, key=order.index)
    assert kinds.count("tag") == 5


def test_a_blob_is_uploaded_once_and_mounted_elsewhere(
    archive: Archive, registry: FakeRegistry, connect: Connect
) -> None:
    install(push_to(registry.host, archive, connect))
    uploads = [request.path for request in registry.requests if request.method == "PUT" and "/blobs/" in request.path]
    mounts = [request.path for request in registry.requests if request.method == "POST" and "mount=" in request.path]
    needed = {blob.digest for item in archive.manifest.images for blob in archive.walk(item.root)}
    documents = {
        request.path.rpartition("/")[2] for request in registry.requests if "/manifests/sha256" in request.path
    }
    assert len(uploads) == len(needed) - len(documents)
    assert mounts
    assert all(path.startswith(("/v2/debian/", "/v2/registry/", "/v2/ghcr.io/team/gcc/")) for path in mounts)


def test_a_registry_that_cannot_mount_gets_the_bytes_again(archive: Archive, fake: Any, connect: Connect) -> None:
    registry = fake(mounts=False)
    install(push_to(registry.host, archive, connect))
    assert registry.repositories["debian"].tags == {"12": root(archive, "debian:12")}
    assert registry.repositories["debian"].blobs == registry.repositories["library/debian"].blobs
    assert not registry.uploads  # the sessions that a refused mount opened are ended


def test_a_second_run_sends_nothing(archive: Archive, registry: FakeRegistry, connect: Connect) -> None:
    assert install(push_to(registry.host, archive, connect))
    registry.requests.clear()
    assert install(push_to(registry.host, archive, connect)) == 0
    assert {request.method for request in registry.requests} <= {"GET", "HEAD"}
    selected = select(archive, Destination.of(Address.parse(registry.host)), ())
    assert len(registry.paths("HEAD", "/blobs/")) == sum(len(item.blobs) for item in selected)
    assert len(registry.paths("HEAD", "/manifests/")) <= 16  # for five tags
    assert not registry.paths("GET")


@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_a_registry_that_fails_while_consent_is_sought_can_be_asked_again(
    archive: Archive, registry: FakeRegistry, connect: Connect, part: str
) -> None:
    place = places(select(archive, Destination.of(Address.parse(registry.host)), ()))[0]
    # A tag of somebody else's, so that the whole registry is looked at.
    registry.tag(place.repository, str(place.image.tag), registry.image(seed="other"))
    fault = registry.fault("HEAD", part, times=-1, status=418)
    push = push_to(registry.host, archive, connect)
    assert push.question() is None
    fault.times = 0
    assert "move tags" in str(push.question())
    fault.times = -1
    with pytest.raises(NetworkError, match="418"):
        push.look()


def test_a_tag_of_others_is_moved_only_with_consent(archive: Archive, registry: FakeRegistry, connect: Connect) -> None:
    install(push_to(registry.host, archive, connect))
    theirs = registry.tag("debian", "12", registry.image("linux/amd64", seed="theirs")).digest
    ours = registry.tag("registry", "3", registry.image("linux/amd64", seed="older")).digest
    new = root(archive, "debian:12")

    def is_ours(place: Place, digest: Digest) -> bool:
        return (place.name, digest) == ("registry:3", ours)

    push = push_to(registry.host, archive, connect, is_ours=is_ours)
    assert push.question() == (
        f"move tags on {registry.host} that this installation did not push, and what they were stays under its digest: "
        f"debian:12 ({theirs} -> {new})"
    )
    changes = {change.name: change for change in push.look() if change.kind == "tag"}
    assert {name: change.replaces for name, change in changes.items()} == {"debian:12": str(theirs), "registry:3": None}
    assert f"{theirs} -> {new}; pushed by others, it stays as debian@{theirs}" in changes["debian:12"].detail
    assert f"{ours} -> {root(archive, 'registry:3')}" in changes["registry:3"].detail
    # What was pushed after the question was not agreed to, nor is anything where nobody could be asked.
    later = registry.tag("ghcr.io/team/gcc", "12", registry.image("linux/amd64", seed="later")).digest
    for other in (push, push_to(registry.host, archive, connect, is_ours=is_ours)):
        other.look()
        assert str(later) in str(other.unasked())
    assert registry.repositories["debian"].tags["12"] == theirs
    agreed = push_to(registry.host, archive, connect, yes=True)
    assert agreed.unasked() is None
    install(agreed)
    assert registry.repositories["debian"].tags["12"] == new
    assert theirs in registry.repositories["debian"].manifests
    assert push_to(registry.host, archive, connect).question() is None


def test_nobody_is_asked_about_tags_where_what_answers_is_no_registry(
    archive: Archive, registry: FakeRegistry, connect: Connect
) -> None:
    registry.faults.append(Fault("GET", "/v2/", status=404, times=9))
    assert push_to(registry.host, archive, connect).question() is None


@pytest.mark.parametrize("kind", ["config", "tar+gzip"])
def test_a_blob_that_the_registry_lost_is_brought_again(
    archive: Archive, registry: FakeRegistry, connect: Connect, kind: str
) -> None:
    install(push_to(registry.host, archive, connect))
    before = copy.deepcopy(registry.repositories)
    images = select(archive, Destination.of(Address.parse(registry.host)), ())
    lost = next(blob for blob in images[-1].blobs if kind in blob.media_type)
    data = registry.content.pop(lost.digest)
    for repository in registry.repositories.values():
        repository.blobs.discard(lost.digest)
    registry.requests.clear()
    push = push_to(registry.host, archive, connect)
    changes = push.look()
    assert [change.name for change in changes[:-1]] == [
        place.name for place in places([item for item in images if lost in item.blobs])
    ]
    assert changes[-1].size == lost.size
    asked = registry.paths("HEAD", "/blobs/")
    assert len(asked) == len(set(asked))
    push.apply(changes)
    assert registry.content[lost.digest] == data
    assert registry.repositories == before
    assert install(push_to(registry.host, archive, connect)) == 0


def test_an_interrupted_push_goes_on_with_what_is_missing(
    archive: Archive, registry: FakeRegistry, connect: Connect
) -> None:
    registry.faults.append(Fault("PUT", "/v2/ghcr.io/team/gcc/manifests/sha256", status=403, times=-1))
    with pytest.raises(NetworkError):
        install(push_to(registry.host, archive, connect))
    assert all(not repository.tags for repository in registry.repositories.values())
    registry.faults.clear()
    registry.requests.clear()
    install(push_to(registry.host, archive, connect))
    assert not [request for request in registry.requests if request.method == "PUT" and "/blobs/" in request.path]
    assert registry.repositories["ghcr.io/team/gcc"].tags == {"12": root(archive, "ghcr.io/team/gcc:12")}


def test_temporary_failures_are_survived_and_progress_stays_honest(
    archive: Archive, registry: FakeRegistry, connect: Connect
) -> None:
    counted = Counted()
    registry.faults.append(Fault("PUT", "/blobs/uploads/", status=503, times=2))
    install(push_to(registry.host, archive, connect, progress=counted))
    assert registry.repositories["debian"].tags == {"12": root(archive, "debian:12")}
    assert counted.done == counted.total > 0


def test_a_damaged_blob_in_the_middle_leaves_no_tag(archive: Archive, registry: FakeRegistry, connect: Connect) -> None:
    layers = [blob for blob in archive.manifest.blobs if blob.media_type.endswith("tar+gzip")]
    place = archive.layout.blob(layers[1].digest)
    with archive.path.open("r+b") as file:
        file.seek(place.data_offset + place.size // 2)
        file.write(b"damage")
    push = push_to(registry.host, archive, connect)
    with pytest.raises(DamagedArchiveError, match=str(layers[1].digest)):
        install(push)
    assert all(not repository.tags for repository in registry.repositories.values())
    assert layers[1].digest not in registry.content


def test_platforms_narrow_base_images_and_more_can_come_later(
    archive: Archive, registry: FakeRegistry, connect: Connect
) -> None:
    install(push_to(registry.host, archive, connect, (ARM64,)))
    debian = registry.repositories["library/debian"]
    assert debian.tags == {"12": root(archive, "debian:12")}  # a sparse index keeps its digest
    index = parse_index(registry.content[root(archive, "debian:12")])
    assert [child.platform for child in index if child.digest in debian.manifests] == [ARM64]
    assert registry.repositories["registry"].tags  # the toolchain is for the host
    assert install(push_to(registry.host, archive, connect))
    assert [child.platform for child in index if child.digest in debian.manifests] == [AMD64, ARM64]
    assert install(push_to(registry.host, archive, connect, (ARM64,))) == 0


@pytest.mark.parametrize(
    "refusal",
    [MANIFEST_BLOB_UNKNOWN, ARTIFACT_NOT_FOUND],
    ids=lambda refusal: f"{refusal.status}-{refusal.code}",
)
def test_a_registry_that_refuses_a_sparse_index_gets_a_rebuilt_one(
    archive: Archive, fake: Any, connect: Connect, refusal: Refusal
) -> None:
    registry = fake(sparse_index=refusal)
    push = push_to(registry.host, archive, connect)
    install(push)
    origin = root(archive, "ghcr.io/team/gcc:12")
    served = registry.repositories["ghcr.io/team/gcc"].tags["12"]
    assert served != origin
    before = json.loads(archive.read_document(next(b for b in archive.manifest.blobs if b.digest == origin)))
    after = json.loads(registry.content[served])
    assert [entry["platform"]["architecture"] for entry in before["manifests"]] == ["amd64", "arm64", "arm"]
    assert after == {**before, "manifests": before["manifests"][:2]}
    assert {place.name: digest for place, digest in push.rebuilt.items()} == {"ghcr.io/team/gcc:12": served}
    (note,) = push.notes()
    assert str(origin) in note
    assert str(served) in note
    assert registry.repositories["debian"].tags == {"12": root(archive, "debian:12")}
    again = push_to(registry.host, archive, connect)
    assert install(again) == 0
    assert {place.name: digest for place, digest in again.rebuilt.items()} == {"ghcr.io/team/gcc:12": served}


def test_a_rebuilt_index_keeps_what_an_earlier_one_had(archive: Archive, fake: Any, connect: Connect) -> None:
    registry = fake(sparse_index=MANIFEST_BLOB_UNKNOWN)
    install(push_to(registry.host, archive, connect, (AMD64,)))
    first = registry.repositories["debian"].tags["12"]
    install(push_to(registry.host, archive, connect, (ARM64,)))
    # Both platforms are there now, so the registry takes the index of the origin.
    assert first != registry.repositories["debian"].tags["12"] == root(archive, "debian:12")
    gcc = registry.content[registry.repositories["ghcr.io/team/gcc"].tags["12"]]
    assert [child.platform for child in parse_index(gcc)] == [AMD64, ARM64]


def test_other_refusals_are_not_taken_for_a_sparse_index(
    archive: Archive, registry: FakeRegistry, connect: Connect
) -> None:
    registry.faults.append(Fault("PUT", "/v2/library/debian/manifests/", status=400, times=-1))
    with pytest.raises(NetworkError, match="400"):
        install(push_to(registry.host, archive, connect))
    assert all(not repository.tags for repository in registry.repositories.values())


def test_a_digest_without_a_tag_is_pushed_by_digest(tmp_path: Path, registry: FakeRegistry, connect: Connect) -> None:
    digest = made(image("debian:12")).plan.images[0].root.digest
    with Archive(made(image(f"debian@{digest}")).write(tmp_path / "offline.tar").path) as archive:
        install(push_to(registry.host, archive, connect))
        for name in ("debian", "library/debian"):
            assert registry.repositories[name].tags == {}
            assert digest in registry.repositories[name].manifests
        assert install(push_to(registry.host, archive, connect)) == 0


def test_an_image_without_the_wanted_platforms_is_left_out_and_named(tmp_path: Path) -> None:
    both = made(image("debian:12"), image("tool:1", platforms=(AMD64,), seeds=(5,)))
    with Archive(both.write(tmp_path / "offline.tar").path) as archive:
        selected = select(archive, Destination.of(Address.parse("localhost:5000")), (ARM64,))
        assert [item.image.reference.familiar for item in selected] == ["debian:12"]
        assert [item.reference.familiar for item in left_out(archive, selected)] == ["tool:1"]


def test_nothing_listening_plans_everything(archive: Archive, connect: Connect) -> None:
    changes = push_to("127.0.0.1:1", archive, connect).look()
    assert [change.kind for change in changes] == ["tag"] * 5 + ["blobs"]
    assert changes[-1].size == sum(blob.size for item in _unique_blobs(archive) for blob in [item])


def test_what_a_registry_has_that_is_about_to_go_does_not_count(
    archive: Archive,
    registry: FakeRegistry,
    engine: FakeEngine,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(push_to(registry.host, archive, connect))
    everything = push_to("127.0.0.1:1", archive, connect).look()
    labels = {LABEL_ROLE: "registry", LABEL_ADDRESS: registry.host, LABEL_DATA: "old"}
    engine.add("registry", labels)
    engine.volumes["used before"] = {}
    host: Any = SimpleNamespace(
        engine=engine.engine, places=Places.of({"HOME": str(tmp_path), "BUNDLE_HOST": str(tmp_path)})
    )
    info: Any = SimpleNamespace(root="/docker", image_root="/docker")
    job: Any = SimpleNamespace(address=Address.parse(registry.host), site=None, storage=None)
    push = push_to(registry.host, archive, connect, is_outgoing=lambda: preflight.has_other_data(job, host))

    def check(data: str, free: int) -> list[str]:
        monkeypatch.setattr(preflight, "usable_size", lambda path: free)
        job.data = data
        nothing: Any = SimpleNamespace(look=list)
        return [problem.subject for problem in preflight.space_problems(job, info, host, [nothing], push)]

    assert check("/new", 1 << 40) == []
    assert [change.name for change in push.look()] == [change.name for change in everything]
    assert check("/new", 0) == ["disk space for /new"]
    # What is there already is not known, and perhaps enough.
    assert check("used before", 0) == []
    labels[LABEL_DATA] = "used before"
    assert push.look() == []


def test_an_interruption_ends_the_workers_soon(tmp_path: Path, registry: FakeRegistry, connect: Connect) -> None:
    big: Made = made(image("debian:12", seeds=tuple(range(20))))
    arrived = threading.Event()
    registry.faults.append(Fault("PUT", "/blobs/uploads/", before=arrived.set))

    class Interrupting(Silent):
        """Raises in the middle of the push, as the signal handler does in the main thread."""

        def task(self, label: str, total: int) -> Task:
            return InterruptingTask(arrived)

    with Archive(big.write(tmp_path / "offline.tar").path) as archive:
        push = push_to(registry.host, archive, connect, progress=Interrupting())
        with pytest.raises(InterruptedByUser, match="told"):
            install(push)
    uploads = [request for request in registry.requests if request.method == "PUT" and "/blobs/" in request.path]
    assert len(uploads) < 30
    assert not any(repository.tags for repository in registry.repositories.values())


def test_an_interruption_does_not_wait_for_a_registry_that_stalls(
    archive: Archive, registry: FakeRegistry, connect: Connect, stall: Stall
) -> None:
    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        stall.wait()

    def told(*_: object) -> None:
        raise InterruptedByUser("told")

    registry.fault("PUT", "/blobs/uploads/", before=interrupt)
    before = signal.signal(signal.SIGUSR1, told)
    try:
        with pytest.raises(InterruptedByUser, match="told"):
            install(push_to(registry.host, archive, connect, timeout=PATIENT))
    finally:
        signal.signal(signal.SIGUSR1, before)
    stall.release()
    assert stall.outlasted
    assert not any(repository.tags for repository in registry.repositories.values())


def test_nor_does_a_failure(archive: Archive, registry: FakeRegistry, connect: Connect, stall: Stall) -> None:
    layers = [blob.digest for blob in archive.manifest.blobs if blob.media_type.endswith("tar+gzip")]
    silent, refused = layers[:2]
    registry.fault("PUT", str(silent), before=stall.wait)
    registry.fault("PUT", str(refused), times=-1, status=403, before=lambda: stall.asked.wait(30))
    with pytest.raises(NetworkError, match="403"):
        install(push_to(registry.host, archive, connect, timeout=PATIENT))
    stall.release()
    assert stall.outlasted
    assert not any(repository.tags for repository in registry.repositories.values())


def _unique_blobs(archive: Archive) -> list[Any]:
    found = {}
    for item in archive.manifest.images:
        for blob in archive.walk(item.root):
            if not blob.is_index and not blob.is_manifest:
                found[blob.digest] = blob
    return list(found.values())


class InterruptingTask(Task):
    def __init__(self, after: threading.Event) -> None:
        self._after = after

    def advance(self, count: int) -> None:
        if self._after.is_set():
            raise InterruptedByUser("told to stop")


class Counted(Silent):
    """Counts what a task is told."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def task(self, label: str, total: int) -> Task:
        self.total += total
        return CountedTask(self)


class CountedTask(Task):
    def __init__(self, counted: Counted) -> None:
        self._counted, self._lock = counted, threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._counted.done += count


def test_a_sparse_image_on_every_kind_of_registry(
    archive: Archive, any_registry: str, connect: Connect, request: pytest.FixtureRequest
) -> None:
    push = push_to(any_registry, archive, connect)
    install(push)
    client = Registry(connect(insecure=frozenset({any_registry})), any_registry)
    origin = root(archive, "ghcr.io/team/gcc:12")
    served = client.manifest_digest("ghcr.io/team/gcc", "12")
    refused = request.node.callspec.params["any_registry"] == "distribution2"
    assert (served != origin) is refused
    assert {place.name: digest for place, digest in push.rebuilt.items()} == (
        {"ghcr.io/team/gcc:12": served} if refused else {}
    )
    assert client.manifest_digest("debian", "12") == root(archive, "debian:12")
    assert client.tags("library/registry") == ("3",)
    assert install(push_to(any_registry, archive, connect)) == 0
