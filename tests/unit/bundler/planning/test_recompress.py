"""Layers that create makes: of images as `docker save` writes them, and with --recompress."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import pytest
import zstandard

from bundler.definition.spec import FromDaemon, ImageRequest, Spec
from bundler.planning.plan import Plan
from bundler.planning.recompress import Recompressed, recompress
from bundler.planning.resolve import resolve
from bundler.sources import zstd
from bundler.sources.docker_save import read_saved
from bundler.sources.mirrors import Endpoint
from bundler.sources.source import BlobRequest, BlobStream, Source
from bundler.sources.spool import Local, Spool, SpooledSource, spool_beside
from bundles.errors import BundleError, ContentError, NotFoundError, UnavailableError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.progress import Silent

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
FAST = zstd.Compression(1, 1)
OCI = "application/vnd.oci.image"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def raw_layer(name: str, size: int = 50_000) -> bytes:
    """A tar that compresses well, and differs for each name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = size
        tar.addfile(info, io.BytesIO((name.encode() * size)[:size]))
    return buffer.getvalue()


def config_of(*layers: bytes, architecture: str = "amd64") -> bytes:
    diff_ids = [sha256(layer) for layer in layers]
    value = {"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    return json.dumps(value).encode()


def tar_of(*entries: tuple[str, bytes], links: tuple[tuple[str, str], ...] = ()) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return io.BytesIO(buffer.getvalue())


def blob(data: bytes) -> tuple[str, bytes]:
    return f"blobs/sha256/{hashlib.sha256(data).hexdigest()}", data


def described(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def content(spool: Spool, descriptor: dict[str, Any]) -> bytes:
    buffer = bytearray(descriptor["size"] + 1)
    with spool.open(Digest(descriptor["digest"]), 0) as stream:
        return bytes(buffer[: stream.readinto(buffer)])


def manifest_of(local: Local) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(local.documents[local.root])
    return value


def test_an_image_of_an_old_docker_becomes_an_oci_image_with_zstd_layers(tmp_path: Path) -> None:
    one, two = raw_layer("one"), raw_layer("two")
    config = config_of(one, two, one)
    stream = tar_of(
        ("a/layer.tar", one),
        ("b/layer.tar", two),
        ("b/VERSION", b"1.0"),
        ("cafe.json", config),
        (
            "manifest.json",
            json.dumps(
                [
                    {
                        "Config": "cafe.json",
                        "RepoTags": ["app:1"],
                        "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"],
                    }
                ]
            ).encode(),
        ),
        links=(("c/layer.tar", "../a/layer.tar"),),
    )
    spool = Spool(tmp_path)
    local = read_saved(stream, "app:1", spool, FAST)
    manifest = manifest_of(local)
    assert manifest["mediaType"] == f"{OCI}.manifest.v1+json"
    assert manifest["config"] == described(f"{OCI}.config.v1+json", config)
    assert [layer["mediaType"] for layer in manifest["layers"]] == [f"{OCI}.layer.v1.tar+zstd"] * 3
    unpacked = [
        zstandard.ZstdDecompressor().decompressobj().decompress(content(spool, layer)) for layer in manifest["layers"]
    ]
    assert unpacked == [one, two, one]
    assert config in local.documents.values()


def oci_save(layer: bytes, media_type: str, raw: bytes) -> tuple[io.BytesIO, bytes]:
    config = config_of(raw)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": described(f"{OCI}.config.v1+json", config),
            "layers": [described(media_type, layer)],
        }
    ).encode()
    entry = described(f"{OCI}.manifest.v1+json", manifest)
    index = json.dumps({"schemaVersion": 2, "manifests": [entry, entry]}).encode()
    return tar_of(blob(layer), blob(config), blob(manifest), ("index.json", index), ("oci-layout", b"{}")), manifest


def test_a_raw_layer_of_a_new_docker_is_compressed(tmp_path: Path) -> None:
    raw = raw_layer("one")
    stream, old = oci_save(raw, f"{OCI}.layer.v1.tar", raw)
    local = read_saved(stream, "app:1", Spool(tmp_path), FAST)
    assert local.root.digest != Digest.of(old)
    assert manifest_of(local)["layers"][0]["mediaType"] == f"{OCI}.layer.v1.tar+zstd"


def test_a_compressed_layer_stays_with_its_manifest(tmp_path: Path) -> None:
    raw = raw_layer("one")
    packed = gzip.compress(raw, mtime=0)
    stream, old = oci_save(packed, f"{OCI}.layer.v1.tar+gzip", raw)
    spool = Spool(tmp_path)
    local = read_saved(stream, "app:1", spool, FAST)
    assert local.documents[local.root] == old
    assert content(spool, described("", packed)) == packed


