"""`bundle create` and `bundle lock` with images out of files."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from bundler.definition.file_request import KINDS, FileRequest
from bundler.definition.spec import TOOLCHAIN
from bundler.planning import resolve
from bundler.sources import zstd
from bundler.sources.files.contents import Contents, Directory
from bundler.sources.files.hauler import HaulFile
from bundler.sources.files.layout import Entry as LayoutEntry
from bundler.sources.files.layout import LayoutFile
from bundler.sources.files.source import FilesSource, Taken
from bundler.sources.source import Source
from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import MAX_CONFIG_SIZE, Entry, index_entries
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from tests.support import ROOT
from tests.support.fake_registry import FakeRegistry
from tests.support.image_files import (
    ALONE,
    IMAGE_NAME,
    REF_NAME,
    Files,
    haul,
    index_value,
    layout,
    packed,
    saved,
    tar,
    write_directory,
)
from tests.support.images import CONFIG, Content, layer, layer_tar
from tests.support.program import bundle_here as bundle
from tests.support.records import RecordMaker

Done = subprocess.CompletedProcess[str]


def create(cwd: Path, *arguments: object, code: int = 0) -> Done:
    done = bundle("create", *arguments, *ALONE, cwd=cwd)
    assert done.returncode == code, done.stderr
    return done


def images_of(path: Path) -> dict[str, Digest]:
    """The names in an archive and their digests, every byte of which is right."""
    with Archive(path) as archive:
        verify_archive(archive)
        return {image.reference.familiar: image.root.digest for image in archive.manifest.images}


def debian(content: Content, *platforms: str) -> Descriptor:
    return content.index(
        *(content.image(each, seed=f"debian-{each}") for each in platforms or ("linux/amd64", "linux/arm64"))
    )


def named(name: str) -> Mapping[str, str]:
    return {IMAGE_NAME: name, REF_NAME: name.rpartition(":")[2]}


@pytest.mark.parametrize("how", ["directory", "", "zst", "gz", "xz", "bz2"])
def test_all_images_of_a_layout_keep_their_digests(tmp_path: Path, how: str) -> None:
    content = Content()
    index, app = debian(content), content.image("linux/amd64", seed="app", kind="docker")
    files = layout(content, (index, named("docker.io/library/debian:12")), (app, {REF_NAME: "ghcr.io/team/app:1"}))
    if how == "directory":
        write_directory(tmp_path / "dir", files)
        source = "oci:dir"
    else:
        (tmp_path / "a.tar").write_bytes(packed(tar(files), how))
        source = "oci-archive:a.tar"
    done = create(tmp_path, source, "-o", "new.tar")
    assert images_of(tmp_path / "new.tar") == {"debian:12": index.digest, "ghcr.io/team/app:1": app.digest}
    assert "ghcr.io/team/app:1 is for linux/amd64 only, not for linux/arm64" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"new.tar", "new.tar.sha256", source.partition(":")[2]}


def test_the_same_images_give_the_same_archive_from_every_form(tmp_path: Path) -> None:
    content = Content()
    index = debian(content)
    files = layout(content, (index, named("docker.io/library/debian:12")))
    write_directory(tmp_path / "dir", files)
    (tmp_path / "a.tar").write_bytes(tar(files))
    (tmp_path / "a.tar.gz").write_bytes(packed(tar(files), "gz"))
    (tmp_path / "h.tar.zst").write_bytes(
        packed(tar(haul(content, (index, "docker.io/library/debian:12", "imageIndex"))), "zst")
    )
    sources = ["oci:dir", "oci-archive:a.tar", "oci-archive:a.tar.gz", "hauler:h.tar.zst"]
    for number, source in enumerate(sources):
        create(tmp_path, source, "-o", f"{number}.tar", "--name", "x")
    create(tmp_path, "bundle:0.tar", "-o", "4.tar", "--name", "x")
    assert len({hashlib.sha256((tmp_path / f"{number}.tar").read_bytes()).digest() for number in range(5)}) == 1


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (":12", {"debian:12"}),
        (":docker.io/library/debian:12", {"debian:12"}),
        (":debian:12", {"debian:12"}),
        (":@1", {"app:1"}),
        (":app:1", {"app:1"}),
    ],
)
def test_one_image_is_chosen(tmp_path: Path, choice: str, expected: set[str]) -> None:
    content = Content()
    files = layout(
        content, (debian(content), named("docker.io/library/debian:12")), (content.image(), {REF_NAME: "app:1"})
    )
    write_directory(tmp_path / "dir", files)
    create(tmp_path, f"oci:dir{choice}", "-o", "new.tar")
    assert images_of(tmp_path / "new.tar").keys() == expected


def test_parts_of_an_image_that_are_listed_beside_it_are_no_images(tmp_path: Path) -> None:
    """As oras copies an image, with what is attached to it."""
    content = Content()
    child = content.image("linux/amd64", seed="child")
    index = content.index(child, attestation := content.attestation(child))
    manifest = json.loads(content.data(child))
    referrer = content.add(child.media_type, json.dumps({**manifest, "subject": index.to_json()}).encode())
    entries = ((index, {REF_NAME: "1"}), (referrer, {}), (child, {}), (attestation, attestation.annotations))
    write_directory(tmp_path / "dir", layout(content, *entries))
    create(tmp_path, "app=oci:dir", "--referrers", "-o", "new.tar")
    found = images_of(tmp_path / "new.tar")
    assert found.keys() == {"app:1", f"app:sha256-{index.digest.hex}"}
    assert found["app:1"] == index.digest


def test_names_that_the_user_gives(tmp_path: Path) -> None:
    content = Content()
    one, two = content.image(seed=1), content.image(seed=2)
    write_directory(tmp_path / "dir", layout(content, (one, {REF_NAME: "12"}), (two, {REF_NAME: "13"})))
    create(tmp_path, "debian=oci:dir", "-o", "all.tar")
    assert images_of(tmp_path / "all.tar") == {"debian:12": one.digest, "debian:13": two.digest}
    create(tmp_path, "ghcr.io/x/y:z=oci:dir:13", "-o", "one.tar")
    assert images_of(tmp_path / "one.tar") == {"ghcr.io/x/y:z": two.digest}
    failed = create(tmp_path, "oci:dir", code=2)
    assert "next: say it: NAME=oci:dir:12" in failed.stderr
    failed = create(tmp_path, "x:1=oci:dir", code=2)
    assert f"x:1: it is {one.digest} in `x:1=oci:dir`, and {two.digest} in `x:1=oci:dir`" in failed.stderr
    # What the next step says works, whatever the directory is called.
    (tmp_path / "dir").rename(tmp_path / "my dir")
    failed = create(tmp_path, "oci:my dir", code=2)
    step = failed.stderr[failed.stderr.index("say it: ") + 8 :].splitlines()[0]
    create(tmp_path, *shlex.split(step.replace("NAME", "debian")), "-o", "hint.tar")
    assert images_of(tmp_path / "hint.tar") == {"debian:12": one.digest}


def test_a_docker_archive_of_before_25_is_composed_the_same_each_time(tmp_path: Path) -> None:
    raw, zipped = layer_tar("raw"), layer("zipped")
    files = saved((["app:1", "app:latest"], [raw, zipped]), ([], [raw]))
    (tmp_path / "a.tar").write_bytes(tar(files))
    (tmp_path / "a.tar.gz").write_bytes(packed(tar(files), "gz"))
    for number, source in enumerate(["a.tar", "a.tar", "a.tar.gz"]):
        create(tmp_path, f"docker-archive:{source}:app:1", "-o", f"{number}.tar")
    first = images_of(tmp_path / "0.tar")
    assert first.keys() == {"app:1"}
    assert images_of(tmp_path / "1.tar") == images_of(tmp_path / "2.tar") == first
    with Archive(tmp_path / "0.tar") as archive:
        manifest = json.loads(archive.read_document(archive.manifest.images[0].root))
    assert [entry["mediaType"].rpartition("+")[2] for entry in manifest["layers"]] == ["zstd", "gzip"]
    assert manifest["layers"][1]["digest"] == str(Digest.of(zipped))
    config = next(data for name, data in files.items() if len(name) == 69)
    assert manifest["config"]["digest"] == str(Digest.of(config))
    create(tmp_path, "untagged:1=docker-archive:a.tar:@1", "-o", "untagged.tar")
    assert images_of(tmp_path / "untagged.tar").keys() == {"untagged:1"}
    failed = create(tmp_path, "docker-archive:a.tar", code=2)
    assert "next: say it: NAME=docker-archive:a.tar:@1" in failed.stderr


def test_a_docker_archive_claims_no_digest(tmp_path: Path) -> None:
    claimed = f"app:1@sha256:{'0' * 64}"
    (tmp_path / "a.tar").write_bytes(tar(saved(([claimed], [layer_tar("x")]))))
    failed = create(tmp_path, "docker-archive:a.tar", code=2)
    step = failed.stderr[failed.stderr.index("say it: ") + 8 :].splitlines()[0]
    create(tmp_path, *shlex.split(step.replace("NAME", "app:1")), "-o", "new.tar")
    assert images_of(tmp_path / "new.tar").keys() == {"app:1"}


def test_a_name_of_ours_has_the_digest_of_its_image(hub: FakeRegistry, tmp_path: Path) -> None:
    """As --recompress leaves it: the name has the old digest."""
    data = layer_tar("x") + bytes(1_000_000)
    image = hub.image("linux/amd64", layers=[gzip.compress(data, compresslevel=1)])
    hub.tag("library/app", "1", image)
    name = f"app@{image.digest}"
    mirror = ("--mirror", f"docker.io={hub.host}", "--platform", "linux/amd64")
    create(tmp_path, name, *mirror, "--recompress", "zstd", "-o", "old.tar")
    ((old, root),) = images_of(tmp_path / "old.tar").items()
    assert (old, root == image.digest) == (name, False)
    done = create(tmp_path, "bundle:old.tar", "-o", "new.tar")
    assert images_of(tmp_path / "new.tar") == {f"app@{root}": root}
    assert f"note: {name} of `old.tar` was recompressed, and is called app@{root}" in done.stderr
    create(tmp_path, f"x:1=bundle:old.tar:{name}", "-o", "one.tar")
    assert images_of(tmp_path / "one.tar") == {"x:1": root}


def test_links_of_a_docker_archive_lead_to_the_layer(tmp_path: Path) -> None:
    files = saved((["app:1"], [layer_tar("x")]))
    entry = json.loads(files["manifest.json"])
    entry[0]["Layers"] = ["other/layer.tar"]
    links = {"other/layer.tar": f"../{json.loads(files['manifest.json'])[0]['Layers'][0]}"}
    changed = {**files, "manifest.json": json.dumps(entry).encode()}
    (tmp_path / "a.tar").write_bytes(tar(changed, links))
    (tmp_path / "a.tar.xz").write_bytes(packed(tar(changed, links), "xz"))
    (tmp_path / "b.tar").write_bytes(tar(files))
    for number, name in enumerate(("a.tar", "a.tar.xz", "b.tar")):
        create(tmp_path, f"docker-archive:{name}", "-o", f"{number}.tar")
    assert images_of(tmp_path / "0.tar") == images_of(tmp_path / "1.tar") == images_of(tmp_path / "2.tar")


def test_a_docker_archive_since_25_is_a_layout_and_keeps_its_manifests(tmp_path: Path) -> None:
    content = Content()
    raw = tar({"a": bytes(50_000)})
    diffs = {"rootfs": {"type": "layers", "diff_ids": [str(Digest.of(raw))]}, "os": "linux", "architecture": "amd64"}
    config = content.add(CONFIG["oci"], json.dumps(diffs).encode())
    here = content.manifest(
        config, [content.add("application/vnd.oci.image.layer.v1.tar", raw)], platform=Platform("linux", "amd64")
    )
    absent = Content().image("linux/arm64", seed="absent")
    root = content.index(here, absent)
    (tmp_path / "a.tar").write_bytes(
        tar({**layout(content, (root, named("docker.io/library/app:1"))), "manifest.json": b"[]"})
    )
    done = create(tmp_path, "docker-archive:a.tar", "-o", "new.tar")
    assert images_of(tmp_path / "new.tar") == {"app:1": root.digest}
    assert "note: app:1 is for linux/amd64 only, not for linux/arm64" in done.stderr
    assert "note: 1 layers (" in done.stderr
    assert "are not compressed in their file: --recompress zstd makes them smaller" in done.stderr
    done = create(tmp_path, "docker-archive:a.tar", "--recompress", "zstd", "-o", "smaller.tar")
    assert "are not compressed" not in done.stderr
    with Archive(tmp_path / "smaller.tar") as archive:
        assert not archive.has(Digest.of(raw))
    with Archive(tmp_path / "new.tar") as archive:
        assert archive.manifest.images[0].sparse
        assert archive.has(Digest.of(raw))
        assert archive.manifest.platforms == (here.platform,)


@pytest.mark.parametrize("prefix", ["dev.hauler/", "dev.cosignproject.cosign/"])
def test_a_haul_with_signatures_and_charts(tmp_path: Path, prefix: str) -> None:
    content = Content()
    index = debian(content)
    chart = content.manifest(
        content.add("application/vnd.cncf.helm.config.v1+json", b'{"name":"c"}'),
        [content.add("application/vnd.cncf.helm.chart.content.v1.tar+gzip", layer("chart"))],
    )
    signature = content.manifest(content.add(CONFIG["oci"], b"{}"), [content.add("application/x", b"signed")])
    subject = json.loads(content.data(signature))
    referrer = content.add(signature.media_type, json.dumps({**subject, "subject": index.to_json()}).encode())
    files = haul(
        content,
        (index, "docker.io/library/debian:12", "imageIndex"),
        (signature, "docker.io/library/debian:12", "sigs"),
        (referrer, "docker.io/library/debian:12", f"referrers/{referrer.digest.hex}"),
        (chart, "docker.io/hauler/c:1.0", "image"),
        prefix=prefix,
    )
    (tmp_path / "haul.tar.zst").write_bytes(packed(tar(files), "zst"))
    done = create(tmp_path, "hauler:haul.tar.zst", "-o", "new.tar")
    assert images_of(tmp_path / "new.tar") == {"debian:12": index.digest, "hauler/c:1.0": chart.digest}
    assert "hauler/c:1.0 is for no platform: it travels as the artifact that it is" in done.stderr
    create(tmp_path, "hauler:haul.tar.zst", "--referrers", "-o", "signed.tar")
    attached = images_of(tmp_path / "signed.tar")
    tag = f"debian:sha256-{index.digest.hex}"
    assert attached[f"{tag}.sig"] == signature.digest
    with Archive(tmp_path / "signed.tar") as archive:
        (listed,) = (image for image in archive.manifest.images if image.reference.tag == tag.partition(":")[2])
        assert [each.manifest.digest for each in listed.platforms] == [referrer.digest]
    # What is attached in an archive of ours travels on with its images, byte for byte.
    create(tmp_path, "bundle:signed.tar", "-o", "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "signed.tar").read_bytes()


# Written by hauler 2.1 itself, from a registry at this address: an index with a signature and a referrer, an image for
# one platform, and a file.
HAUL = ROOT / "tests" / "support" / "haul.tar.zst"
HAUL_HOST = "127.0.0.1:34871"


def test_a_haul_that_hauler_wrote(tmp_path: Path) -> None:
    source = f"hauler:{HAUL}"
    done = create(tmp_path, source, "--referrers", "-o", "new.tar")
    app = "sha256:4b48a0da6ab296d99ddcb93e7c16e44bb70ee42a12cb7a56b98170f47db0b3a5"
    signature = "sha256:3c83e66052c2abefcca655e2e6efb192ab59c58d1ac6ec57ad08f56ea63600d0"
    referrer = "sha256:80f5f96447d2e0d2e05e33362144924c5f9f41d846fde1595c36c4ed439f6bcd"
    found = {name: str(digest) for name, digest in images_of(tmp_path / "new.tar").items()}
    listing = f"{HAUL_HOST}/team/app:sha256-{app[7:]}"
    assert found == {
        f"{HAUL_HOST}/team/app:1": app,
        f"{HAUL_HOST}/team/one:2": "sha256:c5cfbed5efe694a55d501ac1b1983e430d61d436a865b55cb4c6fa077b732b07",
        "hauler/notes.txt:latest": "sha256:f60a272290719800a566dbdd20cee7e5dc5da00197f97b9f57f6b116398d84fc",
        f"{listing}.sig": signature,
        listing: found[listing],
    }
    with Archive(tmp_path / "new.tar") as archive:
        assert archive.has(Digest(referrer))
        assert archive.has(Digest.of(b"hello\n"))
    assert f"{HAUL_HOST}/team/one:2 is for linux/amd64 only" in done.stderr
    (tmp_path / "haul.tar").write_bytes(b"".join(zstd.unpacked(iter([HAUL.read_bytes()]), "it")))
    create(tmp_path, "hauler:haul.tar", "--referrers", "-o", "same.tar")
    assert (tmp_path / "same.tar").read_bytes() == (tmp_path / "new.tar").read_bytes()
    create(tmp_path, f"app:2={source}:{HAUL_HOST}/team/app:1", "-o", "one.tar")
    assert {name: str(digest) for name, digest in images_of(tmp_path / "one.tar").items()} == {"app:2": app}


def test_chunks_of_a_haul_are_read_as_one(tmp_path: Path) -> None:
    content = Content()
    root = content.image()
    data = packed(tar(haul(content, (root, "docker.io/library/app:1", "image"))), "zst")
    for number in range(3):
        third = len(data) // 3 + 1
        (tmp_path / f"haul.tar.zst.{number + 1:03}").write_bytes(data[number * third : (number + 1) * third])
    for name in ("haul.tar.zst", "haul.tar.zst.002"):
        create(tmp_path, f"hauler:{name}", "-o", "new.tar")
        assert images_of(tmp_path / "new.tar") == {"app:1": root.digest}


def test_the_toolchain_of_an_archive_travels_with_its_roles(hub: FakeRegistry, tmp_path: Path) -> None:
    mirror = ("--mirror", f"docker.io={hub.host}")
    done = bundle(
        "create", "debian:12", *mirror, "--platform", "linux/arm64", "-o", "old.tar", "--split", "4MiB", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    hub.close()
    done = bundle("create", "bundle:old.tar.001", "-o", "new.tar", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parts = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("old.tar.0*")))
    assert (tmp_path / "new.tar").read_bytes() == parts
    done = bundle("create", "bundle:new.tar", "--without", "binfmt", "-o", "less.tar", cwd=tmp_path)
    with Archive(tmp_path / "less.tar") as archive:
        roles = [image.role for image in archive.manifest.images]
    assert set(roles) == {"registry", "buildkit", "buildx", "frontend", "base"}


def test_what_was_recorded_travels_on(hub: FakeRegistry, tmp_path: Path) -> None:
    hub.tag("library/python", "3-slim", hub.index(hub.image("linux/amd64", seed="python")))
    image = hub.repository("library/debian").tags["12"]
    maker = RecordMaker(pages={"http://deb.corp/x": b"x"}, images={"debian:12": image}, cache=(layer("step"),))
    maker.write(tmp_path / "app.record")
    done = bundle(
        "create", "--record", "app.record", "--mirror", f"docker.io={hub.host}", "-o", "old.tar", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    hub.close()
    (tmp_path / "bundle.toml").write_text('images = ["bundle:old.tar"]\n')
    assert bundle("lock", cwd=tmp_path).returncode == 0
    done = bundle("create", "-f", "bundle.toml", "-o", "new.tar", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new.tar").read_bytes() == (tmp_path / "old.tar").read_bytes()


def test_chunks_of_hauler_before_2_1_are_read_as_one(tmp_path: Path) -> None:
    content = Content()
    root = content.image(seed="chunks")
    data = packed(tar(haul(content, (root, "docker.io/library/app:1", "image"))), "zst")
    size = len(data) // 11 + 1
    for number in range(11):
        (tmp_path / f"haul_{number}.tar.zst").write_bytes(data[number * size : (number + 1) * size])
    for name in ("haul.tar.zst", "haul_0.tar.zst", "haul_10.tar.zst"):
        create(tmp_path, f"hauler:{name}", "-o", "new.tar")
        assert images_of(tmp_path / "new.tar") == {"app:1": root.digest}
    failed = create(tmp_path, "hauler:haul.tar.zst", "-o", "haul_3.tar.zst", code=2)
    assert "would replace" in failed.stderr
    (tmp_path / "haul_4.tar.zst").unlink()
    failed = create(tmp_path, "hauler:haul.tar.zst", code=3)
    assert "of `haul.tar.zst`, `haul_4.tar.zst` is missing" in failed.stderr


def test_files_with_numbers_that_are_no_chunks(tmp_path: Path) -> None:
    for how in ("", "zst"):
        for number in range(2):
            content = Content()
            image = content.image(seed=f"{how}-{number}")
            (tmp_path / f"app_{number}.tar").write_bytes(
                packed(tar(layout(content, (image, {REF_NAME: "app:1"}))), how)
            )
        create(tmp_path, "oci-archive:app_1.tar", "-o", "new.tar")
        assert images_of(tmp_path / "new.tar") == {"app:1": image.digest}


def archive_with_tools(hub: FakeRegistry, tmp_path: Path, name: str, hosts: str, *more: str) -> None:
    mirror = ("--mirror", f"docker.io={hub.host}", "--without", "python")
    done = bundle("create", "debian:12", *mirror, "--host-platform", hosts, *more, "-o", name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def tools_for_both(hub: FakeRegistry) -> None:
    for text in TOOLCHAIN.values():
        reference = Reference.parse(text)
        images = (hub.image(each, seed=f"{text}-{each}") for each in ("linux/amd64", "linux/arm64"))
        hub.tag(reference.repository, str(reference.tag), hub.index(*images))


def test_a_toolchain_runs_on_all_hosts_or_is_refused(hub: FakeRegistry, tmp_path: Path) -> None:
    tools_for_both(hub)
    archive_with_tools(hub, tmp_path, "one.tar", "linux/amd64")
    archive_with_tools(hub, tmp_path, "two.tar", "linux/amd64,linux/arm64")
    for host in ("linux/arm64", "linux/amd64,linux/arm64"):
        arguments = ("bundle:one.tar,platform=linux/amd64", "--host-platform", host, "-o", "none.tar")
        failed = bundle("create", *arguments, cwd=tmp_path)
        assert failed.returncode == 5, failed.stderr
        assert "registry:3 (registry): `one.tar` has it for linux/amd64, and hosts are linux/" in failed.stderr
        steps = ("--host-platform linux/amd64", "or take it from a registry: --toolchain registry=registry:3")
        assert f"next: the same command with {'; '.join(steps)}" in failed.stderr
        assert "take it for what it has" not in failed.stderr
    assert not (tmp_path / "none.tar").exists()
    # What the next steps say works.
    done = bundle("create", "bundle:one.tar", "--host-platform", "linux/amd64", "-o", "less.tar", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    roles = {"registry": "registry:3", "buildkit": "moby/buildkit:buildx-stable-1", "buildx": "docker/buildx-bin"}
    roles |= {"binfmt": "tonistiigi/binfmt", "frontend": "docker/dockerfile:1"}
    parts = [word for role, image in roles.items() for word in ("--toolchain", f"{role}={image}")]
    mirror = ("--mirror", f"docker.io={hub.host}")
    arguments = ("bundle:one.tar", "--host-platform", "linux/arm64", *parts, *mirror, "-o", "arm.tar")
    done = bundle("create", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # `,platform=` is of base images: tools stay for all hosts.
    done = bundle("create", "bundle:two.tar,platform=linux/arm64", "-o", "narrow.tar", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name, hosts in (
        ("less", ["linux/amd64"]),
        ("arm", ["linux/arm64"]),
        ("narrow", ["linux/amd64", "linux/arm64"]),
    ):
        with Archive(tmp_path / f"{name}.tar") as archive:
            assert list(map(str, archive.manifest.host_platforms)) == hosts
            for image in archive.manifest.images:
                expected = ["linux/arm64"] if name == "narrow" and image.role == "base" else hosts
                if image.role != "base" or name == "narrow":
                    assert [str(each.platform) for each in image.platforms] == expected, (name, image.role)


def test_two_archives_whose_toolchains_are_for_other_hosts(hub: FakeRegistry, tmp_path: Path) -> None:
    tools_for_both(hub)
    archive_with_tools(hub, tmp_path, "one.tar", "linux/amd64")
    hub.tag("library/gcc", "12", hub.index(hub.image("linux/amd64", seed="gcc"), hub.image("linux/arm64", seed="gcc")))
    archive_with_tools(hub, tmp_path, "two.tar", "linux/arm64", "gcc:12")
    failed = bundle("create", "bundle:one.tar", "bundle:two.tar", "-o", "none.tar", cwd=tmp_path)
    assert failed.returncode == 5, failed.stderr
    assert "has it for linux/amd64, and hosts are linux/amd64, linux/arm64" in failed.stderr


def test_a_tool_that_is_chosen_takes_the_place_of_the_default(hub: FakeRegistry, tmp_path: Path) -> None:
    hub.tag("library/registry", "2", hub.index(hub.image("linux/amd64", seed="registry:2")))
    archive_with_tools(hub, tmp_path, "old.tar", "linux/amd64", "--toolchain", "registry=registry:2")
    content = Content()
    write_directory(tmp_path / "lay", layout(content, (content.image(), {REF_NAME: "app:1"})))
    chosen = ("bundle:old.tar:registry:2", "oci:lay", "--mirror", f"docker.io={hub.host}", "--without", "python")
    done = bundle("create", *chosen, "-o", "new.tar", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: registry:3 (registry) is left out: registry is from `old.tar`" in done.stderr
    done = bundle("create", *chosen, "registry:3,platform=linux/amd64", "-o", "both.tar", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {}
    for name in ("new.tar", "both.tar"):
        with Archive(tmp_path / name) as archive:
            found[name] = {
                image.reference.familiar: image.role
                for image in archive.manifest.images
                if image.reference.repository == "library/registry"
            }
    assert found == {
        "new.tar": {"registry:2": "registry"},
        "both.tar": {"registry:2": "registry", "registry:3": "base"},
    }


def test_an_image_that_is_named_besides_an_archive_is_the_new_one(hub: FakeRegistry, tmp_path: Path) -> None:
    archive_with_tools(hub, tmp_path, "old.tar", "linux/amd64")
    old = images_of(tmp_path / "old.tar")
    moved = hub.index(*(hub.image(each, seed=f"new-{each}") for each in ("linux/amd64", "linux/arm64")))
    hub.tag("library/debian", "12", moved)
    mirror = ("--mirror", f"docker.io={hub.host}")
    done = bundle("create", "bundle:old.tar", "debian:12", *mirror, "-o", "new.tar", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: debian:12 is the one that is named, not that of `old.tar`" in done.stderr
    assert images_of(tmp_path / "new.tar") == {**old, "debian:12": moved.digest}
    failed = bundle("create", "bundle:old.tar", "registry:3", *mirror, "-o", "none.tar", cwd=tmp_path)
    assert failed.returncode == 2
    assert "--toolchain registry=registry:3" in failed.stderr
    done = bundle(
        "create", "bundle:old.tar", "--toolchain", "registry=registry:3", *mirror, "-o", "t.tar", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_files_serve_the_toolchain_and_what_dockerfiles_name(tmp_path: Path) -> None:
    content = Content()
    registry = content.image("linux/amd64", seed="registry")
    write_directory(
        tmp_path / "dir",
        layout(content, (registry, {REF_NAME: "registry:3"}), (debian(content), named("docker.io/library/debian:12"))),
    )
    (tmp_path / "Dockerfile").write_text("FROM debian:12\n")
    rest = [word for word in ALONE if word not in ("registry",)][1:]
    done = bundle("create", "oci:dir", "--dockerfile", "Dockerfile", "-o", "new.tar", *rest, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Archive(tmp_path / "new.tar") as archive:
        assert {(image.reference.familiar, image.role) for image in archive.manifest.images} == {
            ("registry:3", "registry"),
            ("debian:12", "base"),
        }


def test_files_and_registries_together(hub: FakeRegistry, tmp_path: Path) -> None:
    content = Content()
    app = content.image("linux/amd64", seed="app")
    write_directory(tmp_path / "dir", layout(content, (app, {REF_NAME: "app:1"})))
    mirror = ("--mirror", f"docker.io={hub.host}")
    done = bundle("create", "debian:12", "oci:dir", *mirror, "--json", "-o", "new.tar", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["copiedSize"] == sum(len(layer(f"app-linux/amd64-{number}")) for number in range(2))
    assert result["downloadSize"] > 0
    assert not any("app" in request.path for request in hub.requests)
    assert images_of(tmp_path / "new.tar")["app:1"] == app.digest


def test_two_images_of_one_name(tmp_path: Path) -> None:
    content = Content()
    one, two = content.image(seed=1), content.image(seed=2)
    write_directory(tmp_path / "one", layout(content, (one, {REF_NAME: "app:1"})))
    write_directory(tmp_path / "two", layout(content, (two, {REF_NAME: "app:1"})))
    write_directory(tmp_path / "same", layout(content, (one, {REF_NAME: "app:1"})))
    failed = create(tmp_path, "oci:one", "oci:two", code=2)
    assert f"app:1: it is {one.digest} in `oci:one`, and {two.digest} in `oci:two`" in failed.stderr
    assert "next: give one of them another name: NAME=oci:two:app:1" in failed.stderr
    create(tmp_path, "oci:one", "oci:same", "-o", "new.tar")
    failed = create(tmp_path, "oci:one", "app:1", code=2)
    assert "app:1: it is in `oci:one`, and named besides" in failed.stderr
    assert "next: leave `app:1` out, or give this one another name: NAME=oci:one:@0" in failed.stderr
    create(tmp_path, "b:1=oci:one:@0", "oci:same", "-o", "named.tar")
    assert images_of(tmp_path / "named.tar") == {"app:1": one.digest, "b:1": one.digest}


def test_two_images_of_one_name_in_one_file(tmp_path: Path) -> None:
    content = Content()
    one, two = content.image(seed=1), content.image(seed=2)
    (tmp_path / "a.tar").write_bytes(tar(layout(content, (one, {REF_NAME: "t/x:1"}), (two, {REF_NAME: "t/x:1"}))))
    failed = create(tmp_path, "oci-archive:a.tar", code=2)
    step = failed.stderr[failed.stderr.index("by another name: ") + 17 :].splitlines()[0]
    assert step == "oci-archive:a.tar:@0 NAME=oci-archive:a.tar:@1"
    create(tmp_path, *shlex.split(step.replace("NAME", "t/y:1")), "-o", "new.tar")
    assert images_of(tmp_path / "new.tar") == {"t/x:1": one.digest, "t/y:1": two.digest}


def test_no_file_is_replaced_by_what_is_made_of_it(tmp_path: Path) -> None:
    content = Content()
    write_directory(tmp_path / "dir", layout(content, (content.image(), {REF_NAME: "app:1"})))
    create(tmp_path, "oci:dir", "-o", "offline.tar")
    create(tmp_path, "oci:dir", "-o", "parts.tar", "--split", "4MiB")
    before = (tmp_path / "offline.tar").read_bytes()
    failed = create(tmp_path, "bundle:offline.tar", code=2)
    assert "`bundle:offline.tar` is what" in failed.stderr
    assert "next: choose another place with -o FILE" in failed.stderr
    create(tmp_path, "bundle:parts.tar.001", "-o", "parts.tar", code=2)
    assert (tmp_path / "offline.tar").read_bytes() == before


def test_platforms_that_a_file_lacks(tmp_path: Path) -> None:
    content = Content()
    write_directory(tmp_path / "dir", layout(content, (content.image("linux/riscv64"), {REF_NAME: "app:1"})))
    failed = create(tmp_path, "oci:dir", code=5)
    assert "app:1: `dir` has it for linux/riscv64, and not for linux/amd64, linux/arm64" in failed.stderr
    assert "next: take it for what it has: oci:dir,platform=linux/riscv64" in failed.stderr
    create(tmp_path, "oci:dir,platform=linux/riscv64", "-o", "new.tar")
    failed = create(tmp_path, "oci:dir,platform=linux/riscv64,linux/s390x", code=5)
    assert "has no linux/s390x: it has linux/riscv64" in failed.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "oci:other",
            "`other` is not there: expected the directory of an OCI image layout\n  next: see what is there: ls .\n",
        ),
        ("docker-archive:save.tar", "next: did you mean docker-archive:saved.tar?"),
        (
            "oci:empty",
            "without index.json or manifest.json: expected the directory of an OCI image layout\n  next: see",
        ),
        ("oci:a.tar", "`oci:` reads the directory of an OCI image layout\n  next: oci-archive:a.tar"),
        (
            "oci-archive:dir",
            "the directory of an OCI image layout: `oci-archive:` reads an OCI image layout as a tar\n  next: oci:dir",
        ),
        ("docker-archive:a.tar", "next: oci-archive:a.tar"),
        ("docker-archive:dir", "next: oci:dir"),
        ("oci-archive:saved.tar", "`saved.tar` is what `docker save` writes"),
        ("hauler:a.tar", "next: oci-archive:a.tar"),
        ("oci-archive:haul", "next: hauler:haul"),
        ("docker-archive:haul", "next: hauler:haul"),
        (
            "bundle:a.tar",
            "an OCI image layout as a tar: `bundle:` reads an archive of `bundle create`\n  next: oci-archive:a.tar",
        ),
        ("bundle:dir", "next: oci:dir"),
        ("docker-archive:ours.tar", "`ours.tar` is an archive of `bundle create`"),
        ("oci:dir:12", "`dir` has no image `12`: it has `app:1`"),
        ("docker-archive:saved.tar:app:2", "it has `app:1`\n  next: did you mean docker-archive:saved.tar:app:1?"),
        ("oci-archive:text", "or it is no tar (before byte 512)\n  next: copy it again"),
        ("oci-archive:memo", "`memo` is no tar, or cut short"),
        ("oci-archive:void", "`void` is a tar without index.json"),
    ],
)
def test_a_file_of_another_kind_says_what_reads_it(tmp_path: Path, source: str, message: str) -> None:
    content = Content()
    files = layout(content, (content.image(), {REF_NAME: "app:1"}))
    write_directory(tmp_path / "dir", files)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.tar").write_bytes(tar(files))
    (tmp_path / "haul").mkdir()
    write_directory(tmp_path / "haul", haul(content, (content.image(), "docker.io/library/app:1", "image")))
    (tmp_path / "saved.tar").write_bytes(tar(saved((["app:1"], [layer_tar(1)]))))
    (tmp_path / "text").write_text("x" * 3000)
    (tmp_path / "memo").write_text("x" * 300)
    (tmp_path / "void").touch()
    create(tmp_path, "oci:dir", "-o", "ours.tar")
    failed = bundle("create", source, *ALONE, cwd=tmp_path)
    assert failed.returncode in (2, 3), failed.stderr
    assert message in failed.stderr


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "bundle"])
def test_a_path_that_a_shell_or_a_colon_made_another_one(tmp_path: Path, kind: str) -> None:
    failed = create(tmp_path, f"{kind}:~/my images", code=2)
    assert "`~/my images` is not there: expected " in failed.stderr
    assert f"next: no shell has replaced the `~`: write {kind}:'{tmp_path}/my images'\n" in failed.stderr
    content = Content()
    files = layout(content, (content.image(), {REF_NAME: "app:1"}))
    write_directory(tmp_path / "ä:1/b:2", files)
    (tmp_path / "ä:1/a:2.tar").write_bytes(tar(files))
    path = "ä:1/b:2" if kind == "oci" else "ä:1/a:2.tar"
    for choice in ("", ":app:1"):
        failed = create(tmp_path, f"{kind}:{path}{choice}", code=2)
        step = f"a path ends at its first colon: name a link to it that has none: ln -s {path} images"
        assert f"`ä` is not there: expected {KINDS[kind]}\n  next: {step}\n" in failed.stderr.replace("'", "")
    if kind != "bundle":
        # What the next step says works.
        (tmp_path / "images").symlink_to(path)
        create(tmp_path, f"{kind}:images:app:1", "-o", "new.tar")


def test_what_must_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Content()
    files = layout(content, (content.image(), {REF_NAME: "app:1"}))
    write_directory(tmp_path / "dir", files)
    (tmp_path / "a.tar").write_bytes(tar(files))
    closed = {"dir/index.json", "a.tar", "home/a.tar"}
    stat, opened = Path.stat, Path.open

    def refuse(path: Path) -> None:
        if str(path) in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def refusing_stat(path: Path, **options: Any) -> os.stat_result:
        if str(path) != "a.tar":
            refuse(path)
        return stat(path, **options)

    def refusing_open(path: Path, *arguments: Any, **options: Any) -> Any:
        refuse(path)
        return opened(path, *arguments, **options)

    # The tests may run as root, from whom nothing is kept.
    monkeypatch.setattr(Path, "stat", refusing_stat)
    monkeypatch.setattr(Path, "open", refusing_open)
    for source in ("oci:dir", "oci-archive:a.tar", "bundle:a.tar", "oci-archive:home/a.tar"):
        path = source.partition(":")[2]
        failed = create(tmp_path, source, code=2)
        assert (
            f"`{path}` cannot be read: permission denied\n  next: see who may read it: ls -ld {path}" in failed.stderr
        )
    closed = {str(tmp_path / "shut/new.tar.previous.001.partial")}
    (tmp_path / "shut").mkdir()
    failed = create(tmp_path, "oci:dir", "-o", "shut/new.tar", code=2)
    assert f"`{tmp_path}/shut/new.tar` cannot be written: permission denied" in failed.stderr


def test_a_place_for_an_archive_that_is_no_file(tmp_path: Path) -> None:
    content = Content()
    write_directory(tmp_path / "dir", layout(content, (content.image(), {REF_NAME: "app:1"})))
    failed = create(tmp_path, "oci:dir", "-o", "usb/", code=2)
    assert "the directory `usb` does not exist\n  next: mkdir -p usb\n" in failed.stderr
    assert not (tmp_path / "usb").exists()
    (tmp_path / "usb").mkdir()
    failed = create(tmp_path, "oci:dir", "-o", "usb/", code=2)
    assert f"next: name a file: -o {tmp_path}/usb/offline.tar" in failed.stderr
    failed = create(tmp_path, "oci:dir", "-o", "~/out/new.tar", code=2)
    assert f"next: no shell has replaced the `~`: write {tmp_path}/out\n" in failed.stderr
    assert not (tmp_path / "~").exists()


def test_what_is_no_file_is_to_be_saved_first(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "-", "/dev/null"):
        failed = create(tmp_path, f"docker-archive:{name}", code=2)
        assert f"`docker-archive:{name}` is not a file: expected one" in failed.stderr
        assert "`docker save -o FILE IMAGE`" in failed.stderr


def test_a_file_whose_kind_was_forgotten(hub: FakeRegistry, tmp_path: Path) -> None:
    content = Content()
    files = layout(content, (content.image(), {REF_NAME: "app:1"}))
    write_directory(tmp_path / "lay", files)
    (tmp_path / "lay.tar").write_bytes(tar(files))
    (tmp_path / "lay.tar.gz").write_bytes(packed(tar(files), "gz"))
    expected = {"lay": "oci:lay", "lay.tar": "oci-archive:lay.tar", "lay.tar.gz": "oci-archive:lay.tar.gz, docker-arch"}
    for name, step in expected.items():
        failed = create(tmp_path, name, "--mirror", f"docker.io={hub.host}", code=5)
        assert f"next: a file is here that is called so, if that is meant: {step}" in failed.stderr
    failed = create(tmp_path, "absent", "--mirror", f"docker.io={hub.host}", code=5)
    assert "a file is here" not in failed.stderr


def test_all_files_that_cannot_be_used_are_named_at_once(tmp_path: Path) -> None:
    failed = create(tmp_path, "oci:one", "hauler:two", code=2)
    assert "2 files cannot be used" in failed.stderr
    assert "oci:one: `one` is not there" in failed.stderr
    assert "hauler:two: `two` is not there" in failed.stderr


def _wrong(files: Files, change: str) -> Files:
    index = index_value(files)
    blob = next(name for name, data in files.items() if data.startswith(b"\x1f\x8b"))
    manifest = f"blobs/sha256/{index['manifests'][0]['digest'][7:]}"
    if change == "layer":
        return {**files, blob: files[blob][:-1] + b"x"}
    if change == "short layer":
        return {**files, blob: files[blob][:-1]}
    if change == "no layer":
        return {name: data for name, data in files.items() if name != blob}
    if change == "manifest":
        return {**files, manifest: files[manifest] + b" "}
    if change == "size":
        index["manifests"][0]["size"] += 1
    elif change == "media type":
        index["manifests"][0]["mediaType"] = "application/vnd.oci.image.index.v1+json"
    elif change == "nested":
        return {**files, "index.json": b"[" * 100_000}
    elif change == "huge":
        return {**files, "index.json": b'{"manifests":[]' + b" " * (17 << 20) + b"}"}
    elif change == "no list":
        return {**files, "index.json": b'{"manifests":{}}'}
    elif change == "not there":
        return {name: data for name, data in files.items() if name != manifest}
    return {**files, "index.json": json.dumps(index).encode()}


@pytest.mark.parametrize("form", ["directory", "tar", "zst"])
@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("layer", 3, "has other bytes"),
        ("short layer", 3, "are not whole"),
        ("no layer", 3, "are not whole"),
        ("manifest", 3, "has other bytes than its digest says"),
        ("size", 3, "says that sha256:"),
        ("media type", 0, ""),
        ("nested", 3, "in index.json, it is"),
        ("huge", 3, "`index.json` has 17"),
        ("no list", 3, "the index has no list of manifests"),
        ("not there", 2, "has no image"),
    ],
)
def test_content_that_lies(tmp_path: Path, form: str, change: str, code: int, message: str) -> None:
    content = Content()
    files = _wrong(layout(content, (content.image("linux/amd64"), {REF_NAME: "app:1"})), change)
    source = "oci:dir" if form == "directory" else "oci-archive:a.tar"
    if form == "directory":
        write_directory(tmp_path / "dir", files)
    else:
        (tmp_path / "a.tar").write_bytes(packed(tar(files), "" if form == "tar" else form))
    failed = create(tmp_path, source, "-o", "new.tar", code=code)
    assert message.replace("in index.json, it is", "index.json") in failed.stderr
    assert (tmp_path / "new.tar").exists() == (code == 0)
    assert not (tmp_path / "new.tar.spool").exists()


def test_no_flipped_bit_gives_another_image_or_a_traceback(tmp_path: Path) -> None:
    content = Content()
    index = debian(content)
    data = tar(layout(content, (index, named("docker.io/library/debian:12"))))
    random = Random(1)
    for _ in range(60):
        changed = bytearray(data)
        changed[random.randrange(data.index(b"\x1f\x8b"))] ^= 1 << random.randrange(8)
        (tmp_path / "a.tar").write_bytes(changed)
        done = bundle("create", "oci-archive:a.tar", "--plan", "--json", *ALONE, cwd=tmp_path)
        assert "Traceback" not in done.stderr
        result = json.loads(done.stdout)
        assert done.returncode in (0, 2, 3, 5), result
        # Another name may come of it, which nothing protects; never other content.
        assert all(image["digest"] == str(index.digest) for image in result.get("images", ()))


def test_an_index_of_too_many_levels(tmp_path: Path) -> None:
    content = Content()
    root = content.index(content.image("linux/amd64"))
    for _ in range(20):
        root = content.index(root)
    write_directory(tmp_path / "dir", layout(content, (root, {REF_NAME: "app:1"})))
    failed = create(tmp_path, "oci:dir", code=5)
    assert "more than 16 levels of indexes" in failed.stderr


@pytest.mark.parametrize("how", ["", "gz"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("layer", "layer 0 of `app:1` in `a.tar` has the digest sha256:"),
        ("config", "its name says"),
        ("no config", "has no config"),
        ("no layer", "has no `"),
        ("more layers", "has 2 layers: its config says 1"),
        ("zipped layer", "layer 0 of `app:1`"),
        ("broken gzip", "is not valid gzip"),
        ("rootfs", "cannot be used"),
        ("entries", "manifest.json is not a list"),
        ("entry", "an entry of manifest.json"),
    ],
)
def test_a_docker_archive_that_lies(tmp_path: Path, change: str, message: str, how: str) -> None:
    files = saved((["app:1"], [layer_tar("x")]))
    entry: Any = json.loads(files["manifest.json"])
    config, name = entry[0]["Config"], entry[0]["Layers"][0]
    if change == "layer":
        files[name] = layer_tar("other")
    elif change == "zipped layer":
        files[name] = layer("other")
    elif change == "broken gzip":
        files[name] = gzip.compress(layer_tar("x"))[:-50]
    elif change == "config":
        files[config] += b" "
    elif change in ("no config", "no layer"):
        del files[config if change == "no config" else name]
    elif change == "more layers":
        entry[0]["Layers"].append(name)
    elif change == "rootfs":
        value = json.dumps({"rootfs": [1]}).encode()
        entry[0]["Config"] = "c.json"
        files["c.json"] = value
    elif change == "entries":
        entry = {}
    elif change == "entry":
        entry[0]["Layers"] = "x"
    files["manifest.json"] = json.dumps(entry).encode()
    (tmp_path / "a.tar").write_bytes(packed(tar(files), how))
    failed = bundle("create", "docker-archive:a.tar", *ALONE, cwd=tmp_path)
    assert failed.returncode == 3, failed.stderr
    assert message in failed.stderr


@pytest.mark.parametrize("how", ["zst", "gz", "xz", "bz2"])
def test_a_compressed_file_that_is_cut_or_broken(tmp_path: Path, how: str) -> None:
    content = Content()
    data = packed(tar(layout(content, (content.image("linux/amd64"), {REF_NAME: "app:1"}))), how)
    for number, wrong in enumerate((data[: len(data) // 2], data[:20], data[:100] + b"xxxx" + data[104:])):
        (tmp_path / "a.tar").write_bytes(wrong)
        failed = bundle("create", "oci-archive:a.tar", *ALONE, cwd=tmp_path)
        # With its first bytes it may be no gzip any more; no registry is to blame.
        assert failed.returncode == 3, (number, failed.stderr)
        assert "next: copy it again from where it was made" in failed.stderr
        assert number == 2 or "ends early" in failed.stderr or "ended before" in failed.stderr, failed.stderr
        assert list(tmp_path.iterdir()) == [tmp_path / "a.tar"]


def test_a_delta_names_its_base_and_is_whole_with_it(tmp_path: Path) -> None:
    content = Content()
    old, new = content.image(seed="old"), content.image(layers=[layer("old-linux/amd64-0"), layer("new")])
    write_directory(tmp_path / "one", layout(content, (old, {REF_NAME: "app:1"})))
    write_directory(tmp_path / "two", layout(content, (new, {REF_NAME: "app:1"})))
    create(tmp_path, "oci:one", "-o", "base.tar")
    create(tmp_path, "oci:two", "--base", "base.tar", "-o", "delta.tar")
    with Archive(tmp_path / "base.tar") as archive:
        digest = archive.digest
    failed = create(tmp_path, "bundle:delta.tar", code=3)
    assert f"`delta.tar` is a delta: what it leaves out is in its base, offline {digest}" in failed.stderr
    assert "app:1: 1 of its layers is not in `delta.tar`" in failed.stderr
    # What the host has already need not be anywhere.
    create(tmp_path, "bundle:delta.tar", "--base", "base.tar", "-o", "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "delta.tar").read_bytes()
    for order in (("bundle:delta.tar", "bundle:base.tar"), ("bundle:base.tar", "bundle:delta.tar")):
        create(tmp_path, *order, "-o", "whole.tar")
        assert images_of(tmp_path / "whole.tar") == {"app:1": new.digest}


def test_a_damaged_archive_of_ours_is_refused_as_everywhere(tmp_path: Path) -> None:
    content = Content()
    write_directory(tmp_path / "dir", layout(content, (content.image(seed="old"), {REF_NAME: "app:1"})))
    create(tmp_path, "oci:dir", "-o", "old.tar")
    data = (tmp_path / "old.tar").read_bytes()
    (tmp_path / "old.tar").write_bytes(data[:-1000])
    failed = create(tmp_path, "bundle:old.tar", "-o", "new.tar", code=3)
    assert "is cut short" in failed.stderr
    position = data.index(layer("old-linux/amd64-0")[:100]) + 50
    (tmp_path / "old.tar").write_bytes(data[:position] + b"x" + data[position + 1 :])
    failed = create(tmp_path, "bundle:old.tar", "-o", "new.tar", code=3)
    assert "in `old.tar` than its digest says" in failed.stderr
    signers = tmp_path / "signers"
    signers.write_text("")
    (tmp_path / "old.tar").write_bytes(data)
    failed = create(tmp_path, "bundle:old.tar", "--allowed-signers", signers, code=3)
    assert "is not signed" in failed.stderr


def test_who_signed_an_archive_of_ours_is_asked(tmp_path: Path) -> None:
    for name in ("us", "them"):
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name))
        subprocess.run(command, check=True)
        key = (tmp_path / f"{name}.pub").read_text()
        (tmp_path / f"{name}.signers").write_text(f"{name}@corp {key}")
    content = Content()
    write_directory(tmp_path / "dir", layout(content, (content.image(), {REF_NAME: "app:1"})))
    create(tmp_path, "oci:dir", "--sign", "us", "-o", "old.tar")
    create(tmp_path, "bundle:old.tar", "--allowed-signers", "us.signers", "--signer", "us@corp", "-o", "new.tar")
    failed = create(tmp_path, "bundle:old.tar", "--allowed-signers", "them.signers", "-o", "none.tar", code=3)
    assert "old.tar" in failed.stderr or "signed" in failed.stderr
    assert not (tmp_path / "none.tar").exists()
    for source, hint in (("oci:dir", "name the archive as bundle:FILE"), ("debian:12", "name the archive as")):
        failed = create(tmp_path, source, "--allowed-signers", "us.signers", code=2)
        assert "--allowed-signers says who must have signed a bundle:FILE, and none is named" in failed.stderr
        assert f"next: {hint}" in failed.stderr
    both = ("bundle:old.tar", "oci-archive:old.tar", "--allowed-signers", "us.signers", "-o", "none.tar")
    failed = create(tmp_path, *both, code=2)
    assert "next: bundle:old.tar" in failed.stderr
    failed = create(tmp_path, "bundle:old.tar", "--signer", "us@corp", code=2)
    assert "--signer needs --allowed-signers" in failed.stderr


TOML = 'images = ["app:1=oci:dir:1"]\nplatforms = ["linux/amd64"]\n[toolchain]\n' + "".join(
    f"{role} = false\n" for role in ALONE[1::2]
)


def test_a_lock_pins_what_files_have_and_names_them(tmp_path: Path) -> None:
    content = Content()
    one, two = content.image(seed=1), content.image(seed=2)
    write_directory(tmp_path / "dir", layout(content, (one, {REF_NAME: "1"})))
    (tmp_path / "bundle.toml").write_text(TOML)
    assert bundle("lock", cwd=tmp_path).returncode == 0
    (image,) = json.loads((tmp_path / "bundle.lock").read_bytes())["images"]
    assert (image["reference"], image["digest"]) == ("docker.io/library/app:1", str(one.digest))
    assert image["from"] == "app:1=oci:dir:1"
    again = bundle("lock", cwd=tmp_path)
    assert "nothing moved" in again.stdout
    assert bundle("create", "-f", "bundle.toml", "-o", "one.tar", cwd=tmp_path).returncode == 0
    write_directory(tmp_path / "dir", layout(content, (two, {REF_NAME: "1"})))
    moved = f"app:1: it is {two.digest} in `app:1=oci:dir:1`, locked is {one.digest}"
    for command in (("create", "-f", "bundle.toml"), ("lock",)):
        failed = bundle(*command, cwd=tmp_path)
        assert failed.returncode == 5
        assert moved in failed.stderr
        assert "lock -f bundle.toml --upgrade app:1" in failed.stderr
        assert "their files have changed, or the zstd level or version" in failed.stderr
    upgraded = bundle("lock", "--upgrade", "app:1", cwd=tmp_path)
    assert f"moved    app:1  {one.digest} -> {two.digest}" in upgraded.stdout
    assert bundle("create", "-f", "bundle.toml", "-o", "two.tar", cwd=tmp_path).returncode == 0
    assert images_of(tmp_path / "two.tar") == {"app:1": two.digest}
    (tmp_path / "bundle.toml").write_text(TOML.replace("oci:dir:1", "oci:dir"))
    failed = bundle("create", "-f", "bundle.toml", cwd=tmp_path)
    assert failed.returncode == 2
    assert "`app:1` comes from app:1=oci:dir, locked is app:1=oci:dir:1" in failed.stderr


def test_all_images_of_a_lock_that_moved_are_upgraded_by_one_command(tmp_path: Path) -> None:
    for seed in ("old", "new"):
        content = Content()
        images = [(content.image(seed=f"{seed}-{name}"), {REF_NAME: f"{name}:1"}) for name in ("one", "two")]
        write_directory(tmp_path / "dir", layout(content, *images))
        (tmp_path / "bundle.toml").write_text(TOML.replace("app:1=oci:dir:1", "oci:dir"))
        if seed == "old":
            assert bundle("lock", cwd=tmp_path).returncode == 0
    failed = bundle("create", "-f", "bundle.toml", cwd=tmp_path)
    assert failed.returncode == 5
    (step,) = (line for line in failed.stderr.splitlines() if "next: " in line)
    assert bundle("lock", *shlex.split(step.partition(" lock ")[2]), cwd=tmp_path).returncode == 0
    assert bundle("create", "-f", "bundle.toml", "-o", "new.tar", cwd=tmp_path).returncode == 0
    assert images_of(tmp_path / "new.tar") == {f"{name[REF_NAME]}": image.digest for image, name in images}


def test_links_in_a_circle_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for kind in ("oci", "oci-archive", "bundle"):
        failed = create(tmp_path, f"{kind}:loop", code=2)
        # From Python 3.13 on the link is followed no further, and what it names is not there.
        assert "`loop` cannot be used: " in failed.stderr or "`loop` is not there" in failed.stderr
        assert "Traceback" not in failed.stderr


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the documents that are read from files, and of the archives of ours, as often as each is."""
    names: list[str] = []
    read, read_manifest = Contents.read, Archive._read_manifest

    def counted(self: Contents, name: str, limit: int = MAX_CONFIG_SIZE) -> bytes:
        names.append(name)
        return read(self, name, limit)

    def opened(self: Archive) -> bytes:
        names.append(str(self.path))
        return read_manifest(self)

    monkeypatch.setattr(Contents, "read", counted)
    monkeypatch.setattr(Archive, "_read_manifest", opened)
    return names


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "bundle"])
def test_a_file_that_is_named_often_is_opened_once(tmp_path: Path, reads: list[str], kind: str) -> None:
    content = Content()
    images = [content.image("linux/amd64", layers=1, size=10, seed=number) for number in range(20)]
    names = [f"app{number}:1" for number in range(20)]
    files = layout(content, *((image, {REF_NAME: name}) for image, name in zip(images, names)))
    if kind == "docker-archive":
        files = saved(*(([name], [layer_tar(name, 10)]) for name in names))
    (tmp_path / "a.tar").write_bytes(tar(files))
    if kind == "bundle":
        create(tmp_path, "oci-archive:a.tar", "-o", "b.tar")
        (tmp_path / "b.tar").replace(tmp_path / "a.tar")
    reads.clear()
    create(tmp_path, *(f"{kind}:a.tar:{name}" for name in names), "-o", "new.tar")
    most = max(map(reads.count, reads))
    found = images_of(tmp_path / "new.tar")
    assert list(found) == names
    if kind != "docker-archive":
        assert list(found.values()) == [image.digest for image in images]
    assert most < 10, reads


