"""Images out of files of skopeo, regctl, crane, oras and three engines. They reach a registry as they were."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bundler.sources import zstd
from bundles.archive.reader import Archive
from tests.support.real_registry import RealRegistry
from tests.testbed import ORIGIN, Host, debian, gotools, start_origin

pytestmark = pytest.mark.e2e
BUNDLE = Path(sys.executable).parent / "bundle"
BUSYBOX, HELD = "library/busybox:1.35", "docker.io/library/busybox:1.35"
ALONE = [f"--without={role}" for role in ("registry", "buildkit", "buildx", "binfmt", "frontend", "python")]


@pytest.fixture(scope="module", autouse=True)
def origin() -> None:
    start_origin()


def run(cwd: Path, *command: object) -> str:
    environment = {**os.environ, "HOME": str(cwd)}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bundle(cwd: Path, *arguments: object) -> Any:
    return json.loads(run(cwd, BUNDLE, *arguments, "--json"))


def served(host: str, name: str, selector: str) -> tuple[str, bytes]:
    """The digest and the bytes of what a registry serves."""
    accept = ", ".join(
        f"application/vnd.{kind}" for kind in (
            "oci.image.index.v1+json", "oci.image.manifest.v1+json",
            "docker.distribution.manifest.list.v2+json", "docker.distribution.manifest.v2+json",
        )
    )  # fmt: skip
    request = urllib.request.Request(f"http://{host}/v2/{name}/manifests/{selector}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        data: bytes = answer.read()
    return "sha256:" + hashlib.sha256(data).hexdigest(), data


def skopeo(cwd: Path, *arguments: object) -> None:
    run(cwd, "skopeo", "--tmpdir", cwd, "--insecure-policy", *arguments)


def write_files(cwd: Path) -> dict[str, str]:
    """Write busybox, from the origin, in the form of each tool; gives each file's prefix, by its name."""
    source = f"docker://{ORIGIN}/{BUSYBOX}"
    copy = ("copy", "-q", "--all", "--src-tls-verify=false", source)
    skopeo(cwd, *copy, f"oci:skopeo:{HELD}")
    skopeo(cwd, *copy, f"oci-archive:skopeo.tar:{HELD}")
    regctl, crane = gotools.REGCTL.make(), debian.CRANE.make()
    run(cwd, regctl, "registry", "set", ORIGIN, "--tls", "disabled")
    run(cwd, regctl, "image", "export", f"{ORIGIN}/{BUSYBOX}", "regctl.tar", "--name", HELD)
    run(cwd, crane, "pull", "--insecure", "--format=oci", "--annotate-ref", f"{ORIGIN}/{BUSYBOX}", "crane")
    run(cwd, debian.ORAS.make(), "copy", "--from-plain-http", f"{ORIGIN}/{BUSYBOX}", "--to-oci-layout", "oras:1.35")
    return {"skopeo": "oci", "skopeo.tar": "oci-archive", "regctl.tar": "oci-archive", "crane": "oci", "oras": "oci"}


def test_layouts_of_every_tool_keep_all_digests(tmp_path: Path) -> None:
    digest, index = served(ORIGIN, *BUSYBOX.split(":"))
    for name, kind in write_files(tmp_path).items():
        source = f"{HELD}={kind}:{name}"
        made = bundle(tmp_path, "create", source, *ALONE, "-o", f"{name}.bundle.tar")
        (image,) = made["images"]
        assert (image["digest"], image["sparse"]) == (digest, False), name
        assert made["downloadSize"] == 0 < made["copiedSize"]
    with RealRegistry("distribution3", tmp_path) as destination:
        bundle(
            tmp_path,
            "push",
            "skopeo.tar.bundle.tar",
            f"{destination.host}/site",
            "--insecure-registry",
            destination.host,
        )
        assert served(destination.host, f"site/{BUSYBOX[:-5]}", "1.35") == (digest, index)
        for child in json.loads(index)["manifests"]:
            assert served(destination.host, "site/library/busybox", child["digest"])[0] == child["digest"]


