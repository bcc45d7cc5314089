"""Hostile and damaged archives: whatever the bytes, an error of ours, nothing written, memory bounded."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from hypothesis import example as sample_of

from bundler.definition.spec import ImageRequest, Spec
from bundler.planning.resolve import resolve
from bundler.writing.journal import Journal
from bundler.writing.writer import ArchiveWriter
from bundles.archive.layout import header, padding
from bundles.archive.manifest import BundleManifest
from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents, verify_archive
from bundles.errors import ArchiveError, BundleError, DamagedArchiveError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_index, parse_manifest, walk
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from tests.support.archives import AMD64, ContentSource, Made, example, image, made
from tests.support.images import Content, layer

_ANY_JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
    max_leaves=10,
)
_FAST = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def sample() -> Made:
    return example()


@pytest.fixture(scope="module")
def whole(sample: Made, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return sample.write(tmp_path_factory.mktemp("whole") / "offline.tar").path.read_bytes()


def entries(data: bytes) -> list[tuple[int, int]]:
    """Start and end of each tar entry."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member.offset, member.offset_data + member.size + padding(member.size)) for member in tar]


def refused(path: Path, data: bytes, also: type[Exception] = ArchiveError) -> None:
    """Write `data` and make sure that it is an error to verify it."""
    path.write_bytes(data)
    with pytest.raises(also), Archive(path) as archive:
        verify_archive(archive)


def with_manifest(whole: bytes, manifest: bytes) -> bytes:
    """The archive with another bundle.json and the checksum that belongs to it."""
    line = f"{Digest.of(manifest).hex}  bundle.json\n".encode()
    _, end = entries(whole)[2]
    return (
        whole[:1024]
        + header("bundle.json.sha256", len(line))
        + line.ljust(512, b"\0")
        + header("bundle.json", len(manifest))
        + manifest
        + bytes(padding(len(manifest)))
        + whole[end:]
    )


def manifest_of(whole: bytes) -> Any:
    (start, _) = entries(whole)[2]
    return json.loads(whole[start + 512 :].partition(b"\0")[0])


# The frame


def test_truncation_at_every_entry(whole: bytes, tmp_path: Path) -> None:
    for start, end in entries(whole):
        for size in (start, start + 1, start + 512, end - 1):
            refused(tmp_path / "offline.tar", whole[:size])


def test_entries_left_out_doubled_or_exchanged(whole: bytes, tmp_path: Path) -> None:
    found = entries(whole)
    for number, (start, end) in enumerate(found):
        refused(tmp_path / "offline.tar", whole[:start] + whole[end:])
        refused(tmp_path / "offline.tar", whole[:end] + whole[start:])
        if number + 1 < len(found):
            after = found[number + 1][1]
            refused(tmp_path / "offline.tar", whole[:start] + whole[end:after] + whole[start:end] + whole[after:])


