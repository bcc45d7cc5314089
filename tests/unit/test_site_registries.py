"""Pushing into registries that are not ours: one contract for each of the modes in tests/support/site_registries.py.

pytest tests/unit/test_site_registries.py              the modes of the fake
pytest tests/unit/test_site_registries.py -m e2e       distribution with TLS and a login, alone and behind nginx
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from bundler.planning.delta import read_base, subtract
from bundles.archive.reader import Archive
from bundles.errors import AuthenticationError, BundleError, NetworkError, NotFoundError, TooLargeError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.registry.auth import Credential
from bundles.registry.transport import Transport
from bundles.runtime.progress import Silent
from installer.model.registry.destination import Destination
from installer.model.selection import Place, select
from installer.registry.client import Registry
from installer.steps.registry.check import DestinationCheck
from installer.steps.registry.push import Push
from tests.support.archives import AMD64, ARM64, Made, example, image, made
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.images import noise
from tests.support.real_registry import PASSWORD, USER, Nginx, RealRegistry
from tests.support.site_registries import SITES, Site
from tests.support.token_server import TokenServer
from tests.support.upload_body import Body

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


# The real ones


@dataclasses.dataclass(frozen=True)
class Real:
    """A registry of a site, and how its things are looked at."""

    host: str
    credentials: Callable[[str, str], tuple[Credential, ...]]
    sparse: bool

    def connect(self, connect: Connect, certificate: Certificate, **more: Any) -> Transport:
        return connect(credentials=self.credentials, ca_file=certificate.file, timeout=(5.0, 30.0), **more)


def _login(host: str, repository: str) -> tuple[Credential, ...]:
    return (Credential(USER, PASSWORD),)


@pytest.fixture(
    params=["distribution3", "distribution2", "strict3", "tokens", "nginx", "nginx-unbuffered", "nginx-tokens", "crane"]
)
def real(request: pytest.FixtureRequest, tmp_path: Path, certificate: Certificate, names: None) -> Iterator[Real]:
    """Distribution with a login, over TLS with a CA of its own, under a name that is not this machine's."""
    kind = request.param
    in_front = kind.startswith("nginx") or kind == "crane"
    name = kind if kind in ("distribution2", "crane") else "distribution3"
    sparse = kind not in ("distribution2", "strict3", "crane")
    with contextlib.ExitStack() as stack:
        tokens = None
        if kind.endswith("tokens"):
            tokens = stack.enter_context(
                TokenServer(tmp_path, certificate, {USER: (PASSWORD, {"pull", "push", "delete", "*"})})
            )
        tls = None if in_front else certificate
        registry = stack.enter_context(
            RealRegistry(name, tmp_path, tls=tls, login=tokens is None, tokens=tokens, sparse=sparse)
        )
        port = registry.port
        if in_front:
            buffering = kind != "nginx-unbuffered"
            front = Nginx(registry.host, tmp_path, largest_body="16k", tls=certificate, buffering=buffering)
            port = stack.enter_context(front).port
        yield Real(f"registry.example:{port}", _login, sparse)


@pytest.mark.e2e
def test_everything_arrives_at_a_real_one(
    archive: Archive, connect: Connect, real: Real, certificate: Certificate
) -> None:
    transport = real.connect(connect, certificate)
    push = push_to(real.host, transport, archive)
    install(push)
    registry = Registry(transport, real.host)
    for item in select(archive, Destination.parse(f"{real.host}/team"), ()):
        repository = item.repositories[0]
        found = registry.manifest_digest(repository, str(item.tag))
        rebuilt = {place.name: digest for place, digest in push.rebuilt.items()}
        assert found == rebuilt.get(f"{repository}:{item.tag}", item.root.digest)
        for manifest in item.manifests:
            if not manifest.is_index:
                assert registry.get_manifest(repository, str(manifest.digest))[1] == archive.read_document(manifest)
        for blob in item.blobs:
            path, scope = f"/v2/{repository}/blobs/{blob.digest}", f"repository:{repository}:pull"
            data = transport.fetch("GET", real.host, path, scope=scope, limit=1 << 20).data
            assert (Digest.of(data), len(data)) == (blob.digest, blob.size)
    assert bool(push.rebuilt) != real.sparse
    again = push_to(real.host, transport, archive)
    assert (install(again), again.rebuilt) == (0, push.rebuilt)


@pytest.mark.e2e
@pytest.mark.parametrize(("limit", "size"), [("20m", 60_000_000), ("1m", 9_999_999)])
@pytest.mark.parametrize("encrypted", [True, False])
def test_a_large_blob_behind_nginx(
    tmp_path: Path, connect: Connect, certificate: Certificate, names: None, limit: str, size: int, encrypted: bool
) -> None:
    """The whole is refused while it is still on its way; then pieces below the limit, and not one byte is wrong."""
    data = noise("nginx", size)
    blob = Descriptor.of("application/octet-stream", data)
    tls = certificate if encrypted else None
    with (
        RealRegistry("distribution3", tmp_path) as real,
        Nginx(real.host, tmp_path, largest_body=limit, tls=tls) as front,
    ):
        host = f"registry.example:{front.port}"
        insecure = frozenset() if encrypted else frozenset({host})
        transport = connect(ca_file=certificate.file, insecure=insecure, timeout=(5.0, 60.0))
        Registry(transport, host).upload_blob("team/app", blob, lambda: Body(data))
        path = f"/v2/team/app/blobs/{blob.digest}"
        assert transport.fetch("GET", host, path, scope="", limit=len(data)).data == data
        statuses = [line.split('"')[2].split()[0] for line in front.requests if '"PUT ' in line or '"PATCH ' in line]
        refused = [status for status in statuses if status == "413"]
        assert set(statuses) == {"413", "202", "201"}
        assert len(refused) <= 4