def test_a_layer_that_is_not_the_one_of_the_config_is_refused() -> None:
    manifest = json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": ["a/layer.tar"]}]).encode()
    stream = tar_of(
        ("a/layer.tar", raw_layer("other")), ("c.json", config_of(raw_layer("one"))), ("manifest.json", manifest)
    )
    with pytest.raises(
        ContentError, match=r"layer 0 of Docker's `app:1` has the digest sha256:.*its config says sha256:"
    ):
        read_saved(stream, "app:1", Spool(None), FAST)


@pytest.mark.parametrize("kind", ["layer", "config"])
def test_content_that_differs_from_its_name_is_refused(kind: str) -> None:
    raw = raw_layer("one")
    stream, _ = oci_save(raw, f"{OCI}.layer.v1.tar", raw)
    data = stream.getvalue()
    old, new = (b"oneone", b"oneOne") if kind == "layer" else (b'"linux"', b'"linus"')
    with pytest.raises(ContentError, match="from Docker's `app:1` has the digest"):
        read_saved(io.BytesIO(data.replace(old, new, 1)), "app:1", Spool(None), FAST)


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100, tar_of(("manifest.json", b"[]")).getvalue()])
def test_what_docker_save_does_not_write_is_an_error(data: bytes) -> None:
    with pytest.raises(ContentError, match="what Docker gave for `app:1` cannot be read"):
        read_saved(io.BytesIO(data), "app:1", Spool(None), FAST)


class MemorySource(Source):
    """Images in memory: documents by digest, names, and blobs. Says which blobs were fetched, and may refuse one."""

    def __init__(self) -> None:
        self.names: dict[Reference, Descriptor] = {}
        self.data: dict[Digest, bytes] = {}
        self.opened: list[Digest] = []
        self.refused: Optional[Digest] = None

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        known = self.names.get(dataclasses.replace(reference, digest=None)) if reference.tag else None
        digest = known.digest if known else reference.digest
        if digest is None or digest not in self.data:
            raise NotFoundError(f"no {reference}")
        value = json.loads(self.data[digest])
        return Descriptor.of(value["mediaType"], self.data[digest]), self.data[digest]

    def open_blob(self, request: BlobRequest) -> BlobStream:
        digest = request.descriptor.digest
        if digest == self.refused:
            raise UnavailableError("gone")
        self.opened.append(digest)
        return MemoryStream(self.data[digest][request.offset :])

    def cancel(self) -> None:
        pass

    def put(self, media_type: str, data: bytes) -> dict[str, Any]:
        self.data[Digest.of(data)] = data
        return described(media_type, data)


class MemoryStream(BlobStream):
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    @property
    def endpoint(self) -> Optional[Endpoint]:
        return None

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def close(self) -> None:
        pass


def registry_image(source: MemorySource, name: str, diff_id: Optional[str] = None) -> Reference:
    """A Docker manifest list of two platforms and one that nobody has, gzip layers."""
    entries = []
    docker = "application/vnd.docker"
    for platform in (AMD64, ARM64):
        raw = raw_layer(f"{name}-{platform.architecture}")
        config = config_of(raw, architecture=platform.architecture)
        if diff_id:
            config = config.replace(sha256(raw).encode(), diff_id.encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{docker}.distribution.manifest.v2+json",
            "config": source.put(f"{docker}.container.image.v1+json", config),
            "layers": [source.put(f"{docker}.image.rootfs.diff.tar.gzip", gzip.compress(raw, 1, mtime=0))],
        }
        entry = source.put(str(manifest["mediaType"]), json.dumps(manifest).encode())
        entries.append({**entry, "platform": platform.to_json()})
    absent = described(f"{docker}.distribution.manifest.v2+json", b"{}")
    entries.append({**absent, "platform": {"os": "linux", "architecture": "s390x"}})
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": f"{docker}.distribution.manifest.list.v2+json", "manifests": entries}
    ).encode()
    source.put("", index)
    reference = Reference.parse(name)
    source.names[reference] = Descriptor.of(f"{docker}.distribution.manifest.list.v2+json", index)
    return reference


def planned(source: MemorySource, *wanted: ImageRequest) -> Plan:
    return resolve(Spec("test", (AMD64, ARM64), (AMD64,), wanted, {}, False), source)