def entry(name: str, data: bytes = b"", **changes: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in changes.items():
        setattr(info, key, value)
    format = tarfile.PAX_FORMAT if "pax_headers" in changes else tarfile.GNU_FORMAT
    return info.tobuf(format) + data + bytes(padding(len(data)))


@pytest.mark.parametrize(
    "odd",
    [
        entry("/etc/cron.d/evil", b"x"),
        entry("../../evil", b"x"),
        entry("blobs/../../evil", b"x"),
        entry("evil", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("evil", type=tarfile.LNKTYPE, linkname="oci-layout"),
        entry("evil", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("evil", type=tarfile.FIFOTYPE),
        entry("evil/", type=tarfile.DIRTYPE),
        entry("evil", b"x", pax_headers={"path": "/etc/evil", "size": "99999"}),
        entry("x" * 300, b"x"),
        entry("evil", type=b"S"),
        entry("oci-layout", b'{"imageLayoutVersion":"9"}'),
        entry("bundle.json", b"{}"),
    ],
    ids=["absolute", "dotdot", "dotdot-inside", "symlink", "hardlink", "device", "fifo", "directory", "pax", "longname",
         "sparse", "second-layout", "second-manifest"],
)  # fmt: skip
def test_odd_entries_anywhere_are_refused_and_nothing_is_written(whole: bytes, tmp_path: Path, odd: bytes) -> None:
    path = tmp_path / "offline.tar"
    found = entries(whole)
    for start, end in (found[0], found[2], found[3], found[-1]):
        refused(path, whole[:start] + odd + whole[start:])
        refused(path, whole[:end] + odd + whole[end:])
        # In the place of what belongs there, and of the same length where that can be.
        refused(path, whole[:start] + odd + whole[min(start + len(odd), end) :])
    assert list(tmp_path.iterdir()) == [path]


def test_headers_that_tar_takes_and_the_format_does_not(whole: bytes, tmp_path: Path) -> None:
    """Other modes, owners, times and magics change nothing that is installed; they are still not what was written."""
    start = entries(whole)[-1][0]
    name = whole[start : start + 100].rstrip(b"\0").decode()
    size = entries(whole)[-1][1] - start - 512
    for changes in ({"mode": 0o777}, {"uid": 1000}, {"mtime": 1}, {"uname": "root"}):
        info = tarfile.TarInfo(name)
        info.size = size
        for key, value in changes.items():
            setattr(info, key, value)
        refused(tmp_path / "offline.tar", whole[:start] + info.tobuf(tarfile.GNU_FORMAT) + whole[start + 512 :])


def test_a_damaged_program_is_found(whole: bytes, tmp_path: Path) -> None:
    for offset in range(1, 23):
        data = bytearray(whole)
        data[-offset] ^= 1
        refused(tmp_path / "offline.tar", bytes(data))


# bundle.json

Change = Callable[[Any], object]
CHANGES: dict[str, Change] = {
    "a blob too large": lambda value: value["blobs"][0].update(size=1 << 62),
    "a blob too small": lambda value: value["blobs"][0].update(size=1),
    "a negative size": lambda value: value["blobs"][0].update(size=-1),
    "a size that is true": lambda value: value["blobs"][0].update(size=True),
    "a size as text": lambda value: value["blobs"][0].update(size="10"),
    "sha512": lambda value: value["blobs"][0].update(digest="sha512:" + "0" * 128),
    "capital digits": lambda value: value["blobs"][0].update(digest=value["blobs"][0]["digest"].upper()),
    "digits of another script": lambda value: value["blobs"][0].update(digest="sha256:" + "\u0660" * 64),
    "a path as digest": lambda value: value["blobs"][0].update(digest="sha256:../../../../etc/passwd"),
    "a line feed behind a digest": lambda value: value["blobs"][0].update(digest=value["blobs"][0]["digest"] + "\n"),
    "a blob twice": lambda value: value["blobs"].append(value["blobs"][0]),
    "a blob less": lambda value: value["blobs"].pop(),
    "no blobs": lambda value: value.update(blobs=[]),
    "blobs as a table": lambda value: value.update(blobs={}),
    "another file": lambda value: value["files"].append({**value["files"][0], "name": "../evil"}),
    "a file that is /etc/passwd": lambda value: value["files"][0].update(name="/etc/passwd"),
    "a file twice": lambda value: value["files"].append(value["files"][0]),
    "a huge file": lambda value: value["files"][0].update(size=1 << 60),
    "a signature that is not there": lambda value: value.update(signed=True),
    "a role": lambda value: value["images"][0].update(role="root"),
    "an image twice": lambda value: value["images"].append(value["images"][0]),
    "another digest for an image": lambda value: value["images"][0].update(digest="sha256:" + "0" * 64),
    "a name with a slash": lambda value: value.update(name="../evil"),
    "a reference that is none": lambda value: value["images"][0].update(reference="UPPER CASE"),
    "format 0": lambda value: value.update(format=0),
    "format true": lambda value: value.update(format=True),
    "a huge program": lambda value: value["program"].update(size=1 << 60),
    "no program": lambda value: value.pop("program"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_bundle_json_with_the_right_checksum_and_the_wrong_content(
    whole: bytes, tmp_path: Path, change: Change
) -> None:
    value = copy.deepcopy(manifest_of(whole))
    change(value)
    refused(tmp_path / "offline.tar", with_manifest(whole, json.dumps(value).encode()))


def test_a_bundle_json_that_leaves_out_what_an_image_needs(whole: bytes, tmp_path: Path) -> None:
    """The layout and all digests are right, and still a manifest's layer is missing."""
    value = copy.deepcopy(manifest_of(whole))
    gone = value["blobs"].pop()
    found = entries(with_manifest(whole, json.dumps(value).encode()))
    data = with_manifest(whole, json.dumps(value).encode())
    start, end = found[-1]
    path = tmp_path / "offline.tar"
    path.write_bytes(data[:start] + data[end:])
    with Archive(path) as archive, pytest.raises(DamagedArchiveError, match=gone["digest"]):
        check_documents(archive)


@pytest.mark.parametrize(
    "manifest",
    [b"{" * 100_000, b"[" * 200_000, b'{"a":' * 90_000, b"null", b"[]", b'"x"', b"\xff\xfe", b"{}", b"1" * 5000,
     b'{"format": 1e999}', b'{"format": NaN}', b'{"format": 1, "format": 1}'],
    ids=range(12),
)  # fmt: skip
def test_a_bundle_json_that_is_no_manifest(whole: bytes, tmp_path: Path, manifest: bytes) -> None:
    refused(tmp_path / "offline.tar", with_manifest(whole, manifest))


_MEASURED = """
import resource, sys
from pathlib import Path
from bundles.errors import ArchiveError
from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with Archive(Path(sys.argv[1])) as archive:
        verify_archive(archive)
except ArchiveError as error:
    print(type(error).__name__)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def measured(path: Path) -> tuple[list[str], int]:
    """What verifying an archive ends with, and by how many KiB it made the process grow."""
    done = subprocess.run([sys.executable, "-c", _MEASURED, path], capture_output=True, text=True, check=True)
    *said, grown = done.stdout.split()
    return said, int(grown)


def test_a_bundle_json_of_100_mb_is_not_read_into_memory(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    path.write_bytes(with_manifest(whole, b'{"format": 1, "x": "' + b"x" * 100_000_000 + b'"}'))
    said, grown = measured(path)
    assert said == ["DamagedArchiveError"]
    assert grown < 40_000


def test_a_document_of_100_mb_is_not_parsed(tmp_path: Path) -> None:
    """An index that is a blob of 100 MB: hashed in pieces, as every blob, and never taken as a document."""
    made = example()
    contents = made.contents()
    huge = b'{"schemaVersion":2,"manifests":[' + b" " * 100_000_000 + b"]}"
    image = contents.manifest.images[1]
    root = Descriptor.of(image.root.media_type, huge)
    blobs = tuple(root if blob.digest == image.root.digest else blob for blob in contents.manifest.blobs)
    changed = dataclasses.replace(image, root=root)
    images = tuple(changed if each is image else each for each in contents.manifest.images)
    documents = {
        root.digest: huge,
        **{key: data for key, data in contents.documents.items() if key != image.root.digest},
    }
    manifest = dataclasses.replace(contents.manifest, images=images, blobs=blobs)
    path = tmp_path / "offline.tar"
    made.write(path, dataclasses.replace(contents, manifest=manifest, documents=documents))
    said, grown = measured(path)
    assert said == ["DamagedArchiveError"]
    assert grown < 60_000


# Parsers, whatever comes


@_FAST
@given(strategies.binary(max_size=3000))
def test_any_bytes_as_an_archive(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path / "file", data)


@_FAST
@given(strategies.data())
def test_any_change_of_the_metadata_is_found(whole: bytes, tmp_path: Path, data: strategies.DataObject) -> None:
    limit = entries(whole)[8][1]
    start = data.draw(strategies.integers(0, limit))
    end = data.draw(strategies.integers(start, min(start + 600, limit)))
    new = data.draw(strategies.binary(max_size=600))
    changed = whole[:start] + new + whole[end:]
    if changed != whole:
        refused(tmp_path / "offline.tar", changed)


@_FAST
@given(_ANY_JSON)
def test_any_json_as_a_manifest(value: Any) -> None:
    with pytest.raises(ArchiveError):
        BundleManifest.parse(json.dumps(value).encode())


@_FAST
@given(strategies.data())
def test_any_value_anywhere_in_a_manifest(whole: bytes, data: strategies.DataObject) -> None:
    value = copy.deepcopy(manifest_of(whole))
    place = value
    while True:
        key = data.draw(strategies.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(strategies.booleans()):
            break
        place = place[key]
    place[key] = data.draw(_ANY_JSON)
    try:
        manifest = BundleManifest.parse(json.dumps(value).encode())
    except ArchiveError:
        return
    assert BundleManifest.parse(manifest.to_bytes()) == manifest


@_FAST
@given(strategies.text())
@sample_of("sha256:" + "0" * 63 + "\n")
@sample_of("sha256:" + "٣" * 64)
def test_any_text_as_digest_reference_and_platform(text: str) -> None:
    parsers: list[Callable[[str], Any]] = [Digest, Reference.parse, Platform.parse]
    for parse in parsers:
        try:
            value = parse(text)
        except UsageError:
            continue
        assert parse(str(value)) == value


@_FAST
@given(
    _ANY_JSON
    | strategies.fixed_dictionaries({"manifests": _ANY_JSON})
    | strategies.fixed_dictionaries({"layers": _ANY_JSON, "config": _ANY_JSON})
)
def test_any_json_as_index_and_image_manifest(value: Any) -> None:
    for parse in (parse_index, parse_manifest):
        try:
            parse(json.dumps(value).encode())
        except UsageError:
            continue


@_FAST
@given(strategies.binary(max_size=2000), strategies.booleans())
def test_any_bytes_as_a_journal(sample: Made, tmp_path: Path, data: bytes, ours: bool) -> None:
    digest = Digest.of(b"bundle")
    path = tmp_path / "journal"
    path.write_bytes((f"bundle {digest} whole\n".encode() if ours else b"") + data)
    journal = Journal(path, digest)
    assert all(isinstance(claim, Digest) and size >= 0 for claim, size in journal.claims.items())
    other = Digest.of(b"other")
    journal.begin()
    journal.synced({other: 5})
    journal.close()
    again = Journal(path, digest)
    assert again.claims[other] == 5
    again.remove()


def test_a_journal_may_claim_anything(sample: Made, tmp_path: Path) -> None:
    """More than the blob has, or blobs that are not in the archive."""
    path = tmp_path / "offline.tar"
    with ArchiveWriter(path, sample.contents()) as writer:
        writer.journal.synced({layer.digest: 1 << 60 for layer in writer.layers} | {Digest.of(b"other"): 7})
    assert sample.write(path).path.read_bytes() == sample.write(tmp_path / "fresh.tar").path.read_bytes()


def test_errors_are_of_one_family() -> None:
    assert issubclass(ArchiveError, BundleError)


# A manifest that agrees with itself, and lies


@pytest.mark.parametrize(
    "bend",
    [
        lambda value: value["images"][1].update(platforms=value["images"][2]["platforms"]),
        lambda value: value["images"][1]["platforms"][0].update(contentSize=-1),
        lambda value: value["images"][1]["platforms"][0].update(contentSize=True),
        lambda value: value["images"][1]["platforms"][0].update(contentSize=10**400),
        lambda value: value["tool"].update(version="1\x1b[3Ahidden"),
        lambda value: value["tool"].update(version="\ud800"),
    ],
)
def test_a_manifest_that_lies_is_refused(whole: bytes, tmp_path: Path, bend: Callable[[Any], None]) -> None:
    value = manifest_of(whole)
    bend(value)
    refused(tmp_path / "offline.tar", with_manifest(whole, json.dumps(value).encode()), DamagedArchiveError)


def test_a_manifest_with_another_size_than_its_layer_has(tmp_path: Path) -> None:
    """All digests are right, and installing would find out in the middle."""
    content = Content()
    data = layer("odd")
    blob = content.add("application/vnd.oci.image.layer.v1.tar+gzip", data)
    config = content.add("application/vnd.oci.image.config.v1+json", json.dumps(AMD64.to_json()).encode())
    listed = dataclasses.replace(blob, size=blob.size + 5)
    tags = {"odd:1": content.index(content.manifest(config, [listed], platform=AMD64))}
    source = ContentSource(content, tags)
    wanted = (ImageRequest(Reference.parse("odd:1"), "base", (AMD64,)),)
    spec = Spec("test", (AMD64,), (AMD64,), wanted, {}, False)
    plan = resolve(spec, source)
    ((_, at),) = plan.layers
    bent = Made(dataclasses.replace(plan, layers=((blob, at),)), {blob.digest: data}, source, spec)
    path = bent.write(tmp_path / "offline.tar").path
    with Archive(path) as archive, pytest.raises(DamagedArchiveError, match=f"says that it has {blob.size + 5} bytes"):
        verify_archive(archive)


def test_what_is_shared_is_walked_once() -> None:
    """An index that lists the same index many times, over and over, is no more work than its documents."""
    kind = "application/vnd.oci.image.index.v1+json"
    documents: dict[Digest, bytes] = {}
    child = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"{}"), 2)
    for _ in range(20):
        data = json.dumps({"manifests": [child.to_json()] * 30}).encode()
        child = Descriptor.of(kind, data)
        documents[child.digest] = data
    seen = list(walk(child, lambda item: documents[item.digest], lambda item: item.digest in documents))
    assert len(seen) == 1 + 19 * 30


def test_what_a_manifest_refers_to_is_a_leaf() -> None:
    layer = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"layer"), 5)
    config = Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(b"{}"), 2)
    data = json.dumps({"config": config.to_json(), "layers": [layer.to_json()]}).encode()
    root = Descriptor.of("application/vnd.oci.image.manifest.v1+json", data)
    seen = [item.digest for item, _ in walk(root, lambda item: {root.digest: data}[item.digest], lambda _: True)]
    assert seen == [root.digest, config.digest, layer.digest]


def test_many_names_of_a_damaged_image_are_looked_at_once(tmp_path: Path, document_reads: list[Digest]) -> None:
    names = [f"app{number:02}:1" for number in range(25)]
    path = made(*map(image, names)).write(tmp_path / "a.tar").path
    with Archive(path) as archive:
        manifest = archive.manifest.images[0].platforms[1].manifest
        offset = archive.layout.blob(manifest.digest).data_offset
    data = bytearray(path.read_bytes())
    data[offset + 5] ^= 1
    path.write_bytes(data)
    document_reads.clear()
    with Archive(path) as archive, pytest.raises(DamagedArchiveError) as caught:
        verify_archive(archive)
    (problem,) = caught.value.problems
    assert f"used by {', '.join(names[:20])} and 5 more)" in problem.subject
    assert max(map(document_reads.count, document_reads)) < 10
