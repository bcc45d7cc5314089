"""Pushing into registries that are not ours: one contract for each of the modes in tests/support/site_registries.py.

pytest tests/unit/test_site_registries.py              the modes of the fake
pytest tests/unit/test_site_registries.py -m e2e       distribution with TLS and a login, alone and behind nginx
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from bundler.planning.delta import read_base, subtract
from bundles.archive.reader import Archive
from bundles.errors import AuthenticationError, BundleError, NetworkError, NotFoundError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.registry.transport import Transport
from bundles.runtime.progress import Silent
from installer.model.destination import Destination
from installer.model.selection import Place, select
from installer.registry.client import Registry
from installer.steps.destination import DestinationCheck
from installer.steps.push import Push
from tests.support.archives import AMD64, ARM64, Made, example, image, made
from tests.support.fake_registry import FakeRegistry
from tests.support.site_registries import SITES, Site

Make = Callable[..., FakeRegistry]
Connect = Callable[..., Transport]
GCC, DEBIAN = "ghcr.io/team/gcc:12", "debian:12"


@pytest.fixture(params=SITES, ids=lambda site: site.name)
def site(request: pytest.FixtureRequest) -> Site:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(example().write(tmp_path / "offline.tar").path) as opened:
        yield opened


def push_to(host: str, transport: Transport, archive: Archive, *platforms: Platform, project: str = "team") -> Push:
    destination = Destination.parse(f"{host}/{project}")
    images = select(archive, destination, platforms)
    return Push(archive, images, Registry(transport, host), Silent(), yes=True, prefix=project)


def install(push: Push) -> int:
    assert push.problems() == []
    changes = push.look()
    if changes:
        push.apply(changes)
    return len(changes)


def roots(archive: Archive) -> dict[str, Digest]:
    return {item.reference.familiar: item.root.digest for item in archive.manifest.images}


def test_everything_arrives(archive: Archive, fake: Make, connect: Connect, site: Site) -> None:
    """With the bytes and digests of its origin; but an index with missing platforms may be another, which is said."""
    registry = fake(**site.all_options)
    push = push_to(registry.host, connect(credentials=site.credentials), archive)
    install(push)
    tags = {
        f"{name}:{tag}": digest for name, each in registry.repositories.items() for tag, digest in each.tags.items()
    }
    wanted = roots(archive)
    assert tags["team/library/debian:12"] == wanted[DEBIAN]
    assert tags["team/library/registry:3"] == wanted["registry:3"]
    assert len(tags) == 3
    for item in archive.manifest.images:
        for blob in archive.walk(item.root):
            place = archive.layout.blob(blob.digest)
            if blob.digest != wanted[GCC]:
                assert registry.content[blob.digest] == archive.volume.read(place.data_offset, place.size)
    served = tags["team/ghcr.io/team/gcc:12"]
    if "sparse_index" not in site.options:
        assert (served, push.rebuilt, push.notes()) == (wanted[GCC], {}, [])
    else:
        before = json.loads(archive.read_document(next(b for b in archive.manifest.blobs if b.digest == wanted[GCC])))
        after = json.loads(registry.content[served])
        assert len(before["manifests"]) == 3
        assert after == {**before, "manifests": before["manifests"][:2]}
        assert list(push.rebuilt.values()) == [served]
        (note,) = push.notes()
        assert f"has the index {served} instead of {wanted[GCC]}" in note
    assert registry.uploads == {}


def test_a_second_run_finds_nothing_to_do(archive: Archive, fake: Make, connect: Connect, site: Site) -> None:
    registry = fake(**site.all_options)
    first = push_to(registry.host, connect(credentials=site.credentials), archive)
    install(first)
    registry.requests.clear()
    second = push_to(registry.host, connect(credentials=site.credentials), archive)
    assert install(second) == 0
    assert second.rebuilt == first.rebuilt
    # Each blob once, but for what was asked without a login first.
    asked = [each.path for each in registry.seen("HEAD", "/blobs/") if each.authorization or not site.user]
    assert len(asked) == len(set(asked))
    assert {each.method for each in registry.seen()} <= {"HEAD", "GET"}


def test_another_platform_later(archive: Archive, fake: Make, connect: Connect, site: Site) -> None:
    registry = fake(**site.all_options)
    transport = connect(credentials=site.credentials)
    install(push_to(registry.host, transport, archive, AMD64))
    install(push_to(registry.host, transport, archive, ARM64))
    assert registry.repositories["team/library/debian"].tags == {"12": roots(archive)[DEBIAN]}


def test_what_is_in_the_middle_of_it_is_no_matter(archive: Archive, fake: Make, connect: Connect, site: Site) -> None:
    """429, an answer that is lost, a gateway in trouble: at every method that pushes."""
    registry = fake(**site.all_options)
    faults = [
        registry.fault("POST", "/uploads/", status=429, headers={"Retry-After": "0"}),
        registry.fault("PUT", "/uploads/", close=True),
        registry.fault("PUT", "/manifests/sha256:", status=502),
        registry.fault("PUT", "/manifests/12", status=429, headers={"Retry-After": "0"}),
        registry.fault("HEAD", "/blobs/", status=503),
    ]
    install(push_to(registry.host, connect(credentials=site.credentials), archive))
    assert [fault.times for fault in faults] == [0] * 5
    assert registry.repositories["team/library/debian"].tags == {"12": roots(archive)[DEBIAN]}


@pytest.mark.parametrize("site", [site for site in SITES if site.options.get("auth") == "bearer"], ids=lambda s: s.name)
def test_tokens_that_expire_all_the_time(archive: Archive, fake: Make, connect: Connect, site: Site) -> None:
    registry = fake(**site.all_options, token_uses=6)
    install(push_to(registry.host, connect(credentials=site.credentials), archive))
    assert registry.repositories["team/library/debian"].tags == {"12": roots(archive)[DEBIAN]}
    uses = [count for token, count in registry.uses.items() if token]
    assert 6 < max(uses) <= 6 + 4  # those that it was good for, and one of each worker that was refused
    # Who mounts says so in the one token: to write here, and to read there.
    if site.options.get("mounts", True) is True:
        scopes = [path for path in registry.paths("GET", "/token") if path.count("scope=") == 2]
        assert scopes
        assert all("pull%2Cpush" in path.split("scope=")[1] for path in scopes)


@pytest.mark.parametrize("site", [site for site in SITES if site.immutable], ids=lambda site: site.name)
class TestImmutableTags:
    def registry(self, fake: Make, site: Site) -> FakeRegistry:
        return fake(**site.all_options, immutable_tag=site.immutable)

    def test_the_same_digest_is_fine(self, archive: Archive, fake: Make, connect: Connect, site: Site) -> None:
        registry = self.registry(fake, site)
        transport = connect(credentials=site.credentials)
        install(push_to(registry.host, transport, archive))
        # Something below the tag was lost: it is brought back, and the tag set to what it is.
        debian = registry.repositories["team/library/debian"]
        lost = next(digest for digest in debian.manifests if digest not in debian.tags.values())
        del debian.manifests[lost]
        assert install(push_to(registry.host, transport, archive)) > 0
        assert lost in debian.manifests
        assert install(push_to(registry.host, transport, archive)) == 0

    def test_all_that_may_not_be_moved_are_named(
        self, archive: Archive, fake: Make, connect: Connect, site: Site
    ) -> None:
        registry = self.registry(fake, site)
        other = registry.image(seed="other")
        for name in ("team/library/debian", "team/ghcr.io/team/gcc"):
            registry.tag(name, "12", other)
        with pytest.raises(NetworkError) as caught:
            install(push_to(registry.host, connect(credentials=site.credentials), archive))
        assert "lets 2 tags not be moved; everything else is there" in caught.value.message
        subjects = {problem.subject: problem.message for problem in caught.value.problems}
        assert set(subjects) == {"team/library/debian:12", "team/ghcr.io/team/gcc:12"}
        assert site.immutable
        for message in subjects.values():
            assert f"it is {other.digest}, and may not become sha256:" in message
            assert site.immutable.code in message
            assert (site.immutable.detail or "") in message
        assert registry.repositories["team/library/registry"].tags == {"3": roots(archive)["registry:3"]}
        assert registry.repositories["team/library/debian"].tags == {"12": other.digest}


def test_a_delta_without_the_right_to_list(tmp_path: Path, fake: Make, connect: Connect, site: Site) -> None:
    """A layer that the archive leaves to its base, and that another repository needs: mounted, or fetched and sent."""
    base = (image("registry:3", "registry", (AMD64,), (9,)), image(DEBIAN, seeds=(1,)))
    full = made(*base).write(tmp_path / "full.tar").path
    whole: Made = made(*base, image("python:3", seeds=(1, 2)))
    delta = dataclasses.replace(whole, plan=subtract(whole.plan, [read_base(full)])).write(tmp_path / "delta.tar").path
    registry = fake(**site.all_options)
    transport = connect(credentials=site.credentials)
    with Archive(full) as first, Archive(delta) as second:
        install(push_to(registry.host, transport, first))
        install(push_to(registry.host, transport, second))
        assert registry.repositories["team/library/python"].tags == {"3": roots(second)["python:3"]}
        for item in select(second, Destination.parse(f"{registry.host}/team"), ()):
            assert {blob.digest for blob in item.blobs} <= registry.repositories[item.repositories[0]].blobs


def test_a_base_that_is_not_there(tmp_path: Path, fake: Make, connect: Connect, site: Site) -> None:
    base = (image("registry:3", "registry", (AMD64,), (9,)), image(DEBIAN, seeds=(1,)))
    full = made(*base).write(tmp_path / "full.tar").path
    whole = made(*base, image("python:3", seeds=(1, 2)))
    delta = dataclasses.replace(whole, plan=subtract(whole.plan, [read_base(full)])).write(tmp_path / "delta.tar").path
    registry = fake(**site.all_options)
    with Archive(delta) as archive:
        problems = push_to(registry.host, connect(credentials=site.credentials), archive).problems()
    assert problems
    unlisted = "which lists no others" in problems[0].message
    assert unlisted == ("catalog" in site.options)
    assert {each.method for each in registry.seen()} <= {"HEAD", "GET"}


# What has to be put right by a person


def site_of(name: str) -> Site:
    return next(site for site in SITES if site.name == name)


def refused(fake: Make, connect: Connect, archive: Archive, site: Site, project: str = "team") -> BundleError:
    registry = fake(**site.all_options)
    with pytest.raises(NetworkError) as caught:
        install(push_to(registry.host, connect(credentials=site.credentials), archive, project=project))
    assert "docker login" not in str(caught.value)
    return caught.value


def test_a_project_that_does_not_exist(archive: Archive, fake: Make, connect: Connect) -> None:
    error = refused(fake, connect, archive, site_of("harbor"), "teem")
    assert isinstance(error, AuthenticationError)
    assert "the login for `127.0.0.1:" in str(error.hint)
    assert "is good: see whether the project `teem` exists there, which a push does not make" in str(error.hint)


def test_it_is_known_before_the_first_byte(archive: Archive, fake: Make, connect: Connect) -> None:
    site = site_of("harbor")
    registry = fake(**site.all_options)
    destination = Destination.parse(f"{registry.host}/teem")
    transport = connect(credentials=site.credentials)
    repositories = ["teem/library/debian", "teem/library/python"]
    (problem,) = DestinationCheck(destination, Registry(transport, registry.host), repositories).problems()
    assert problem.subject == f"`{registry.host}/teem/library/debian` and 1 more"
    assert "UNAUTHORIZED: project teem not found" in problem.message
    assert "`teem` exists there" in str(problem.hint)


def test_repositories_that_a_push_does_not_make(archive: Archive, fake: Make, connect: Connect) -> None:
    error = refused(fake, connect, archive, site_of("ecr"), "other")
    assert isinstance(error, NotFoundError)
    assert "makes none on a push: NAME_UNKNOWN" in error.message
    assert "aws ecr create-repository" in str(error.hint)


def test_a_login_that_may_only_read(archive: Archive, fake: Make, connect: Connect) -> None:
    site = site_of("gitea")
    registry = fake(**site.all_options, members={site.user: "elsewhere"})
    with pytest.raises(AuthenticationError) as caught:
        install(push_to(registry.host, connect(credentials=site.credentials), archive))
    assert f"the login for `{registry.host}` is good" in str(caught.value.hint)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_wrong_password_is_called_that(archive: Archive, fake: Make, connect: Connect, auth: str) -> None:
    registry = fake(auth=auth, users={"ci": "other"}, anonymous_pull=False)
    with pytest.raises(AuthenticationError) as caught:
        install(push_to(registry.host, connect(credentials=site_of("zot").credentials), archive))
    assert f"docker login {registry.host}" in str(caught.value.hint)


def test_a_quota_that_is_full(archive: Archive, fake: Make, connect: Connect) -> None:
    site = site_of("harbor")
    registry = fake(**site.all_options, quota=3000)
    with pytest.raises(NetworkError, match=r"DENIED: adding 29\.0 MiB of storage resource") as caught:
        install(push_to(registry.host, connect(credentials=site.credentials), archive))
    assert "quota" in str(caught.value.hint)
    assert not any(each.tags for each in registry.repositories.values())


def test_the_password_is_in_no_error(archive: Archive, fake: Make, connect: Connect, site: Site) -> None:
    registry = fake(**{**site.all_options, "users": {site.user: "changed"}})
    if site.user:
        with pytest.raises(NetworkError) as caught:
            install(push_to(registry.host, connect(credentials=site.credentials), archive))
        texts: list[Any] = [caught.value, caught.value.hint, caught.value.to_json()]
        assert "hunter2" not in str(texts)


def test_an_artifact_of_a_type_that_is_not_taken(registry: FakeRegistry, connect: Connect) -> None:
    index = registry.image(kind="docker")
    body = b'{"errors":[{"code":"MANIFEST_INVALID","message":"manifest invalid"}]}'
    registry.fault("PUT", "/manifests/", status=415, body=body)
    with pytest.raises(NetworkError) as caught:
        Registry(connect(), registry.host).put_manifest("app", "1", index, registry.data(index))
    assert "docker2s2" in str(caught.value.hint)


def test_places_are_those_of_the_project(archive: Archive) -> None:
    found = {place.repository for item in select(archive, Destination.parse("harbor.corp/team"), ()) for place in
             [Place(item, item.repositories[0])]}  # fmt: skip
    assert found == {"team/library/registry", "team/library/debian", "team/ghcr.io/team/gcc"}