def test_recompressing_makes_base_images_smaller_and_leaves_the_toolchain(tmp_path: Path) -> None:
    source = MemorySource()
    base, tool = registry_image(source, "debian:12"), registry_image(source, "registry:3")
    plan = planned(source, ImageRequest(base, "base", (AMD64, ARM64)), ImageRequest(tool, "registry", (AMD64,)))
    spooled = SpooledSource(source, Spool(tmp_path))
    result = recompress(plan, spooled, zstd.Compression(19, 1), Silent(), 2)
    new, same = result.plan.images
    assert same == plan.images[1]
    assert list(result.digests) == [base]
    assert result.digests[base] == (plan.images[0].root.digest, new.root.digest)
    assert any("signatures" in note and "do not apply to the new ones" in note for note in result.notes())
    assert 0 < result.saved == plan.layer_size - result.plan.layer_size
    assert not new.sparse
    documents = {descriptor.digest: data for descriptor, data in result.plan.documents}
    index = json.loads(documents[new.root.digest])
    assert index["mediaType"] == f"{OCI}.index.v1+json"
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
    for entry in index["manifests"]:
        manifest = json.loads(documents[Digest(entry["digest"])])
        config = json.loads(documents[Digest(manifest["config"]["digest"])])
        assert manifest["config"]["mediaType"] == f"{OCI}.config.v1+json"
        (layer,) = manifest["layers"]
        assert layer["mediaType"] == f"{OCI}.layer.v1.tar+zstd"
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(content(spooled.spool, layer))
        assert [sha256(raw)] == config["rootfs"]["diff_ids"]
    # What the plan names is what the source serves.
    assert spooled.manifest(base)[0].digest == new.root.digest
    assert plan.images[0].root.digest not in documents


def test_a_layer_that_the_toolchain_has_too_stays_what_it_is() -> None:
    """As that of debian:12, on which python:3-slim is built."""
    source = MemorySource()
    base, tool = registry_image(source, "debian:12"), Reference.parse("registry:3")
    source.names[tool] = source.names[base]
    plan = planned(source, ImageRequest(base, "base", (AMD64, ARM64)), ImageRequest(tool, "registry", (AMD64,)))
    result = recompress(plan, SpooledSource(source, Spool(None)), zstd.Compression(19, 1), Silent(), 2)
    old = [{layer.digest for layer, _ in each.layers} for each in (plan, result.plan)]
    assert len(old[0] & old[1]) == 1
    assert len(old[1]) == 2
    assert result.saved > 0


def test_a_layer_that_does_not_fit_its_config_is_not_recompressed_nor_kept(tmp_path: Path) -> None:
    source = MemorySource()
    base = registry_image(source, "debian:12", diff_id="sha256:" + "0" * 64)
    plan = planned(source, ImageRequest(base, "base", (AMD64,)))
    with pytest.raises(ContentError, match="and its image's config says sha256:000"):
        recompress(plan, SpooledSource(source, Spool(tmp_path)), FAST, Silent(), 1)
    assert list(tmp_path.glob("*.made")) == []


@pytest.fixture
def fetched() -> tuple[MemorySource, Plan, list[Digest]]:
    """A source, and what is to be recompressed of it: two layers, in this order."""
    source = MemorySource()
    base = registry_image(source, "debian:12")
    plan = planned(source, ImageRequest(base, "base", (AMD64, ARM64)))
    return source, plan, sorted(layer.digest for layer, _ in plan.layers)


def digests(result: Recompressed) -> list[Digest]:
    return [descriptor.digest for descriptor, _ in result.plan.documents]


