"""Records and build caches on their way into an archive: what is in it, and what is said when something is missing."""

from __future__ import annotations

import html
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from bundles.archive.reader import Archive
from bundles.archive.tape.answer import Answer, Tape
from bundles.archive.verify import verify_archive
from bundles.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from tests.support.fake_registry import FakeRegistry
from tests.support.images import layer
from tests.support.program import bundle
from tests.support.records import CACHE_CONFIG, RecordMaker, answer, cache_of, write_layout
from tests.support.web_origin import BIG, WebOrigin

Make = Callable[..., FakeRegistry]
PAGES = {"http://deb.corp/InRelease": b"suite: bookworm", "https://pypi.corp/simple/six/": b"<a>six</a>"}


@pytest.fixture
def origin() -> Iterator[WebOrigin]:
    origin = WebOrigin()
    yield origin
    origin.close()


@pytest.fixture
def hub(hub: FakeRegistry) -> FakeRegistry:
    """With a Python, which the replay needs."""
    hub.tag("library/python", "3-slim", hub.index(hub.image("linux/amd64", seed="python")))
    return hub


def digest_of(hub: FakeRegistry, repository: str, tag: str) -> Digest:
    return hub.repository(repository).tags[tag]


def create(hub: FakeRegistry, cwd: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = bundle("create", "--mirror", f"docker.io={hub.host}", *arguments, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def blob(archive: Archive, descriptor: Descriptor) -> bytes:
    reader, data = archive.open_blob(descriptor), b""
    while chunk := reader.read():
        data += bytes(chunk)
    return data


def test_a_record_is_in_the_archive_as_it_was(hub: FakeRegistry, tmp_path: Path) -> None:
    debian = digest_of(hub, "library/debian", "12")
    maker = RecordMaker(pages=PAGES, images={"debian:12": debian}, cache=(layer("step"),), notes=("corp had a login",))
    maker.write(tmp_path / "app.record")
    # Since then the tag has moved.
    hub.tag("library/debian", "12", hub.index(hub.image("linux/amd64", seed="new"), hub.image("linux/arm64", seed="n")))
    create(hub, tmp_path, "--record", "app.record", "-o", "offline.tar")

    with Archive(tmp_path / "offline.tar") as archive:
        verify_archive(archive)
        images = {image.reference.familiar: image for image in archive.manifest.images}
        assert images["debian:12"].root.digest == debian
        assert images["python:3-slim"].role == "python"
        tape, cache = images["offline-bundle/tape:app"], images["offline-bundle/cache:app"]
        assert (tape.role, cache.role) == ("tape", "cache")
        manifest = parse_manifest(archive.read_document(tape.root))
        assert Tape.parse(blob(archive, manifest.config)).to_bytes() == maker.tape.to_bytes()
        assert [blob(archive, each) for each in manifest.layers[1:]] == sorted(
            PAGES.values(), key=lambda data: str(Digest.of(data))
        )
        assert json.loads(blob(archive, manifest.layers[0]))["notes"] == ["corp had a login"]
        assert blob(archive, parse_manifest(archive.read_document(cache.root)).layers[0]) == layer("step")
    assert hub.seen(part="offline-bundle") == []


def test_every_url_is_shown_to_those_who_approve(hub: FakeRegistry, tmp_path: Path) -> None:
    RecordMaker(pages=PAGES, notes=("deb.corp was asked with a login",)).write(tmp_path / "app.record")
    create(hub, tmp_path, "debian:12", "--record", "app.record", "-o", "offline.tar")
    done = bundle("inspect", "offline.tar", "--html", "list.html", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (recorded,) = json.loads(done.stdout)["recorded"]
    assert recorded["reference"] == "docker.io/offline-bundle/tape:app"
    assert {answer["url"]: answer["digest"] for answer in recorded["answers"]} == {
        url: str(Digest.of(body)) for url, body in PAGES.items()
    }
    page = html.unescape((tmp_path / "list.html").read_text())
    for word in (*PAGES, *(Digest.of(body).hex for body in PAGES.values()), "deb.corp was asked with a login"):
        assert word in page
    shown = bundle("inspect", "offline.tar", cwd=tmp_path).stdout.splitlines()
    assert "offline-bundle/tape:app: 1 answers of deb.corp, 15 B" in shown


def test_contents_that_were_left_behind_are_fetched(hub: FakeRegistry, origin: WebOrigin, tmp_path: Path) -> None:
    pages = {f"{origin.url}/big": BIG, f"{origin.url}/chunked": b"hello" * 3}
    maker = RecordMaker(pages=pages)
    record = maker.write(tmp_path / "app.record")
    for body in pages.values():
        (record / Digest.of(body).blob_path).unlink()
    create(hub, tmp_path, "debian:12", "--record", "app.record", "-o", "offline.tar")
    with Archive(tmp_path / "offline.tar") as archive:
        verify_archive(archive)
        assert {str(Digest.of(body)) for body in pages.values()} <= {str(one.digest) for one in archive.manifest.blobs}
    assert not (tmp_path / "offline.tar.spool").exists()


def test_all_that_has_moved_is_named_at_once(hub: FakeRegistry, origin: WebOrigin, tmp_path: Path) -> None:
    pages = {
        f"{origin.url}/big": BIG[:-1] + b"?",
        f"{origin.url}/gone": b"it was here",
        f"{origin.url}/blob": b"a layer",
    }
    record = RecordMaker(pages=pages).write(tmp_path / "app.record")
    for body in pages.values():
        (record / Digest.of(body).blob_path).unlink()
    done = create(hub, tmp_path, "debian:12", "--record", "app.record", "-o", "offline.tar", "--json", code=5)
    error = json.loads(done.stdout)["error"]
    assert [problem["subject"] for problem in error["problems"]] == [f"{origin.url}/big", f"{origin.url}/gone"]
    assert "`app.record` is not whole: 2 of its contents are neither there" in error["message"]
    assert "bundle record WHAT -o app.record" in error["hint"]
    assert not (tmp_path / "offline.tar").exists()


def test_a_damaged_content_is_no_part_of_an_archive(hub: FakeRegistry, tmp_path: Path) -> None:
    record = RecordMaker(pages=PAGES).write(tmp_path / "app.record")
    damaged = record / Digest.of(b"suite: bookworm").blob_path
    damaged.write_bytes(b"suite: bookworn")
    done = create(hub, tmp_path, "debian:12", "--record", "app.record", "-o", "offline.tar", code=5)
    assert f"`app.record/{damaged.relative_to(record)}` is missing or damaged" in done.stderr
    assert not (tmp_path / "offline.tar").exists()


def test_what_is_no_record_is_said(hub: FakeRegistry, tmp_path: Path) -> None:
    done = create(hub, tmp_path, "--record", "nowhere.record", code=2)
    assert "`nowhere.record` is not a record" in done.stderr
    record = RecordMaker(pages=PAGES).write(tmp_path / "app.record")
    (record / "tape.jsonl").write_text("")
    assert "is not whole: its recording was interrupted" in create(hub, tmp_path, "--record", record, code=2).stderr


def test_the_record_of_a_bundle_that_has_builds(hub: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "bundle.toml").write_text('name = "team"\n[[build]]\ncontext = "app"\n')
    done = create(hub, tmp_path, "-f", "bundle.toml", code=2)
    assert "`bundle.toml` has builds, and `team.record`, where they would be recorded, is not there" in done.stderr
    assert "next: bundle record bundle.toml" in done.stderr
    RecordMaker("team", PAGES).write(tmp_path / "team.record")
    create(hub, tmp_path, "-f", "bundle.toml")
    with Archive(tmp_path / "team.tar") as archive:
        (tape,) = archive.manifest.with_role("tape")
        assert tape.reference.familiar == "offline-bundle/tape:team"


def test_what_cannot_be_fetched_again_says_why(hub: FakeRegistry, origin: WebOrigin, tmp_path: Path) -> None:
    signed, release = f"{origin.url}/signed?se=1&sig=-", f"{origin.url}/release"
    location = {"location": signed}
    tape = Tape(
        [
            answer(signed, b"the release"),
            Answer("GET", release, 302, location),
            answer(f"{origin.url}/page", b"page for text/html", asked={"accept": "text/html"}),
            answer(f"{origin.url}/token?token=-", b"for token=1"),
            answer(f"{origin.url}/login", b"private", login=True),
        ]
    )
    record = RecordMaker(answers=tape).write(tmp_path / "app.record")
    done = create(hub, tmp_path, "debian:12", "--record", record, "-o", "offline.tar", "--json", code=5)
    problems = {problem["subject"]: problem["message"] for problem in json.loads(done.stdout)["error"]["problems"]}
    assert problems.keys() == {f"{origin.url}/page", f"{origin.url}/token?token=-", f"{origin.url}/login"}
    assert "only the record has it" in problems[f"{origin.url}/page"]
    assert "GET /release" in origin.paths()


def test_a_cache_that_was_left_behind(hub: FakeRegistry, tmp_path: Path) -> None:
    record = RecordMaker(pages=PAGES, cache=(layer("one"), layer("two"))).write(tmp_path / "app.record")
    (record / Digest.of(layer("two")).blob_path).unlink()
    done = create(hub, tmp_path, "debian:12", "--record", record, "-o", "offline.tar", code=5)
    assert "offline-bundle/cache:app: 1 of its 2 layers are missing, and nowhere else" in done.stderr


def test_a_name_that_stood_for_two_images(hub: FakeRegistry, tmp_path: Path) -> None:
    old = digest_of(hub, "library/debian", "12")
    new = hub.index(hub.image("linux/amd64", seed="new"), hub.image("linux/arm64", seed="new"))
    hub.tag("library/debian", "12", new)
    RecordMaker("one", PAGES, {"debian:12": old}, (layer("one"),)).write(tmp_path / "one.record")
    RecordMaker("two", PAGES, {"debian:12": new.digest}, (layer("two"),)).write(tmp_path / "two.record")
    both = ("--record", "one.record", "--record", "two.record")
    document = json.loads(create(hub, tmp_path, *both, "-o", "offline.tar", "--json").stdout)
    assert any(f"debian:12 is {old}, and was {new.digest} in a build of two.record" in n for n in document["notes"])
    with Archive(tmp_path / "offline.tar") as archive:
        verify_archive(archive)
        roots = {str(image.reference): image.root.digest for image in archive.manifest.images}
    assert roots["docker.io/library/debian:12"] == old
    assert roots[f"docker.io/library/debian@{new.digest}"] == new.digest
    assert {"docker.io/offline-bundle/cache:one", "docker.io/offline-bundle/cache:two"} <= roots.keys()


def test_a_record_needs_python(hub: FakeRegistry, tmp_path: Path) -> None:
    RecordMaker(pages=PAGES).write(tmp_path / "app.record")
    done = create(hub, tmp_path, "debian:12", "--record", "app.record", "--without", "python", code=2)
    assert "there is a record, and the python image is left out" in done.stderr


def test_two_records_that_disagree(hub: FakeRegistry, tmp_path: Path) -> None:
    url = "http://deb.corp/InRelease"
    RecordMaker("one", {url: b"monday"}).write(tmp_path / "one.record")
    RecordMaker("two", {url: b"friday"}).write(tmp_path / "two.record")
    both = ("--record", "one.record", "--record", "two.record")
    document = json.loads(create(hub, tmp_path, "debian:12", *both, "-o", "offline.tar", "--json").stdout)
    (note,) = (note for note in document["notes"] if url in note)
    assert note.startswith(f"one.record and two.record were recorded at different times and differ in {url}: the host ")
    RecordMaker("one", {url: b"sunday"}).write(tmp_path / "again.record")
    done = create(hub, tmp_path, "debian:12", "--record", "one.record", "--record", "again.record", code=2)
    assert "`one.record` and `again.record` both have `offline-bundle/tape:one`" in done.stderr


def test_a_lock_holds_records_too(hub: FakeRegistry, tmp_path: Path) -> None:
    debian = digest_of(hub, "library/debian", "12")
    RecordMaker(pages=PAGES, images={"debian:12": debian}).write(tmp_path / "app.record")
    (tmp_path / "bundle.toml").write_text('records = ["app.record"]\n')
    mirror = ("--mirror", f"docker.io={hub.host}")
    assert bundle("lock", *mirror, cwd=tmp_path).returncode == 0
    locked = {image["reference"]: image for image in json.loads((tmp_path / "bundle.lock").read_text())["images"]}
    assert locked["docker.io/offline-bundle/tape:app"]["role"] == "tape"
    create(hub, tmp_path, "-f", "bundle.toml", "-o", "offline.tar")

    RecordMaker(pages={**PAGES, "http://deb.corp/more": b"more"}, images={"debian:12": debian}).write(
        tmp_path / "app.record"
    )
    done = create(hub, tmp_path, "-f", "bundle.toml", "-o", "other.tar", code=5)
    assert "`offline-bundle/tape:app` is locked as sha256:" in done.stderr
    hint = next(line for line in done.stderr.splitlines() if "--upgrade" in line)
    assert "--upgrade offline-bundle/tape:app" in hint
    assert bundle("lock", "--upgrade", "offline-bundle/tape:app", *mirror, cwd=tmp_path).returncode == 0
    create(hub, tmp_path, "-f", "bundle.toml", "-o", "other.tar")


def test_an_image_that_is_locked_otherwise(hub: FakeRegistry, tmp_path: Path) -> None:
    old = digest_of(hub, "library/debian", "12")
    (tmp_path / "bundle.toml").write_text('images = ["debian:12"]\nrecords = ["app.record"]\n')
    RecordMaker(pages=PAGES).write(tmp_path / "app.record")
    mirror = ("--mirror", f"docker.io={hub.host}")
    assert bundle("lock", *mirror, cwd=tmp_path).returncode == 0
    new = hub.index(hub.image("linux/amd64", seed="new"), hub.image("linux/arm64", seed="new"))
    hub.tag("library/debian", "12", new)
    RecordMaker(pages=PAGES, images={"debian:12": new.digest}).write(tmp_path / "app.record")
    assert bundle("lock", "--upgrade", "offline-bundle/tape:app", *mirror, cwd=tmp_path).returncode == 0
    done = create(hub, tmp_path, "-f", "bundle.toml", "-o", "offline.tar", code=5)
    assert f"`debian:12` is to be {old}, and was recorded as {new.digest}" in done.stderr
    assert bundle("lock", "--upgrade", "debian:12", *mirror, cwd=tmp_path).returncode == 0
    create(hub, tmp_path, "-f", "bundle.toml", "-o", "offline.tar")


def test_a_delta_leaves_out_what_was_recorded_before(hub: FakeRegistry, tmp_path: Path) -> None:
    RecordMaker(pages={"http://x.corp/a": b"a" * 5000}, cache=(layer("one"),)).write(tmp_path / "app.record")
    create(hub, tmp_path, "debian:12", "--record", "app.record", "-o", "one.tar")
    RecordMaker(
        pages={"http://x.corp/a": b"a" * 5000, "http://x.corp/b": b"b" * 7000}, cache=(layer("one"), layer("two"))
    ).write(tmp_path / "app.record")
    create(hub, tmp_path, "debian:12", "--record", "app.record", "--base", "one.tar", "-o", "two.tar")
    with Archive(tmp_path / "two.tar") as archive:
        verify_archive(archive)
        required = {each.digest for each in archive.manifest.required}
        inside = {each.digest for each in archive.manifest.blobs}
    assert {Digest.of(b"a" * 5000), Digest.of(layer("one"))} <= required
    assert {Digest.of(b"b" * 7000), Digest.of(layer("two"))} <= inside - required
    changes = json.loads(bundle("diff", "one.tar", "two.tar", "--json", cwd=tmp_path).stdout)
    assert [entry["reference"] for entry in changes["moved"]] == ["offline-bundle/tape:app", "offline-bundle/cache:app"]
    assert changes["urls"] == {"added": ["http://x.corp/b"], "removed": [], "changed": []}
    assert "url added   http://x.corp/b" in bundle("diff", "one.tar", "two.tar", cwd=tmp_path).stdout.splitlines()


def push_cache(hub: FakeRegistry, repository: str, tag: str) -> Descriptor:
    config, manifest = cache_of((layer("cached"),))
    for data, kind in ((config, CACHE_CONFIG), (layer("cached"), "application/vnd.oci.image.layer.v1.tar+gzip")):
        hub.link(repository, hub.add(kind, data))
    return hub.tag(repository, tag, hub.add(OCI_MANIFEST, manifest))


def test_a_cache_of_the_team(hub: FakeRegistry, tmp_path: Path) -> None:
    root = push_cache(hub, "team/app", "buildcache")
    create(hub, tmp_path, "debian:12", "--cache", "team/app:buildcache", "-o", "offline.tar")
    with Archive(tmp_path / "offline.tar") as archive:
        (cache,) = archive.manifest.with_role("cache")
        assert (cache.reference.familiar, cache.root.digest) == ("team/app:buildcache", root.digest)
        verify_archive(archive)


def test_a_cache_in_a_directory(hub: FakeRegistry, tmp_path: Path) -> None:
    config, manifest = cache_of((layer("cached"),))
    entry = Descriptor.of(OCI_MANIFEST, manifest).to_json()
    write_layout(tmp_path / "ci-cache", [config, manifest, layer("cached")], [entry])
    create(hub, tmp_path, "debian:12", "--cache", "ci-cache", "-o", "offline.tar")
    with Archive(tmp_path / "offline.tar") as archive:
        (cache,) = archive.manifest.with_role("cache")
        assert cache.reference.familiar == "offline-bundle/cache:ci-cache"
        verify_archive(archive)
    assert "is no OCI image layout" in create(hub, tmp_path, "--cache", "./nowhere", code=2).stderr


@pytest.mark.parametrize("name", [".buildx-cache", "my cache", "Cache"])
def test_directories_of_caches_are_called_as_people_like(hub: FakeRegistry, tmp_path: Path, name: str) -> None:
    config, manifest = cache_of((layer("cached"),))
    write_layout(
        tmp_path / name, [config, manifest, layer("cached")], [Descriptor.of(OCI_MANIFEST, manifest).to_json()]
    )
    create(hub, tmp_path, "debian:12", "--cache", name, "-o", "offline.tar")
    old = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    write_layout(tmp_path / name, [old], [Descriptor.of(OCI_INDEX, old).to_json()])
    done = create(hub, tmp_path, "debian:12", "--cache", name, "-o", "offline.tar", code=2)
    assert "in BuildKit's old form" in done.stderr
    assert "--cache-to type=local," in done.stderr


@pytest.mark.parametrize("how", ["--cache", "image"])
def test_a_cache_in_the_old_form(hub: FakeRegistry, tmp_path: Path, how: str) -> None:
    config, _ = cache_of((layer("cached"),))
    entries = [
        Descriptor.of("application/vnd.oci.image.layer.v1.tar+gzip", layer("cached")).to_json(),
        Descriptor.of(CACHE_CONFIG, config).to_json(),
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    hub.tag("team/app", "old", hub.add(OCI_INDEX, index))
    arguments: tuple[Any, ...] = ("--cache", "team/app:old") if how == "--cache" else ("team/app:old",)
    done = create(hub, tmp_path, "debian:12", *arguments, code=5)
    assert "is a build cache in BuildKit's old form, an index whose entries are layers" in done.stderr
    assert "--cache-to type=registry,ref=team/app:old,mode=max,image-manifest=true" in done.stderr


def test_an_image_is_no_cache(hub: FakeRegistry, tmp_path: Path) -> None:
    done = create(hub, tmp_path, "--cache", "debian:12", code=5)
    assert "`debian:12` is not a build cache of BuildKit" in done.stderr
