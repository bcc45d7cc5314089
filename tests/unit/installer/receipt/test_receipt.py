"""The receipt is read and written by one run at a time, and says what is there whatever a run was killed in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Union

import pytest
from click.testing import CliRunner, Result

from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.cli.app import bundle
from bundles.errors import HostError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.runtime.progress import Silent
from installer.commands.doctor import doctor
from installer.commands.prune import prune
from installer.commands.uninstall import uninstall
from installer.host.host import Host
from installer.host.paths import Places
from installer.install import _of_cluster
from installer.model.cluster import Cluster
from installer.model.job import Job, Options
from installer.model.registry.storage import S3Storage
from installer.model.selection import Place, Selected, places
from installer.model.step import Change, Step
from installer.receipt.receipt import PushedName, Receipt
from installer.receipt.recorder import InstallRecorder
from installer.runner import Beside, Runner
from tests.support.archives import example
from tests.support.fake_engine import FakeEngine
from tests.support.fake_kubectl import FakeKubectl

AMD64 = Platform("linux", "amd64")
OTHERS = {"kind": "file", "name": "/plugin", "digest": "sha256:1"}


class Write(Step):
    """Writes one file, or is killed right after."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self.path, self.killed = path, False

    def look(self) -> Sequence[Change]:
        return [] if self.path.exists() else [Change("write", "file", str(self.path))]

    def apply(self, changes: Sequence[Change]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"ours")
        if self.killed:
            raise KeyboardInterrupt


class Waiting(Write):
    """Writes its file when another one is there and has been noted."""

    name = "late"

    def __init__(self, path: Path, other: Path) -> None:
        super().__init__(path)
        self._other = other

    def apply(self, changes: Sequence[Change]) -> None:
        deadline = time.monotonic() + 10
        while not self._other.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        super().apply(changes)


@pytest.fixture
def host(engine: FakeEngine, tmp_path: Path) -> Host:
    engine.refuse("GET /info", "not now")
    places = Places(tmp_path / "docker", tmp_path / "buildx", tmp_path / "home/state", root=tmp_path)
    return Host(engine.engine, None, places)  # type: ignore[arg-type]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    example().write(tmp_path / "offline.tar")
    with Archive(tmp_path / "offline.tar") as archive:
        check_documents(archive)
        yield Job.of(archive, Options(), AMD64)


def document(host: Host) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(host.places.receipt.read_bytes())
    return value


def change_receipt(host: Host, **values: Any) -> None:
    """What another run does to it."""
    host.places.receipt.write_text(json.dumps({**document(host), **values}))


def run(job: Job, host: Host, *steps: Union[Step, Beside], meanwhile: Any = None) -> Receipt:
    """Install with these steps; `meanwhile` is what another run does while this one still looks at the host."""
    recorder = InstallRecorder(job, host)
    if meanwhile:
        meanwhile()
    with recorder.locked():
        results = Runner(steps, host.ask, Silent(), recorder).perform()
        return recorder.finish(results, {})


def test_what_another_run_made_before_the_lock_is_carried_on(
    job: Job, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job, host)
    own = tmp_path / "own"
    run(job, host, Write(own), meanwhile=lambda: change_receipt(host, made=[OTHERS]))
    assert [entry["name"] for entry in document(host)["made"]] == ["/plugin", str(own)]


def test_the_directories_that_the_lock_makes_are_listed(
    job: Job, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job, host, Write(tmp_path / "own"))
    made = {entry["name"] for entry in document(host)["made"] if entry["kind"] == "directory"}
    assert made == {str(tmp_path / "home"), str(tmp_path / "home/state")}