def test_docker_archives_of_skopeo_and_crane(tmp_path: Path) -> None:
    source = f"{ORIGIN}/{BUSYBOX}"
    skopeo(tmp_path, "--override-arch", "arm64", "copy", "-q", "--src-tls-verify=false", f"docker://{source}",
           f"docker-archive:skopeo.tar:{HELD}")  # fmt: skip
    crane = debian.CRANE.make()
    for form in ("tarball", "legacy"):
        run(
            tmp_path,
            crane,
            "pull",
            "--insecure",
            "--platform",
            "linux/arm64",
            f"--format={form}",
            source,
            f"{form}.tar",
        )
    run(tmp_path, "gzip", "-k", "skopeo.tar")
    expected = json.loads(run(tmp_path, crane, "config", "--insecure", "--platform", "linux/arm64", source))
    found: dict[str, str] = {}
    for name in ("skopeo.tar", "skopeo.tar.gz", "tarball.tar", "legacy.tar"):
        made = bundle(tmp_path, "create", f"{HELD}=docker-archive:{name}", *ALONE, "-o", f"{name}.bundle.tar")
        (image,) = made["images"]
        found[name] = image["digest"]
        config, layers = content(tmp_path / f"{name}.bundle.tar")
        assert config["rootfs"] == expected["rootfs"], name
        assert layers == expected["rootfs"]["diff_ids"], name
    assert found["skopeo.tar"] == found["skopeo.tar.gz"]


def content(path: Path) -> tuple[Any, list[str]]:
    """The config of the only image in an archive, and the digests of its layers, unpacked."""
    with Archive(path) as archive:
        (image,) = archive.manifest.images
        (platform,) = image.platforms
        blobs = {blob.digest.text: blob for blob in archive.manifest.blobs}
        manifest = json.loads(archive.read_document(platform.manifest))
        config = json.loads(archive.read_document(blobs[manifest["config"]["digest"]]))
        layers = []
        for entry in manifest["layers"]:
            reader, hashed = archive.open_blob(blobs[entry["digest"]]), hashlib.sha256()
            for piece in zstd.unpacked(iter(reader.read, b""), "a layer"):
                hashed.update(piece)
            layers.append(f"sha256:{hashed.hexdigest()}")
    return config, layers


@pytest.mark.parametrize(
    ("suite", "containerd"), [("bookworm", False), ("sid", False), ("sid", True)], ids=["20.10", "28", "28-containerd"]
)
def test_what_docker_saves(suite: str, containerd: bool, tmp_path: Path) -> None:
    skopeo(tmp_path, "copy", "-q", "--src-tls-verify=false", f"docker://{ORIGIN}/{BUSYBOX}",
           f"docker-archive:in.tar:{HELD}")  # fmt: skip
    config: Mapping[str, Any] = {"features": {"containerd-snapshotter": containerd}}
    with Host(suite=suite, name=f"saves-{suite}", daemon_config=config) as host:
        host.copy_in(tmp_path / "in.tar", "/root/in.tar")
        host.run("docker", "load", "-i", "/root/in.tar")
        host.run("docker", "tag", "busybox:1.35", "team/other:2")
        identity = host.run("docker", "image", "inspect", "-f", "{{.Id}}", "busybox:1.35").stdout.strip()
        host.run("docker", "save", "-o", "/root/out.tar", "busybox:1.35", "team/other:2")
        (tmp_path / "out.tar").write_bytes(host.path("/root/out.tar").read_bytes())
    made = bundle(tmp_path, "create", "docker-archive:out.tar", *ALONE, "-o", "new.tar")
    assert {image["reference"] for image in made["images"]} == {HELD, "docker.io/team/other:2"}
    assert len({image["digest"] for image in made["images"]}) == 1
    one = bundle(tmp_path, "create", "docker-archive:out.tar:busybox:1.35", *ALONE, "-o", "one.tar")
    value, layers = content(tmp_path / "one.tar")
    assert layers == value["rootfs"]["diff_ids"]
    (image,) = one["images"]
    if containerd:
        # The image's id is the digest of its manifest there.
        assert image["digest"] == identity
    else:
        with Archive(tmp_path / "one.tar") as archive:
            manifest = json.loads(archive.read_document(archive.manifest.images[0].platforms[0].manifest))
        assert manifest["config"]["digest"] == identity
    with RealRegistry("distribution3", tmp_path) as destination:
        bundle(tmp_path, "push", "new.tar", f"{destination.host}/site", "--insecure-registry", destination.host)
        assert served(destination.host, "site/team/other", "2")[0] == image["digest"]