@pytest.mark.e2e
def test_a_limit_that_leaves_nothing_is_nginx_s(tmp_path: Path, connect: Connect) -> None:
    data = noise("nginx", 100_000)
    blob = Descriptor.of("application/octet-stream", data)
    with RealRegistry("distribution3", tmp_path) as real, Nginx(real.host, tmp_path, largest_body="1k") as front:
        with pytest.raises(TooLargeError) as caught:
            Registry(connect(), front.host).upload_blob("team/app", blob, data)
        assert f"a proxy in front of `{front.host}`, which calls itself `nginx/" in caught.value.message
        assert "16.0 KiB were refused with 413" in caught.value.message


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["distribution3", "distribution2"])
def test_a_restart_between_pieces(tmp_path: Path, connect: Connect, kind: str) -> None:
    """distribution 3 goes on with what it has on its disk; 2.8.3 does not know its own upload any more."""
    data = noise("restart", 6_000_000)
    blob = Descriptor.of("application/octet-stream", data)
    with RealRegistry(kind, tmp_path) as real, Nginx(real.host, tmp_path) as front:
        target = Registry(connect(attempts=10, backoff=0.1), front.host)
        restarts: list[int] = []

        class Restarting(Body):
            def read(self, count: int, /) -> bytes:
                if self._stream.tell() > 3_000_000 and not restarts and "PATCH" in "".join(front.requests):
                    restarts.append(self._stream.tell())
                    real.restart()
                return super().read(count)

        target.upload_blob("team/app", blob, lambda: Restarting(data))
        assert len(restarts) == 1
        assert target.has_blob("team/app", blob.digest)
        posts = [line for line in front.requests if '"POST ' in line]
        # One for the whole, one for the pieces.
        assert len(posts) == 2 + (kind == "distribution2")


@pytest.mark.e2e
def test_tokens_end_in_the_middle_of_a_blob(
    tmp_path: Path, connect: Connect, certificate: Certificate, names: None
) -> None:
    """What was good when the upload began is not when its next piece comes, as far as the registry is concerned."""
    data = noise("tokens", 4_000_000)
    blob = Descriptor.of("application/octet-stream", data)
    with (
        TokenServer(tmp_path, certificate, {USER: (PASSWORD, {"pull", "push"})}, lifetime=4) as tokens,
        RealRegistry("distribution3", tmp_path, tokens=tokens) as real,
        Nginx(real.host, tmp_path, tls=certificate) as front,
    ):
        host = f"registry.example:{front.port}"
        waits: list[int] = []

        class Slow(Body):
            def read(self, count: int, /) -> bytes:
                if self._stream.tell() > 2_000_000 and not waits and "PATCH" in "".join(front.requests):
                    waits.append(self._stream.tell())
                    tokens.lifetime = 300  # of those to come
                    time.sleep(5)
                return super().read(count)

        transport = connect(credentials=_login, ca_file=certificate.file, timeout=(5.0, 30.0))
        Registry(transport, host).upload_blob("team/app", blob, lambda: Slow(data))
        assert len(waits) == 1
        path = f"/v2/team/app/blobs/{blob.digest}"
        scope = "repository:team/app:pull"
        assert transport.fetch("GET", host, path, scope=scope, limit=len(data)).data == data
        statuses = [line.split('"')[2].split()[0] for line in front.requests if '"PATCH ' in line]
        # nginx makes its own of a registry that does not wait for the rest. A busy machine may be late earlier, too.
        assert statuses.count("401") + statuses.count("502") >= 1
        assert len([scopes for _, scopes in tokens.asked if "repository:team/app:pull,push" in scopes]) > 1


@pytest.mark.e2e
def test_a_real_account_that_may_only_read(
    tmp_path: Path, archive: Archive, connect: Connect, certificate: Certificate, names: None
) -> None:
    with (
        TokenServer(tmp_path, certificate, {USER: (PASSWORD, {"pull"})}) as tokens,
        RealRegistry("distribution3", tmp_path, tls=certificate, tokens=tokens) as real,
    ):
        host = f"registry.example:{real.port}"
        with pytest.raises(AuthenticationError) as caught:
            install(push_to(host, connect(credentials=_login, ca_file=certificate.file), archive))
        assert f"the login for `{host}` is good: see whether the project `team` exists" in str(caught.value.hint)


@pytest.mark.e2e
def test_a_wrong_password_and_another_certificate(
    tmp_path: Path, archive: Archive, connect: Connect, certificate: Certificate, names: None
) -> None:
    """Neither a byte of an image nor the login goes to who shows a certificate that nobody here trusts."""
    with RealRegistry("distribution3", tmp_path, tls=certificate, login=True) as real:
        host = f"registry.example:{real.port}"
        with pytest.raises(NetworkError, match="self-signed") as untrusted:
            install(push_to(host, connect(credentials=_login), archive))
        assert "--ca FILE" in str(untrusted.value.hint)

        def wrong(*_: str) -> tuple[Credential, ...]:
            return (Credential(USER, "wrong-hunter2"),)

        with pytest.raises(AuthenticationError) as caught:
            install(push_to(host, connect(credentials=wrong, ca_file=certificate.file), archive))
        assert f"docker login {host}" in str(caught.value.hint)
        assert "wrong-hunter2" not in str(caught.value)
    assert not (tmp_path / "storage/docker").exists()