def test_a_run_with_nothing_left_to_do_ends_an_interrupted_one(
    job: Job, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Write(tmp_path / "own")
    run(job, host, step)
    change_receipt(host, finished=None)
    assert run(job, host, step).changed is False
    assert isinstance(document(host)["finished"], str)
    # And one that has ended is left as it is.
    change_receipt(host, finished="2020-01-01T00:00:00+00:00")
    run(job, host, step)
    assert document(host)["finished"] == "2020-01-01T00:00:00+00:00"


def killed(step: Write, job: Job, host: Host) -> None:
    step.killed = True
    with pytest.raises(KeyboardInterrupt):
        run(job, host, step)
    assert step.path.read_bytes() == b"ours"


@pytest.mark.parametrize("again", [False, True])
def test_a_file_that_a_killed_run_wrote_is_known_after_the_next(
    again: bool, job: Job, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was written before, with other content."""
    step = Write(tmp_path / "an own")
    if again:
        step.path.write_bytes(b"older")
        run(job, host)
        digest = "sha256:" + hashlib.sha256(b"older").hexdigest()
        change_receipt(host, made=[{"kind": "file", "name": str(step.path), "digest": digest}])
        step.path.unlink()
    killed(step, job, host)
    # Nobody can say yet whose it is.
    (note,) = invoked_notes(host, monkeypatch, "--plan")
    assert note.startswith(f"{step.path} stays: installing was interrupted")
    assert note.endswith(f"rm '{step.path}'")
    assert run(job, host, step).changed is False
    assert invoked_notes(host, monkeypatch, "--yes") == []
    assert not step.path.exists()


def test_what_is_half_written_goes(job: Job, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Write(tmp_path / "plugins" / "own")
    killed(step, job, host)
    step.path.rename(step.path.with_name(".own.partial"))
    (host.places.state / ".receipt.json.partial").write_bytes(b"{")
    invoked_notes(host, monkeypatch, "--yes")
    assert not step.path.parent.exists()
    assert not host.places.state.parent.exists()


def invoked_notes(host: Host, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """What uninstall says stays."""
    result = invoke(uninstall, host, monkeypatch, "--json", *arguments)
    assert result.exception is None, result.exception
    notes: list[str] = json.loads(result.stdout[result.stdout.index("{\n") :])["notes"]
    return notes


def invoke(command: Any, host: Host, monkeypatch: pytest.MonkeyPatch, *arguments: str, ask: Any = None) -> Result:
    answering = Host(host.engine, host.cli, host.places, ask)
    monkeypatch.setattr(Host, "this", lambda *_: answering)
    # Through `bundle`: click keeps the --help of whatever first ran a command.
    return CliRunner().invoke(bundle, [command.name, *arguments])


def test_uninstall_removes_nothing_when_a_run_ended_while_a_person_thought(
    job: Job, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    run(job, host, Write(own))

    def ask(question: str) -> bool:
        assert question == "remove registry and emulation (for all users of this host), builder and settings"
        change_receipt(host, made=[*document(host)["made"], OTHERS])
        return True

    refused = invoke(uninstall, host, monkeypatch, ask=ask)
    assert "another run has changed what is installed meanwhile" in str(refused.exception)
    assert own.exists()
    assert OTHERS in document(host)["made"]
    done = invoke(uninstall, host, monkeypatch, ask=lambda _: True)
    assert done.exception is None, done.exception
    assert not own.exists()
    assert not host.places.state.parent.exists()


@pytest.mark.parametrize(("command", "arguments"), [(doctor, ("--fix",)), (prune, ())])
def test_what_is_fixed_or_pruned_is_read_under_the_lock(
    command: Any, arguments: tuple[str, ...], job: Job, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job, host)
    held: list[bool] = []
    read = Receipt.read

    def reading(_: Any) -> Receipt:
        held.append(locked(host))
        return read(host)

    monkeypatch.setattr(Receipt, "read", reading)
    invoke(command, host, monkeypatch, *arguments)
    assert held[-1] is True
    invoke(command, host, monkeypatch, "--plan")
    assert held[-1] is False


def test_steps_are_listed_in_order_whichever_ended_first(job: Job, host: Host, tmp_path: Path) -> None:
    early, late = Write(tmp_path / "early"), Waiting(tmp_path / "late", tmp_path / "early")
    receipt = run(job, host, Beside([late], [early], lambda: None))
    assert [step.changes[0].name for step in receipt.steps] == [str(late.path), str(early.path)]
    made = {entry.name: entry.digest for entry in receipt.made if entry.kind == "file"}
    digest = "sha256:" + hashlib.sha256(b"ours").hexdigest()
    assert made == {str(early.path): digest, str(late.path): digest}
    assert document(host) == receipt.to_json()


def locked(host: Host) -> bool:
    """Whether this process holds the lock, as the kernel says."""
    place = host.places.state / "lock"
    inode = f":{place.stat().st_ino} "
    return any(inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_the_receipt_is_the_document(job: Job, host: Host, tmp_path: Path) -> None:
    """Its keys are for programs; and what is read of it and written again is the same."""
    receipt = run(job, host, Write(tmp_path / "own"))
    value = document(host)
    assert value == receipt.to_json() == Receipt.read(host).to_json()
    assert Receipt.read(host) == Receipt.read(host)
    assert list(value) == [
        "bundle",
        "registry",
        "builder",
        "host",
        "tools",
        "mirrors",
        "kubernetes",
        "replay",
        "noReplay",
        "direct",
        "caches",
        "images",
        "leftOut",
        "steps",
        "notes",
        "changed",
        "test",
        "made",
        "brought",
        "replaced",
        "elsewhere",
        "garbage",
        "finished",
    ]
    assert {key: list(value[key]) for key in ("bundle", "registry", "builder")} == {
        "bundle": ["name", "digest", "archive"],
        "registry": ["address", "container", "image", "digest", "data", "site", "storage", "tls", "ca", "password"],
        "builder": ["name", "image", "platforms", "chosen", "config", "nodes"],
    }
    assert list(value["images"][0]) == ["reference", "role", "digest", "platforms", "names", "rebuilt"]
    assert value["steps"] == [
        {
            "step": "file",
            "changed": True,
            "changes": [
                {
                    "action": "write",
                    "kind": "file",
                    "name": str(tmp_path / "own"),
                    "detail": "",
                    "size": None,
                    "replaces": None,
                }
            ],
        }
    ]
    digest = "sha256:" + hashlib.sha256(b"ours").hexdigest()
    assert value["made"][-1] == {"kind": "file", "name": str(tmp_path / "own"), "digest": digest}


@pytest.mark.parametrize("change", [{"finished": "yesterday"}, {"images": [{}]}, {"builder": None}, {"tools": []}])
def test_what_is_no_receipt_is_named(change: dict[str, Any], job: Job, host: Host) -> None:
    run(job, host)
    change_receipt(host, **change)
    with pytest.raises(HostError, match="is not a receipt of this version") as caught:
        Receipt.read(host)
    assert str(host.places.receipt) in caught.value.message
    # An installation writes it anew.
    run(job, host)
    assert Receipt.read(host).finished


THEIRS = Digest.of(b"theirs")


class Tags(Step):
    """Pushes a place of the job, and moves its tag from `replaces`."""

    name = "push"

    def __init__(self, place: Place, replaces: Digest | None = None) -> None:
        self._place, self._replaces = place, replaces

    def look(self) -> Sequence[Change]:
        replaces = str(self._replaces) if self._replaces else None
        return [Change("push", "tag" if self._place.image.tag else "digest", self._place.name, replaces=replaces)]

    def apply(self, changes: Sequence[Change]) -> None:
        pass


def renamed(job: Job, name: str, *, succeeds: bool) -> Job:
    """The same archive under another name."""
    archive: Any = SimpleNamespace(**{key: getattr(job.archive, key) for key in ("digest", "path")})
    archive.manifest = dataclasses.replace(job.archive.manifest, name=name)
    return dataclasses.replace(job, archive=archive, options=Options(succeeds=succeeds))


def test_a_tag_that_was_taken_from_others_is_recorded(job: Job, host: Host) -> None:
    place = next(place for place in places(job.images) if place.name == "debian:12")
    run(job, host, Tags(place, THEIRS))
    run(job, host, Tags(place))
    new = str(place.image.root.digest)
    entry = {"repository": "debian", "tag": "12", "digest": str(THEIRS), "by": new}
    assert document(host)["replaced"] == [entry]
    assert [(item["tag"], item["digest"]) for item in document(host)["brought"]] == [("12", new)]


def test_bundles_of_other_names_keep_what_is_theirs(job: Job, host: Host) -> None:
    """What two have is listed for each; an upgrade takes over the name of what it is put over."""
    first = job.archive.manifest.name
    found = {place.name: place for place in places(job.images)}
    run(job, host, Tags(found["debian:12"]))
    run(renamed(job, "beside", succeeds=False), host, Tags(found["library/debian:12"]))

    def brought() -> dict[str, set[str]]:
        bundles: dict[str, set[str]] = {}
        for entry in Receipt.read(host).brought:
            bundles.setdefault(entry.bundle, set()).add(str(entry))
        return bundles

    assert brought() == {first: {"debian:12"}, "beside": {"debian:12", "library/debian:12"}}
    run(renamed(job, "over", succeeds=True), host, Tags(found["library/debian:12"]))
    assert brought() == {first: {"debian:12"}, "over": {"debian:12", "library/debian:12"}}


def test_an_image_of_others_that_loses_its_name_is_not_ours(job: Job, host: Host) -> None:
    """Prune would remove it: only what an earlier installation had loaded goes."""

    class Superseding(Step):
        name = "images"

        def look(self) -> Sequence[Change]:
            config = next(iter(job.tools.values())).config.digest
            return [Change("supersede", "image", str(digest)) for digest in (THEIRS, config)]

        def apply(self, changes: Sequence[Change]) -> None:
            pass

    run(job, host)
    run(job, host, Superseding())
    made = [entry["name"] for entry in document(host)["made"] if entry["kind"] == "image"]
    assert made == [str(next(iter(job.tools.values())).config.digest)]


def test_a_receipt_from_before_bundles_were_told_apart_is_of_its_bundle(job: Job, host: Host) -> None:
    run(job, host, Tags(places(job.images)[0]))
    value = document(host)
    del value["replaced"]
    for entry in value["brought"]:
        del entry["bundle"]
    host.places.receipt.write_text(json.dumps(value))
    receipt = Receipt.read(host)
    place = places(job.images)[0]
    assert receipt.brought == (
        PushedName(place.repository, place.image.tag, place.image.root.digest, receipt.bundle.name),
    )


def with_roles(job: Job, name: str, **roles: str) -> Job:
    """The same archive under another name, in which some images are tapes or caches."""

    def role(item: Selected) -> str:
        return roles.get(item.image.reference.repository.rpartition("/")[2], "base")

    images = tuple(
        dataclasses.replace(item, image=dataclasses.replace(item.image, role=role(item)))
        for item in job.images
        if item.image.reference.repository.rpartition("/")[2] in roles
    )
    return dataclasses.replace(renamed(job, name, succeeds=False), images=images)


def of_role(job: Job, role: str) -> list[Place]:
    return [place for place in places(job.images) if place.image.image.role == role]


def test_caches_are_named_by_digest_also_those_of_bundles_beside(job: Job, host: Host) -> None:
    first = with_roles(job, "first", debian="cache", gcc="cache", registry="registry")
    found = of_role(first, "cache")
    assert len(found) > 1
    run(first, host, *(Tags(place) for place in found))
    own = Receipt.read(host).caches
    roots = {place.image.root.digest for place in found}
    assert len(own) == len(roots)
    for cache in own:
        name, _, digest = cache.removeprefix("type=registry,ref=localhost:5000/").partition("@")
        assert Digest(digest) in roots
        assert name in {place.name for place in found}
    # Another bundle has one of its own: that comes first, and those of the first are still there.
    second = with_roles(job, "second", registry="cache")
    run(second, host, *(Tags(place) for place in of_role(second, "cache")))
    both = Receipt.read(host).caches
    assert (len(both), both[1:]) == (len(own) + 1, own)
    assert document(host)["caches"] == list(both)
    # What the first one has dropped since is no cache of anybody beside it.
    assert run(with_roles(job, "first", gcc="cache"), host).caches == (own[1], both[0])
    # Other data is another registry.
    elsewhere = dataclasses.replace(with_roles(job, "third"), data="/srv/registry")
    assert run(elsewhere, host).caches == ()
    assert run(elsewhere, host).caches == ()


def test_a_bucket_of_the_same_name_at_another_storage_has_none_of_the_caches(job: Job, host: Host) -> None:
    one, other = (S3Storage("b", "", endpoint) for endpoint in ("https://one.corp", "https://other.corp"))
    first = dataclasses.replace(with_roles(job, "first", debian="cache"), data=str(one), storage=one)
    assert run(first, host, *(Tags(place) for place in of_role(first, "cache"))).caches
    second = dataclasses.replace(with_roles(job, "second"), data=str(one), storage=one)
    assert run(second, host).caches
    assert run(dataclasses.replace(second, storage=other), host).caches == ()


def test_a_cache_is_found_by_the_name_of_its_build(job: Job, host: Host) -> None:
    def brought(*tags: tuple[str, str, str]) -> Receipt:
        names = [
            PushedName("offline-bundle/cache", tag, Digest.of(text.encode()), bundle, "cache")
            for bundle, tag, text in tags
        ]
        return dataclasses.replace(run(job, host), brought=tuple(names))

    receipt = brought(("one", "app", "1"), ("one", "webapp", "2"), ("two", "app", "3"), ("one", "app", "4"))
    ref = "type=registry,ref=localhost:5000/offline-bundle/cache"
    # That of the newest bundle; of one bundle what it brought last.
    assert receipt.cache_of("app") == f"{ref}:app@{Digest.of(b'3')}"
    assert receipt.cache_of("webapp") == f"{ref}:webapp@{Digest.of(b'2')}"
    assert receipt.caches == tuple(
        f"{ref}:{tag}@{Digest.of(text)}" for tag, text in (("app", b"3"), ("app", b"4"), ("webapp", b"2"))
    )
    assert [receipt.cache_of(name) for name in ("pp", "app@sha256", None)] == [None, None, None]


def test_what_comes_again_was_brought_last(job: Job, host: Host) -> None:
    """Of two caches that a bundle has had under one tag, the one that it has now counts."""
    place = places(job.images)[0]
    run(job, host, Tags(place))
    entry = document(host)["brought"][0]
    change_receipt(host, brought=[entry, {**entry, "digest": str(THEIRS)}])
    run(job, host, Tags(place))
    assert [item["digest"] for item in document(host)["brought"]] == [str(THEIRS), entry["digest"]]


def test_a_builder_on_a_cluster_is_known_until_the_run_that_takes_it_away_has_ended(job: Job, host: Host) -> None:
    cluster = Cluster("site", "team")
    run(dataclasses.replace(job, cluster=cluster), host)
    recorder = InstallRecorder(job, host)
    with recorder.locked():
        recorder.begin(Write(host.places.state / "own"), [Change("write", "file", "/own")])
        # Here it is killed.
    before = Receipt.known(host.places)
    assert before is not None and before.state.cluster == cluster
    # Once it is gone, whatever becomes of the rest; also where nothing of it was left.
    steps, _ = _of_cluster(job, dataclasses.replace(host, kubectl=FakeKubectl({})))
    last = Write(host.places.state / "last")
    last.killed = True
    with pytest.raises(KeyboardInterrupt):
        run(job, host, *steps, last)
    assert document(host)["kubernetes"] is None
    assert _of_cluster(job, host) == ([], [])
