"""What leaves an archive: to the byte what it has, or a reason for each image."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from bundler.definition.spec import ImageRequest, Spec
from bundler.planning.delta import read_base, subtract
from bundler.planning.resolve import resolve
from bundles.archive import export as export_module
from bundles.archive.export import Export, as_layout, for_docker
from bundles.archive.manifest import Image
from bundles.archive.reader import Archive
from bundles.errors import DamagedArchiveError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from tests.support.archives import AMD64, ARM64, ContentSource, Made, example, image, made
from tests.support.images import Content, layer

MANY = tuple(f"app{number}:1" for number in range(20))
RISCV64 = Platform("linux", "riscv64")
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"


def written(
    path: Path,
    content: Content,
    tags: Mapping[str, Descriptor],
    role: str = "base",
    platforms: Sequence[Platform] = (AMD64, ARM64),
) -> Path:
    """An archive of what the tags stand for, with attestations."""
    source = ContentSource(content, tags)
    wanted = tuple(ImageRequest(Reference.parse(name), role, tuple(platforms)) for name in tags)
    spec = Spec("test", tuple(platforms), (AMD64,), wanted, {}, True)
    plan = resolve(spec, source)
    layers = {descriptor.digest: content.data(descriptor) for descriptor, _ in plan.layers}
    return Made(plan, layers, source, spec).write(path).path


def named(archive: Archive, *names: str) -> list[Image]:
    return [each for name in names for each in archive.manifest.images if each.reference.familiar == name]


def entries(export: Export, archive: Archive) -> dict[str, bytes]:
    """The files of the tar; every blob has the bytes of its name, none comes twice, and the size was known."""
    data = b"".join(export.tar.stream(archive, lambda count: None))
    assert len(data) == export.tar.size
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        found = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert len(found) == len(names)
    for name, content in found.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(content).hexdigest() == name[len("blobs/sha256/") :]
    return found


def index_of(files: Mapping[str, bytes]) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = json.loads(files["index.json"])["manifests"]
    return entries


def test_a_layout_has_an_image_as_it_is(tmp_path: Path) -> None:
    content = Content()
    amd64, arm64 = content.image(AMD64, 1), content.image(ARM64, 2)
    root = content.index(amd64, arm64, content.attestation(amd64))
    with Archive(written(tmp_path / "a.tar", content, {"debian:12": root})) as archive:
        export = as_layout(archive, named(archive, "debian:12"), ())
        files = entries(export, archive)
    name = "docker.io/library/debian:12"
    assert index_of(files) == [
        {
            "mediaType": root.media_type,
            "digest": str(root.digest),
            "size": root.size,
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
        }
    ]
    # The attestation too: everything that the index leads to, and nothing else.
    assert {name for name in files if name.startswith("blobs/")} == {each.blob_path for each in content.content}
    assert files[root.digest.blob_path] == content.data(root)
    assert export.notes == ()


def test_for_one_platform_its_manifest_is_the_image(tmp_path: Path) -> None:
    content = Content()
    amd64, arm64 = content.image(AMD64, 1), content.image(ARM64, 2)
    root = content.index(amd64, arm64, content.attestation(arm64))
    tags = {"debian:12": root, f"debian@{root.digest}": root, f"debian:12@{root.digest}": root}
    with Archive(written(tmp_path / "a.tar", content, tags)) as archive:
        export = as_layout(archive, archive.manifest.images, [ARM64])
        files = entries(export, archive)
    listed = index_of(files)
    assert [each["digest"] for each in listed] == [str(arm64.digest)] * 2
    assert [each["platform"] for each in listed] == [{"architecture": "arm64", "os": "linux"}] * 2
    # A name that pins the index would be wrong here, and what is without it called the same is there once.
    assert [each["annotations"]["io.containerd.image.name"] for each in listed] == [  # type: ignore[index]
        "docker.io/library/debian:12",
        f"docker.io/library/debian@{arm64.digest}",
    ]
    assert len(files) == 2 + 1 + 1 + 2
    assert export.notes == ()


def test_two_images_are_not_called_the_same(tmp_path: Path) -> None:
    content = Content()
    now, before = (content.index(*(content.image(each, 1, seed=seed) for each in (AMD64, ARM64))) for seed in "ab")
    pinned = f"debian:12@{before.digest}"
    with Archive(written(tmp_path / "a.tar", content, {"debian:12": now, pinned: before})) as archive:
        images = archive.manifest.images
        for exported in (for_docker, as_layout):
            with pytest.raises(UsageError, match="two images would be called `debian:12`") as error:
                exported(archive, images, [AMD64])
            assert pinned in error.value.message
            assert error.value.hint == "export them into two files"
        names = [each["annotations"] for each in index_of(entries(as_layout(archive, images, ()), archive))]
    assert [each["io.containerd.image.name"] for each in names] == [  # type: ignore[index]
        "docker.io/library/debian:12",
        f"docker.io/library/{pinned}",
    ]


def test_one_image_by_two_names_that_become_one_is_saved_once(tmp_path: Path) -> None:
    content = Content()
    root = content.index(content.image(AMD64, 1))
    tags = {"debian:12": root, f"debian:12@{root.digest}": root}
    with Archive(written(tmp_path / "a.tar", content, tags, platforms=[AMD64])) as archive:
        export = for_docker(archive, archive.manifest.images, ())
        (saved,) = json.loads(entries(export, archive)["manifest.json"])
    assert saved["RepoTags"] == ["debian:12"]
    assert len(export.images) == 1


def test_several_of_the_platforms_leave_the_index_as_it_is(tmp_path: Path) -> None:
    content = Content()
    children = [content.image(platform, 1) for platform in (AMD64, ARM64, RISCV64)]
    attested = content.attestation(children[1])
    root = content.index(*children, attested)
    with Archive(written(tmp_path / "a.tar", content, {"debian:12": root})) as archive:
        both = as_layout(archive, archive.manifest.images, [ARM64, AMD64])
        files = entries(both, archive)
        one = entries(as_layout(archive, archive.manifest.images, ()), archive)
    assert files == one
    assert files[root.digest.blob_path] == content.data(root)
    assert [str(each.platform) for each in both.images[0].contents] == ["linux/amd64", "linux/arm64"]
    assert both.notes == ("debian:12: its index lists linux/riscv64 too, and that is not in the file",)


def test_what_is_attached_travels_with_all_platforms(tmp_path: Path) -> None:
    content = Content()
    root = content.index(content.image(AMD64, 1), content.image(ARM64, 1))
    signature = content.index(*(content.image(platform, 1, seed="sig") for platform in (AMD64, ARM64)))
    tag = f"sha256-{root.digest.hex}.sig"
    again = content.index(*(content.image(platform, 1, seed="again") for platform in (AMD64, ARM64)))
    tags = {
        "debian:12": root,
        f"debian:{tag}": signature,
        f"debian:sha256-{signature.digest.hex}": again,
        f"other:{tag}": signature,
    }
    with Archive(written(tmp_path / "a.tar", content, tags)) as archive:
        whole = as_layout(archive, named(archive, "debian:12"), ())
        part = as_layout(archive, named(archive, "debian:12"), [AMD64])
        assert [each.image.reference.tag for each in whole.images] == ["12", tag, f"sha256-{signature.digest.hex}"]
        assert [str(each["digest"]) for each in index_of(entries(whole, archive))] == [
            str(each.digest) for each in (root, signature, again)
        ]
        assert "2 things that are attached" in whole.notes[0]
        assert [each.image.reference.tag for each in part.images] == ["12"]


def test_docker_gets_one_platform(tmp_path: Path) -> None:
    with Archive(example().write(tmp_path / "a.tar").path) as archive:
        images = named(archive, "debian:12", "ghcr.io/team/gcc:12")
        with pytest.raises(UsageError) as error:
            for_docker(archive, images, ())
        assert [(each.subject, each.hint) for each in error.value.problems] == [
            ("debian:12", "--platform linux/amd64"),
            ("ghcr.io/team/gcc:12", "--platform linux/amd64"),
        ]
        assert "it has linux/amd64, linux/arm64, and `docker load` takes one" in str(error.value)
        # What the nearest is, as containerd pulls.
        export = for_docker(archive, images, [Platform.parse("linux/arm64/v9")])
        files = entries(export, archive)
        wanted = [next(each for each in image.platforms if each.platform == ARM64) for image in images]
        assert [each["digest"] for each in index_of(files)] == [str(each.manifest.digest) for each in wanted]
        configs = [archive.read_image(each.manifest).config for each in wanted]
        assert [each.config for each in export.images] == configs
        assert json.loads(files[configs[0].digest.blob_path])["architecture"] == "arm64"
        # The only one need not be named.
        (registry,) = for_docker(archive, named(archive, "registry:3"), ()).images
        assert [each.platform for each in registry.contents] == [AMD64]
        with pytest.raises(UsageError, match="takes one"):
            for_docker(archive, images[:1], [AMD64, ARM64])


def test_a_platform_that_is_not_there_is_named(tmp_path: Path) -> None:
    with Archive(example().write(tmp_path / "a.tar").path) as archive:
        for exported, next_step in ((for_docker, "linux/amd64"), (as_layout, "linux/amd64,linux/arm64")):
            with pytest.raises(UsageError) as error:
                exported(archive, archive.manifest.images, [AMD64, RISCV64])
            assert len(error.value.problems) == 3
            message = "it is not in the archive for linux/riscv64: it has linux/amd64"
            assert error.value.problems[0].message == message
            assert error.value.problems[0].hint == "--platform linux/amd64"
            (debian,) = named(archive, "debian:12")
            with pytest.raises(UsageError) as error:
                exported(archive, [debian], [RISCV64])
            assert error.value.problems[0].hint == f"--platform {next_step}"
            exported(archive, [debian], Platform.parse_list(next_step))


def test_a_digest_alone_is_no_name_for_docker(tmp_path: Path) -> None:
    content = Content()
    manifest = content.image(AMD64, 1)
    tags = {f"debian@{manifest.digest}": manifest}
    with Archive(written(tmp_path / "a.tar", content, tags, platforms=[AMD64])) as archive:
        export = for_docker(archive, archive.manifest.images, ())
        assert json.loads(entries(export, archive)["manifest.json"])[0]["RepoTags"] == []
    assert export.images[0].name is None
    (note,) = export.notes
    assert export.images[0].config is not None
    assert f"docker tag {export.images[0].config.digest} NAME" in note


def test_layers_that_not_every_docker_loads_are_said(tmp_path: Path) -> None:
    content = Content()
    config = content.add("application/vnd.oci.image.config.v1+json", b'{"os":"linux","architecture":"amd64"}')
    zstd = content.manifest(config, [content.add(ZSTD, layer(1))], platform=AMD64)
    sealed = content.manifest(config, [content.add(f"{ZSTD}+encrypted", layer(2))], platform=AMD64)
    tags = {"zstd:1": content.index(zstd), "sealed:1": content.index(sealed)}
    with Archive(written(tmp_path / "a.tar", content, tags, platforms=[AMD64])) as archive:
        (note,) = for_docker(archive, named(archive, "zstd:1"), ()).notes
        assert note == "zstd:1: layers are zstd, which `docker load` takes from Docker 23.0 on"
        with pytest.raises(UsageError, match=r"cannot unpack a layer of the type `.*zstd\+encrypted`"):
            for_docker(archive, named(archive, "sealed:1"), ())
        assert sealed.digest.blob_path in entries(as_layout(archive, named(archive, "sealed:1"), ()), archive)


@pytest.mark.parametrize("role", ["tape", "cache", "base"])
def test_what_is_no_image_leaves_as_a_layout_only(tmp_path: Path, role: str) -> None:
    content = Content()
    kind = "application/vnd.buildkit.cacheconfig.v0" if role == "cache" else "application/vnd.example.config+json"
    config = content.add(kind, b"{}")
    root = content.manifest(config, [content.add("application/octet-stream", b"content")])
    with Archive(written(tmp_path / "a.tar", content, {"team/thing:1": root}, role)) as archive:
        with pytest.raises(UsageError, match="no image that Docker runs") as error:
            for_docker(archive, archive.manifest.images, ())
        assert error.value.problems[0].hint == "--to oci-archive:FILE"
        with pytest.raises(UsageError, match="it is for no platform"):
            as_layout(archive, archive.manifest.images, [AMD64])
        files = entries(as_layout(archive, archive.manifest.images, ()), archive)
        assert {name for name in files if name.startswith("blobs/")} == {each.blob_path for each in content.content}


def test_a_delta_names_the_base_that_has_the_rest(tmp_path: Path) -> None:
    base = made(image("debian:12", seeds=(1,))).write(tmp_path / "base.tar").path
    more = made(image("debian:12", seeds=(1,)), image("gcc:12", seeds=(1, 2)), image("busybox:1", seeds=(3,)))
    delta = dataclasses.replace(more, plan=subtract(more.plan, [read_base(base)])).write(tmp_path / "delta.tar").path
    with Archive(base) as archive, Archive(delta) as opened:
        for exported in (for_docker, as_layout):
            with pytest.raises(UsageError) as error:
                exported(opened, opened.manifest.images, [AMD64])
            assert [each.subject for each in error.value.problems] == ["debian:12", "gcc:12"]
            said = f"a delta, and leaves 1 of its layers to `test` {archive.digest}"
            assert all(said in each.message for each in error.value.problems)
            # What is there whole can leave.
            assert len(entries(exported(opened, named(opened, "busybox:1"), [AMD64]), opened)) >= 5


def test_a_damaged_document_is_no_image(tmp_path: Path) -> None:
    path = example().write(tmp_path / "a.tar").path
    with Archive(path) as archive:
        (registry,) = named(archive, "registry:3")
        for digest in (registry.platforms[0].manifest.digest, registry.root.digest):
            place = archive.layout.blob(digest).data_offset + 5
            data = bytearray(path.read_bytes())
            data[place] ^= 1
            (tmp_path / "broken.tar").write_bytes(data)
            with Archive(tmp_path / "broken.tar") as broken:
                for exported in (for_docker, as_layout):
                    with pytest.raises(DamagedArchiveError, match="registry:3"):
                        exported(broken, [registry], ())


def test_many_names_of_one_image_are_walked_once(tmp_path: Path, document_reads: list[Digest]) -> None:
    path = made(*(image(name, absent=[RISCV64]) for name in MANY)).write(tmp_path / "a.tar").path
    with Archive(path) as archive:
        export = as_layout(archive, archive.manifest.images, ())
        most = max(map(document_reads.count, document_reads))
        listed = json.loads(entries(export, archive)["index.json"])["manifests"]
        digest = str(archive.manifest.images[0].root.digest)
    assert [(each["annotations"]["io.containerd.image.name"], each["digest"]) for each in listed] == [
        (f"docker.io/library/{name}", digest) for name in MANY
    ]
    assert export.notes == tuple(
        f"{name}: its index lists linux/riscv64 too, and that is not in the file" for name in MANY
    )
    assert most < 10


def test_what_is_attached_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many images with something attached: each name of the archive is looked at once."""
    content = Content()
    images = {name: content.image(AMD64, layers=1, size=10, seed=name) for name in MANY}
    attached = {
        f"{name.partition(':')[0]}:sha256-{one.digest.hex}.sig": content.image(AMD64, 1, seed=f"{name} signed", size=10)
        for name, one in images.items()
    }
    path = written(tmp_path / "a.tar", content, {**images, **attached}, platforms=[AMD64])
    looked: list[str] = []

    class Counted:
        def fullmatch(self, text: str) -> object:
            looked.append(text)
            return attached_tag.fullmatch(text)

    attached_tag = export_module._ATTACHED
    monkeypatch.setattr(export_module, "_ATTACHED", Counted())
    with Archive(path) as archive:
        export = as_layout(archive, named(archive, *images), ())
        found = [each.image.reference.familiar for each in export.images]
    assert found == [*images, *attached]
    assert len(looked) == len(found)


def test_the_names_of_many_platforms_that_are_absent_are_cut_off(tmp_path: Path) -> None:
    absent = [Platform("linux", f"arch{number}") for number in range(25)]
    path = made(image("app:1", absent=absent)).write(tmp_path / "a.tar").path
    with Archive(path) as archive:
        (note,) = as_layout(archive, archive.manifest.images, ()).notes
    assert ", linux/arch19 and 5 more too, and" in note
    assert "linux/arch20" not in note