def test_a_file_that_is_named_often_and_cannot_be_used_is_read_once(tmp_path: Path, reads: list[str]) -> None:
    content = Content()
    good = [(content.image(seed=number, size=10), {REF_NAME: f"app{number}:1"}) for number in range(20)]
    bad, _ = good[-1]
    content.content[bad.digest] = b"{}"
    (tmp_path / "a.tar").write_bytes(tar(layout(content, *good)))
    failed = create(tmp_path, *(f"oci-archive:a.tar:{name[REF_NAME]}" for _, name in good), code=3)
    assert "20 files cannot be used" in failed.stderr
    assert failed.stderr.count(f"{bad.digest.blob_path}` in `a.tar` has other bytes") == 20
    assert max(map(reads.count, reads)) < 10, reads


def test_an_image_that_is_listed_often_is_looked_at_once(tmp_path: Path, reads: list[str]) -> None:
    content = Content()
    index = content.index(*[content.image("linux/amd64")] * 50)
    files = layout(content, *((index, {REF_NAME: f"app{number}:1"}) for number in range(100)))
    write_directory(tmp_path / "dir", files)
    request = FileRequest.parse("oci:dir", tmp_path)
    assert request
    with LayoutFile(request.path, Directory(tmp_path / "dir")) as file:
        assert len(file.images) == 100
        source = FilesSource(
            cast(Source, None),
            [file],
            [Taken(Reference.parse(held.label), held, file, request) for held in file.images],
        )
        assert [list(file.platforms_of(held)) for held in file.images] == [[Platform("linux", "amd64")]] * 100
        assert source.has(index)
    assert len(reads) < 12, reads


