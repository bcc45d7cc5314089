"""After an installation that did not end nothing that still works is pruned."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Optional

import pytest

from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.errors import HostError
from bundles.oci.digest import Digest
from bundles.registry.transport import Transport
from bundles.runtime.progress import Silent
from installer.commands.prune import _apart, _left, _of_archive, _of_others, _of_receipt
from installer.model.job import Job, Options
from installer.model.registry.address import Address
from installer.model.replay import Replay, ReplayedTape
from installer.model.selection import places
from installer.receipt.receipt import BundleName, InstalledImage, PushedName, Receipt
from installer.registry.client import Registry
from installer.steps.registry.prune import PruneImages
from installer.steps.registry.push import Push
from tests.support.archives import AMD64, Made, example
from tests.support.fake_registry import FakeRegistry
from tests.support.states import desired

Connect = Callable[..., Transport]


def job_of(archive: Archive, host: str) -> Job:
    return Job.of(archive, Options(registry=Address.parse(host)), AMD64)


def receipt_of(job: Job, finished: Optional[datetime.datetime]) -> Receipt:
    """A receipt as `begin` saves it: it lists what is about to be pushed."""
    found = places(job.images)
    return Receipt(
        BundleName("x", "sha256:1", "/media/a b/new.tar"),
        job,
        images=tuple(
            InstalledImage("x", "base", place.image.root.digest, (), (f"{job.address}/{place.name}",))
            for place in found
        ),
        brought=tuple(PushedName(place.repository, place.image.tag, place.image.root.digest) for place in found),
        finished=finished,
    )


def archive_of(path: Path, content: Made) -> Archive:
    return Archive(content.write(path).path)


def test_without_an_archive_an_unfinished_installation_is_refused(tmp_path: Path, registry: FakeRegistry) -> None:
    with archive_of(tmp_path / "new.tar", example()) as archive:
        job = job_of(archive, registry.host)
        with pytest.raises(HostError, match="did not end") as caught:
            _of_receipt(receipt_of(job, None))
        assert caught.value.hint == "python3 '/media/a b/new.tar' upgrade, then prune"
        finished = receipt_of(job, datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc))
        assert _of_receipt(finished) == ("x", list(finished.brought))


def test_an_archive_is_asked_for_in_the_registry_when_the_last_installation_did_not_end(
    tmp_path: Path, registry: FakeRegistry, connect: Connect
) -> None:
    client = Registry(connect(insecure=frozenset({registry.host})), registry.host)
    with archive_of(tmp_path / "offline.tar", example()) as archive:
        check_documents(archive)
        job = job_of(archive, registry.host)
        unfinished = receipt_of(job, None)
        with pytest.raises(HostError, match="does not have all"):
            _of_archive(archive, unfinished, client)
        push = Push(archive, job.images, client, Silent())
        push.apply(push.look())
        assert _of_archive(archive, unfinished, client) == (archive.manifest.name, list(unfinished.brought))


def test_what_bundles_of_other_names_brought_stays_and_is_said() -> None:
    digest = Digest.of(b"x")
    mine, other, shared = (PushedName("a", tag, digest, name) for tag, name in (("1", "x"), ("2", "y"), ("3", "y")))
    receipt = Receipt(BundleName("x", "sha256:1", "x.tar"), None, brought=(mine, other, shared))  # type: ignore[arg-type]
    found = _of_others(receipt, {"x"}, [shared])
    assert found == [other]
    (note,) = _apart(found)
    assert note.startswith("what the bundle `y` brought stays (1 names)")
    assert note.endswith("prune --all removes it")
    assert _of_others(receipt, {"x", "y"}, []) == []


def test_nothing_is_replayed_any_more_from_tapes_that_go(registry: FakeRegistry, connect: Connect) -> None:
    """One that no receipt says was brought, since the receipt was lost, does not go."""
    client = Registry(connect(insecure=frozenset({registry.host})), registry.host)
    one, two, three = (Digest.of(name) for name in (b"1", b"2", b"3"))
    tapes = (ReplayedTape("one", (one,)), ReplayedTape("two", (two,)), ReplayedTape("three", (three,)))
    replay = Replay(5080, tapes, ("mirror.corp",))
    state = desired(Address.parse(registry.host), data="v", replay=replay)
    mine, other = (
        PushedName("offline-bundle/tape", tag, digest, name) for tag, digest, name in (("1", one, "x"), ("2", two, "y"))
    )
    receipt = Receipt(BundleName("x", "sha256:1", "x.tar"), state, brought=(mine, other))
    assert _left(receipt, PruneImages(receipt, client, [mine, other])) == state
    left = _left(receipt, PruneImages(receipt, client, [mine]))
    assert left.replay == Replay(5080, (tapes[0], tapes[2]), ("mirror.corp",))