def test_what_was_recompressed_before_a_failure_is_not_fetched_again(
    fetched: tuple[MemorySource, Plan, list[Digest]], tmp_path: Path
) -> None:
    source, plan, layers = fetched
    undisturbed = recompress(plan, SpooledSource(source, Spool(None)), FAST, Silent(), 1)
    source.refused = layers[1]
    with pytest.raises(UnavailableError):
        recompress(plan, SpooledSource(source, Spool(tmp_path)), FAST, Silent(), 1)
    source.refused, source.opened = None, []
    spooled = SpooledSource(source, Spool(tmp_path))
    result = recompress(plan, spooled, FAST, Silent(), 1)
    assert source.opened == [layers[1]]
    assert digests(result) == digests(undisturbed)
    for layer, _ in result.plan.layers:
        assert sha256(content(spooled.spool, layer.to_json())) == str(layer.digest)
    # Another level is another layer.
    source.opened = []
    recompress(plan, SpooledSource(source, Spool(tmp_path)), zstd.Compression(2, 1), Silent(), 1)
    assert source.opened == layers


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:40] + bytes(len(data) - 40),
        lambda data: bytes(len(data)),
        lambda data: data + b"more",
        lambda data: b"".join(zstd.compress(iter([b"other content"]), FAST)),
    ],
    ids=["empty", "short", "zeros behind", "zeros", "longer", "other"],
)
def test_a_kept_layer_that_is_not_what_it_was_is_made_again(
    fetched: tuple[MemorySource, Plan, list[Digest]], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    source, plan, layers = fetched
    before = recompress(plan, SpooledSource(source, Spool(tmp_path)), FAST, Silent(), 1)
    (kept,) = tmp_path.glob(f"{layers[0].hex}-*.made")
    kept.write_bytes(damage(kept.read_bytes()))
    source.opened = []
    spooled = SpooledSource(source, Spool(tmp_path))
    after = recompress(plan, spooled, FAST, Silent(), 1)
    assert source.opened == [layers[0]]
    assert digests(after) == digests(before)
    for layer, _ in after.plan.layers:
        assert sha256(content(spooled.spool, layer.to_json())) == str(layer.digest)


def test_a_planted_layer_is_not_taken_up(fetched: tuple[MemorySource, Plan, list[Digest]], tmp_path: Path) -> None:
    """Its name fits the layer and its own bytes, but it holds something else than the image's config says."""
    source, plan, layers = fetched
    undisturbed = recompress(plan, SpooledSource(source, Spool(None)), FAST, Silent(), 1)
    planted = b"".join(zstd.compress(iter([b"a back door"]), FAST))
    for layer in layers:
        (tmp_path / f"{layer.hex}-{FAST.level}.{Digest.of(planted).hex}.made").write_bytes(planted)
    source.opened = []
    result = recompress(plan, SpooledSource(source, Spool(tmp_path)), FAST, Silent(), 1)
    assert sorted(source.opened) == layers
    assert digests(result) == digests(undisturbed)


def test_two_layers_that_become_the_same_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for _ in range(2):
        spool.add("x", iter([b"made"]))
    for origin in ("a", "b"):
        spool.keep(Digest.of(b"made"), origin)
    assert content(spool, described("x", b"made")) == b"made"


def test_only_what_was_recompressed_waits_for_the_next_run(tmp_path: Path) -> None:
    target = tmp_path / "offline.tar"
    spec = Spec("test", (AMD64,), (AMD64,), (), {}, False, recompress=True)
    directory = tmp_path / "offline.tar.spool"
    with pytest.raises(ZeroDivisionError), spool_beside(target, spec, Silent()) as spool:
        spool.add("x", iter([b"of the local Docker"]))
        made = spool.add("x", iter([b"made"]))
        spool.keep(made.digest, "aa-1")
        with pytest.raises(BundleError, match="being written by another"), spool_beside(target, spec, Silent()):
            pass
        raise ZeroDivisionError
    assert [path.name for path in directory.iterdir()] == [f"aa-1.{made.digest.hex}.made"]
    assert directory.stat().st_mode & 0o777 == 0o700
    # As a killed run leaves it.
    (directory / "tmp.unfinished").write_bytes(b"x")
    (directory / "notes.txt").write_text("somebody's")
    with spool_beside(target, spec, Silent()):
        assert sorted(path.name for path in directory.iterdir()) == [f"aa-1.{made.digest.hex}.made", "notes.txt"]
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]
    (directory / "notes.txt").unlink()
    # A run that makes nothing removes it too, and makes none.
    for _ in range(2):
        with spool_beside(target, dataclasses.replace(spec, recompress=False), Silent()):
            pass
        assert not directory.exists()


@pytest.mark.parametrize(("there", "says"), [("file", "cannot be written"), ("link", "is a link")])
def test_no_spool_where_something_else_is(tmp_path: Path, there: str, says: str) -> None:
    place, other = tmp_path / "offline.tar.spool", tmp_path / "other"
    other.mkdir()
    (other / "aa-1.made").write_bytes(b"kept")
    if there == "file":
        place.write_text("x")
    else:
        place.symlink_to(other)
    spec = Spec("test", (AMD64,), (AMD64,), (), {}, False, recompress=True)
    with (
        pytest.raises(UsageError, match=rf"offline\.tar\.spool` {says}"),
        spool_beside(tmp_path / "offline.tar", spec, Silent()),
    ):
        pass
    assert (other / "aa-1.made").exists()