@pytest.mark.parametrize("locked", [False, True])
def test_many_names_of_one_image_are_resolved_at_once(tmp_path: Path, reads: list[str], locked: bool) -> None:
    content = Content()
    image = content.image("linux/amd64", seed="app")
    absent = content.attestation(image)
    index = content.index(image, absent, *(content.image("linux/s390x", seed=number, size=10) for number in range(20)))
    del content.content[absent.digest]
    names = [f"app{number}:1" for number in range(20)]
    write_directory(tmp_path / "dir", layout(content, *((index, {REF_NAME: name}) for name in names)))
    source: tuple[str, ...] = ("oci:dir", "--platform", "linux/amd64")
    if locked:
        toolchain = "".join(f"{role} = false\n" for role in TOOLCHAIN)
        (tmp_path / "bundle.toml").write_text(
            f'images = ["oci:dir"]\nplatforms = ["linux/amd64"]\n[toolchain]\n{toolchain}'
        )
        assert bundle("lock", cwd=tmp_path).returncode == 0
        source = ("-f", "bundle.toml")
    reads.clear()
    done = create(tmp_path, *source, "-o", "new.tar")
    most = max(map(reads.count, reads))
    assert images_of(tmp_path / "new.tar") == dict.fromkeys(names, index.digest)
    with Archive(tmp_path / "new.tar") as archive:
        assert {each.platforms for each in archive.manifest.images} == {archive.manifest.images[0].platforms}
        assert archive.manifest.images[0].platforms[0].manifest.digest == image.digest
    assert done.stderr.count("is not there") == 1
    assert f"app0:1 and 19 more: its attestation {absent.digest} is not there" in done.stderr
    assert most < 10, reads


