"""`bundle create` against the origin registry, and what other tools make of the archive."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.real_registry import RealRegistry
from tests.testbed import ORIGIN, Host, debian, gotools, origin_digests, start_origin

pytestmark = pytest.mark.e2e

IMAGES = ("debian:12", "gcc:12", "busybox-arm64:1.35")
COMPLETE = ("--without", "python")
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8"}
# Runs a command as a child and reports the most memory that it had, in KiB, behind its output.
MEASURED = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
MEASURED += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"


def run(*command: object, **options: Any) -> str:
    done = subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, env=ENVIRONMENT, **options
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def bundle(*arguments: object) -> str:
    return run(Path(sys.executable).with_name("bundle"), *arguments)


@pytest.fixture(scope="module", autouse=True)
def origin() -> None:
    start_origin()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, origin: None) -> Path:
    """An archive that is complete, attestations included, so that tools which copy whole indexes can copy it.

    The toolchain is for amd64 only, so its one image that has more platforms stays out.
    """
    path = tmp_path_factory.mktemp("usb") / "offline.tar"
    bundle("create", *IMAGES[:2], "-o", path, "--mirror", f"docker.io={ORIGIN}", *COMPLETE, "-q")
    return path


@pytest.fixture(scope="module")
def layout(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive unpacked by GNU tar."""
    directory = tmp_path_factory.mktemp("layout")
    done = subprocess.run(
        ["tar", "-xf", archive, "-C", directory], check=False, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return directory


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[str]:
    with RealRegistry("distribution3", tmp_path) as registry:
        yield registry.host


def images(archive: Path) -> dict[str, dict[str, Any]]:
    manifest = json.loads(bundle("inspect", archive, "--json"))["manifest"]
    return {image["reference"].removeprefix("docker.io/"): image for image in manifest["images"]}


def test_digests_are_those_of_the_origin(archive: Path) -> None:
    found = {name: image["digest"] for name, image in images(archive).items()}
    digests = origin_digests()
    assert len(found) == 7
    assert found == {name: digests[name] for name in found}


def test_gnu_tar_unpacks_blobs_that_are_what_they_are_called(layout: Path) -> None:
    blobs = list((layout / "blobs/sha256").iterdir())
    assert len(blobs) > 20
    for blob in blobs:
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def test_sha256sum_checks_the_archive(archive: Path) -> None:
    assert run("sha256sum", "-c", "offline.tar.sha256", cwd=archive.parent) == "offline.tar: OK\n"


@pytest.mark.parametrize("name", ["library/debian:12", "library/gcc:12", "library/registry:3"])
def test_skopeo_copies_with_digests(archive: Path, destination: str, name: str) -> None:
    digest = images(archive)[name]["digest"]
    source = f"oci-archive:{archive}:docker.io/{name}"
    assert "sha256:" + hashlib.sha256(run("skopeo", "inspect", "--raw", source).encode()).hexdigest() == digest
    target = f"docker://{destination}/{name}"
    # skopeo unpacks an archive to its temporary directory.
    run("skopeo", "--tmpdir", archive.parent, "copy", "--all", "--preserve-digests", "--dest-tls-verify=false", source,
        target)  # fmt: skip
    assert run("skopeo", "inspect", "--raw", "--tls-verify=false", target) == run("skopeo", "inspect", "--raw", source)


def test_skopeo_reads_the_docker_archive(archive: Path) -> None:
    config = run("skopeo", "--tmpdir", archive.parent, "inspect", "--config", f"docker-archive:{archive}:registry:3")
    assert json.loads(config)["architecture"] == "amd64"


def test_regctl_imports(archive: Path, destination: str) -> None:
    regctl = gotools.REGCTL.make()
    digest = images(archive)["library/gcc:12"]["digest"]
    run(regctl, "registry", "set", destination, "--tls", "disabled")
    target = f"{destination}/team/gcc:12"
    run(regctl, "image", "import", target, archive, "--name", "docker.io/library/gcc:12")
    assert run(regctl, "manifest", "head", target).strip() == digest


def test_crane_pushes(layout: Path, destination: str) -> None:
    crane = debian.CRANE.make()
    pushed = run(crane, "push", "--insecure", "--index", layout, f"{destination}/whole:1").strip()
    index = (layout / "index.json").read_bytes()
    assert pushed.endswith("sha256:" + hashlib.sha256(index).hexdigest())
    for entry in json.loads(index)["manifests"]:
        run(crane, "validate", "--insecure", "--remote", f"{destination}/whole@{entry['digest']}")


def test_crane_reads_the_docker_archive(archive: Path, destination: str) -> None:
    crane = debian.CRANE.make()
    run(crane, "push", "--insecure", archive, f"{destination}/registry:3")
    config = json.loads(run(crane, "config", "--insecure", f"{destination}/registry:3"))
    manifest = images(archive)["library/registry:3"]["platforms"][0]["digest"]
    crane_origin = json.loads(run(crane, "config", f"{ORIGIN}/library/registry@{manifest}"))
    assert config["rootfs"] == crane_origin["rootfs"]


def test_oras_reads_by_digest(archive: Path) -> None:
    """oras takes what follows the last colon as the tag, so a full reference cannot be given to it."""
    digest = images(archive)["library/debian:12"]["digest"]
    text = run(debian.ORAS.make(), "manifest", "fetch", "--oci-layout", f"{archive}@{digest}")
    assert "sha256:" + hashlib.sha256(text.encode()).hexdigest() == digest


def test_one_platform_of_a_sparse_index_is_copied_too(tmp_path: Path, destination: str) -> None:
    """Without attestations the indexes are sparse: tools copy a platform at a time."""
    archive = tmp_path / "sparse.tar"
    bundle("create", "debian:12", "--no-attestations", "-o", archive, "--mirror", f"docker.io={ORIGIN}", "-q")
    image = images(archive)["library/debian:12"]
    assert image["sparse"]
    source, target = f"oci-archive:{archive}:docker.io/library/debian:12", f"docker://{destination}/debian:arm64"
    run("skopeo", "--tmpdir", tmp_path, "--override-arch", "arm64", "copy", "--preserve-digests",
        "--dest-tls-verify=false", source, target)  # fmt: skip
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", target)
    arm64 = next(item for item in image["platforms"] if item["platform"] == "linux/arm64")
    assert "sha256:" + hashlib.sha256(raw.encode()).hexdigest() == arm64["digest"]


def test_umoci_unpacks(tmp_path: Path) -> None:
    """umoci resolves no platform, so it gets an image that is a bare manifest."""
    archive = tmp_path / "one.tar"
    bundle("create", IMAGES[2], "--platform", "linux/arm64", "-o", archive, "--mirror", f"docker.io={ORIGIN}", "-q")
    run("tar", "-xf", archive, "-C", tmp_path)
    umoci = debian.UMOCI.make()
    name = "docker.io/library/busybox-arm64:1.35"
    assert name in run(umoci, "ls", "--layout", tmp_path).split()
    run(umoci, "unpack", "--image", f"{tmp_path}:{name}", tmp_path / "bundle")
    with (tmp_path / "bundle/rootfs/bin/busybox").open("rb") as file:
        head = file.read(20)
    assert head[:4] == b"\x7fELF"
    assert head[18] == 183  # EM_AARCH64


def test_docker_load_gets_the_registry(archive: Path) -> None:
    with Host(name="load") as host:
        host.mount_in(archive.parent, "/usb", readonly=True)
        assert "Loaded image: registry:3" in host.run("docker", "load", "-i", "/usb/offline.tar").stdout
        assert host.run("docker", "run", "--rm", "registry:3", "--version").stdout.strip()


def test_the_same_again_gives_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    bundle("create", *IMAGES[:2], "-o", again, "--mirror", f"docker.io={ORIGIN}", *COMPLETE, "-q")
    run("cmp", archive, again)


def test_memory_stays_under_100_mb_whatever_the_images(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("bundle"), "create", "gcc:12", "-q"]
    output = run(sys.executable, "-c", MEASURED, *command, "-o", tmp_path / "x.tar", "--mirror", f"docker.io={ORIGIN}")
    assert (tmp_path / "x.tar").stat().st_size > 400 << 20
    assert int(output.split()[-1]) < 100_000
    output = run(sys.executable, "-c", MEASURED, *command[:1], "verify", tmp_path / "x.tar", "-q")
    assert int(output.split()[-1]) < 100_000


def test_everything_wrong_at_once_and_nothing_written(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("bundle"), "create", "debian:12.99", "gcc:12", "nosuch:1"]
    command += ["--platform", "linux/amd64,linux/s390x", "--mirror", f"docker.io={ORIGIN}"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 5
    assert "3 of 9 images cannot be bundled; nothing was written" in done.stderr
    assert "did you mean `debian:12`?" in done.stderr
    assert "gcc:12: has no linux/s390x: it has linux/amd64, linux/arm64" in done.stderr
    assert "nosuch:1" in done.stderr
    assert list(tmp_path.iterdir()) == []