@pytest.mark.parametrize("rootfs", ["layers", ["x"], 5, {"diff_ids": 5}, {"diff_ids": "x"}, {"diff_ids": [5]}])
def test_a_config_with_a_strange_rootfs_is_not_recompressed(rootfs: Any) -> None:
    source = MemorySource()
    config = {"os": "linux", "architecture": "amd64", "rootfs": rootfs}
    layer = source.put(f"{OCI}.layer.v1.tar+gzip", gzip.compress(raw_layer("x")))
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": source.put(f"{OCI}.config.v1+json", json.dumps(config).encode()),
        "layers": [layer],
    }
    data = json.dumps(manifest).encode()
    source.put("", data)
    base = Reference.parse("debian:12")
    source.names[base] = Descriptor.of(f"{OCI}.manifest.v1+json", data)
    plan = planned(source, ImageRequest(base, "base", (AMD64,)))
    with pytest.raises(ContentError, match="`rootfs` that is none"):
        recompress(plan, SpooledSource(source, Spool(None)), FAST, Silent(), 1)


def test_what_from_daemon_takes() -> None:
    assert FromDaemon.parse("app:1") == FromDaemon(Reference.parse("app:1"), (Reference.parse("app:1"),))
    merged = FromDaemon.parse("team/app:1=app-amd64:1,app-arm64:1")
    assert merged.reference == Reference.parse("team/app:1")
    assert merged.sources == (Reference.parse("app-amd64:1"), Reference.parse("app-arm64:1"))
    for text in ("", "=app:1", "a:1,b:1", "app:1=", "app@sha256:" + "0" * 64):
        with pytest.raises(UsageError):
            FromDaemon.parse(text)


def test_a_spool_that_keeps_nothing_knows_the_same_digests(tmp_path: Path) -> None:
    raw = raw_layer("one")
    results = []
    for spool in (Spool(None), Spool(tmp_path)):
        stream, _ = oci_save(raw, f"{OCI}.layer.v1.tar", raw)
        results.append(read_saved(stream, "app:1", spool, FAST).root)
    assert results[0] == results[1]
    assert [path.name for path in tmp_path.iterdir()] != []


def python_image(source: MemorySource, size: int, *shared: Descriptor) -> Reference:
    """An image of one platform with a layer of that size, which nobody fetches here, and shared ones."""
    layer = {"mediaType": f"{OCI}.layer.v1.tar+gzip", "digest": sha256(str(size).encode()), "size": size}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": source.put(f"{OCI}.config.v1+json", config_of()),
        "layers": [layer, *(descriptor.to_json() for descriptor in shared)],
    }
    data = json.dumps(manifest).encode()
    source.put("", data)
    reference = Reference.parse("python:3-slim")
    source.names[reference] = Descriptor.of(str(manifest["mediaType"]), data)
    return reference


@pytest.mark.parametrize(
    ("size", "optional", "taken"), [(59_999_999, True, True), (60_000_000, True, False), (60_000_000, False, True)]
)
def test_an_optional_image_is_taken_up_to_60_mb_of_its_own(size: int, optional: bool, taken: bool) -> None:
    source = MemorySource()
    base = registry_image(source, "debian:12")
    (amd64, _) = (layer for layer, _ in planned(source, ImageRequest(base, "base", (AMD64, ARM64))).layers)
    python = python_image(source, size, amd64)
    wanted = ImageRequest(python, "python", (AMD64,), optional=optional)
    plan = planned(source, wanted, ImageRequest(base, "base", (AMD64, ARM64)))
    assert [image.role for image in plan.images] == (["python", "base"] if taken else ["base"])
    assert size in [layer.size for layer, _ in plan.layers] or not taken
    said = " ".join(plan.notes)
    assert ("goes along; --without python leaves it out" in said) == (taken and optional)
    assert ("is left out because it costs 57.2 MiB or more; --with-python takes it along" in said) == (not taken)


def test_an_optional_image_that_does_not_exist_is_left_out_and_one_that_was_asked_for_is_not() -> None:
    source = MemorySource()
    base, python = registry_image(source, "debian:12"), Reference.parse("python:3-slim")
    plan = planned(
        source, ImageRequest(python, "python", (AMD64,), optional=True), ImageRequest(base, "base", (AMD64,))
    )
    assert [image.role for image in plan.images] == ["base"]
    assert plan.notes[-1].startswith("python:3-slim (python) is left out: ")
    with pytest.raises(NotFoundError):
        planned(source, ImageRequest(python, "python", (AMD64,)), ImageRequest(base, "base", (AMD64,)))