def test_an_index_inside_many_images_is_read_and_parsed_a_few_times(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = Content()
    image, arm = content.image("linux/amd64", size=10), content.image("linux/arm64", size=10)
    inner = content.index(*[arm] * 20, *([content.index(arm)] * 20))
    roots = []
    for number in range(60):
        value = {"schemaVersion": 2, "manifests": [image.to_json(), inner.to_json()], "annotations": {"n": str(number)}}
        roots.append(content.add(inner.media_type, json.dumps(value).encode()))
    write_directory(
        tmp_path / "dir", layout(content, *((root, {REF_NAME: f"app:{root.digest.hex}"}) for root in roots))
    )
    parsed: list[bytes] = []

    def counted(data: bytes) -> tuple[Entry, ...]:
        parsed.append(data)
        return index_entries(data)

    monkeypatch.setattr(resolve, "index_entries", counted)
    create(tmp_path, "oci:dir", "-o", "new.tar")
    count = reads.count(inner.digest.blob_path)
    with Archive(tmp_path / "new.tar") as archive:
        verify_archive(archive)
        assert [each.root.digest for each in archive.manifest.images] == [root.digest for root in roots]
        assert {tuple(str(one.platform) for one in each.platforms) for each in archive.manifest.images} == {
            ("linux/amd64", "linux/arm64")
        }
    # As many at once as there are workers, which are 16, and a few before.
    assert count < 30
    assert parsed.count(content.data(inner)) < 20


def test_of_many_platforms_that_are_not_wanted_some_are_said(tmp_path: Path) -> None:
    content = Content()
    platforms = [f"linux/arch{number}" for number in range(25)]
    index = content.index(*(content.image(each, size=10) for each in platforms))
    write_directory(tmp_path / "dir", layout(content, (index, {REF_NAME: "app:1"})))
    failed = create(tmp_path, "oci:dir", code=5)
    assert "`dir` has it for linux/arch0, " in failed.stderr
    assert "linux/arch19 and 5 more, and not for linux/amd64, linux/arm64" in failed.stderr
    step = failed.stderr[failed.stderr.index("for what it has: ") + 17 :].splitlines()[0]
    create(tmp_path, *shlex.split(step), "-o", "new.tar")
    with Archive(tmp_path / "new.tar") as archive:
        assert [str(one.platform) for one in archive.manifest.images[0].platforms] == platforms[:20]


def test_what_is_attached_in_a_haul_is_gone_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Content()
    images = [content.image(seed=number, size=10) for number in range(20)]
    signatures = [content.image(seed=f"signature {number}", size=10) for number in range(20)]
    entries = [(each, "docker.io/library/app:1", "image") for each in images]
    entries += [(each, "docker.io/library/app:1", "sigs") for each in signatures]
    files = haul(content, *entries, (images[0], "docker.io/library/other:1", "image"))
    path = write_directory(tmp_path / "dir", files)
    tagged: list[Digest] = []
    digits = cast(property, Digest.hex).fget
    assert digits

    def counted(self: Digest) -> str:
        tagged.append(self)
        return str(digits(self))

    with Directory(path) as contents, HaulFile(path, contents) as file:
        monkeypatch.setattr(Digest, "hex", property(counted))
        file._sort(
            [
                LayoutEntry({}, Descriptor.from_json(value), number)
                for number, value in enumerate(index_value(files)["manifests"])
            ]
        )
        monkeypatch.undo()
        # Of several of one name the last counts, for each image of that name.
        assert file.tags == {f"sha256-{each.digest.hex}.sig": signatures[-1] for each in images}
    assert len(tagged) < 10 * len(images)


def test_names_of_one_image_for_other_platforms_are_resolved_each(tmp_path: Path) -> None:
    content = Content()
    index = debian(content)
    write_directory(tmp_path / "dir", layout(content, (index, {REF_NAME: "a:1"}), (index, {REF_NAME: "b:1"})))
    create(tmp_path, "oci:dir:a:1,platform=linux/amd64", "oci:dir:b:1,platform=linux/arm64", "-o", "new.tar")
    with Archive(tmp_path / "new.tar") as archive:
        found = {each.reference.familiar: str(each.platforms[0].platform) for each in archive.manifest.images}
    assert found == {"a:1": "linux/amd64", "b:1": "linux/arm64"}


def test_a_lock_of_compressed_files_writes_nothing_but_itself(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(packed(tar(saved((["app:1"], [layer_tar("x"), layer("y")]))), "gz"))
    (tmp_path / "bundle.toml").write_text(TOML.replace("app:1=oci:dir:1", "docker-archive:a.tar.gz"))
    assert bundle("lock", cwd=tmp_path).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "bundle.toml", "bundle.lock"}
    done = bundle("create", "-f", "bundle.toml", "-o", "new.tar", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (image,) = json.loads((tmp_path / "bundle.lock").read_bytes())["images"]
    assert str(images_of(tmp_path / "new.tar")["app:1"]) == image["digest"]


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bundler.planning import files

    content = Content()
    data = bytearray(tar(layout(content, (content.image("linux/amd64"), {REF_NAME: "app:1"}))))
    (tmp_path / "a.tar").write_bytes(data)
    check = files.FromFiles.check

    def change(self: Any, *arguments: Any) -> None:
        check(self, *arguments)
        position = data.index(b"\x1f\x8b") + 5_000
        data[position] ^= 1
        (tmp_path / "a.tar").write_bytes(data)

    monkeypatch.setattr(files.FromFiles, "check", change)
    failed = create(tmp_path, "oci-archive:a.tar", "-o", "new.tar", code=3)
    assert "it is damaged, or changed while it was read" in failed.stderr
    assert not (tmp_path / "new.tar").exists()
