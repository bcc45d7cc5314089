"""`bundle export`: engines of three ages load what it writes and run it, and other tools find the same digests."""

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

from bundles.archive.reader import Archive
from tests.support.real_registry import RealRegistry
from tests.testbed import ORIGIN, Host, debian, gotools, start_origin

pytestmark = pytest.mark.e2e

NAME = "docker.io/library/busybox:1.35"
BUNDLE = [sys.executable, "-c", "from bundles.cli.app import main; main()"]
EXPORT = "python3 /usb/offline.tar export busybox:1.35 --to"


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def digest_of(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def usb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive with an archive of busybox, a damaged one, one with zstd layers, and layouts out of the first."""
    start_origin()
    directory = tmp_path_factory.mktemp("usb")
    directory.chmod(0o755)
    create = [*BUNDLE, "create", "-q", "busybox:1.35", "--mirror", f"docker.io={ORIGIN}"]
    tools = [word for role in ("buildkit", "buildx", "binfmt", "frontend") for word in ("--without", role)]
    run(*create, *tools, "-o", directory / "offline.tar")
    # Whatever else has the same layer keeps it as it is.
    recompress = ("--without", "python", "--without", "registry", "--recompress", "zstd", "--zstd-level", "19")
    run(*create, *tools, *recompress, "-o", directory / "zstd.tar")
    data = bytearray((directory / "offline.tar").read_bytes())
    with Archive(directory / "offline.tar") as archive:
        busybox = next(image for image in archive.manifest.images if str(image.reference) == NAME)
        layer = archive.read_image(busybox.platforms[0].manifest).layers[-1]
        data[archive.layout.blob(layer.digest).data_offset + layer.size - 1] ^= 1
    (directory / "damaged.tar").write_bytes(data)
    for name, more in (("whole", ()), ("arm64", ("--platform", "linux/arm64"))):
        export(directory, "oci-archive", name, *more)
    return directory


def export(usb: Path, form: str, name: str, *more: str) -> Any:
    """Export busybox to the file of that name; gives the JSON document."""
    archive, target = usb / "offline.tar", f"{form}:{usb / name}.tar"
    return json.loads(run(*BUNDLE, "export", archive, "busybox:1.35", "--to", target, "--json", *more))


@pytest.fixture(scope="module")
def digests(usb: Path) -> dict[str, str]:
    """Of the index, and of the manifest of each platform, as the archive has them."""
    images = json.loads(run(*BUNDLE, "inspect", usb / "offline.tar", "--json"))["manifest"]["images"]
    busybox = next(image for image in images if image["reference"] == NAME)
    return {"index": busybox["digest"], **{each["platform"]: each["digest"] for each in busybox["platforms"]}}


@pytest.mark.parametrize(
    ("suite", "config", "engine", "containerd"),
    [
        ("bookworm", None, "20.10.24", False),
        ("sid", None, "28.5", False),
        ("docker29", None, "29.", True),
    ],
    ids=["20.10", "28.5", "29-containerd"],
)
def test_docker_loads_it(
    usb: Path, digests: dict[str, str], suite: str, config: Any, engine: str, containerd: bool
) -> None:
    with Host(suite=suite, name=f"export-{suite}", daemon_config=config) as host:
        host.mount_in(usb, "/usb", readonly=True)
        assert host.run("docker", "version", "-f", "{{.Server.Version}}").stdout.startswith(engine)

        def shell(command: str, code: int = 0) -> str:
            done = host.run("bash", "-o", "pipefail", "-c", command, check=False)
            assert done.returncode == code, done.stderr
            return str(done.stdout + done.stderr)

        # The id is the digest of the config in the classic store, and that of the manifest in containerd's.
        for platform, machine in (("linux/arm64", None), ("linux/amd64", "x86_64")):
            told = json.loads(shell(f"{EXPORT} docker-archive:/root/{platform[6:]}.tar --platform {platform} --json"))
            (image,) = told["images"]
            assert image["digest"] == digests[platform]
            assert shell(f"docker load -i /root/{platform[6:]}.tar").endswith("Loaded image: busybox:1.35\n")
            found = json.loads(shell("docker image inspect busybox:1.35"))[0]
            assert found["Id"] == (image["digest"] if containerd else image["id"])
            assert found["RepoTags"] == ["busybox:1.35"]
            assert f"{found['Os']}/{found['Architecture']}" == platform
            if machine:
                assert shell("docker run --rm busybox:1.35 uname -m").strip() == machine
        shell("docker image rm busybox:1.35 && docker image prune -f")
        damaged = f"{EXPORT.replace('offline', 'damaged')} docker-archive:- --platform linux/amd64"
        assert "differs from its digest" in shell(f"{damaged} | docker load", code=1)
        assert shell("docker images -q") == ""
        shell(f"{EXPORT} docker-archive:- --platform linux/amd64 | docker load")
        assert shell("docker run --rm busybox:1.35 echo here") == "here\n"
        zstd = f"{EXPORT.replace('offline', 'zstd')} docker-archive:/root/zstd.tar --platform linux/amd64"
        assert "note: busybox:1.35: layers are zstd, which `docker load` takes from Docker 23.0 on" in shell(zstd)
        # Layers that are there are not looked at.
        shell("docker image rm busybox:1.35")
        is_old = suite == "bookworm"
        assert ("Loaded image" in shell("docker load -i /root/zstd.tar", code=int(is_old))) == (not is_old)
        if suite == "sid":
            # Where there is no Python the file is the same, and where it was said.
            script = "cd /srv && tar -xOf /usb/offline.tar install.sh | sh -s -- /usb/offline.tar"
            shell(f"{script} export busybox:1.35 --to docker-archive:b.tar --platform linux/amd64")
            shell(f"{script} export busybox:1.35 --to docker-archive:- --platform linux/amd64 >/root/c.tar")
            shell("cmp /srv/b.tar /root/amd64.tar && cmp /root/c.tar /root/amd64.tar")
        if containerd:
            shell("docker load -i /usb/whole.tar")
            assert json.loads(shell("docker image inspect busybox:1.35"))[0]["Id"] == digests["index"]
            ctr = "ctr -a /run/docker/containerd/containerd.sock -n other images"
            shell(f"{ctr} import --no-unpack --all-platforms /usb/whole.tar")
            assert digests["index"] in shell(f"{ctr} ls name=={NAME}")


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RealRegistry("distribution3", tmp_path_factory.mktemp("destination")) as registry:
        yield registry.host


def test_other_tools_find_the_same_digests(
    usb: Path, digests: dict[str, str], destination: str, tmp_path: Path
) -> None:
    skopeo, target = ("skopeo", "--tmpdir", tmp_path), f"{destination}/library/busybox"
    whole, arm64 = f"oci-archive:{usb}/whole.tar", f"oci-archive:{usb}/arm64.tar"
    # Of one image no name is needed; its own is one, too.
    for source in (whole, f"{whole}:{NAME}"):
        assert digest_of(run("skopeo", "inspect", "--raw", source)) == digests["index"]
    assert digest_of(run("skopeo", "inspect", "--raw", arm64)) == digests["linux/arm64"]
    options = ("--preserve-digests", "--dest-tls-verify=false")
    run(*skopeo, "copy", "--all", *options, whole, f"docker://{target}:skopeo")
    run(*skopeo, "copy", *options, arm64, f"docker://{target}:skopeo-arm64")
    regctl, crane = gotools.REGCTL.make(), debian.CRANE.make()
    os.environ["REGCTL_CONFIG"] = str(tmp_path / "regctl.json")
    run(regctl, "registry", "set", destination, "--tls", "disabled")
    run(regctl, "image", "import", f"{target}:regctl", usb / "whole.tar")
    run("tar", "-xf", usb / "arm64.tar", "-C", tmp_path)
    run(crane, "push", "--insecure", tmp_path, f"{target}:crane-arm64")
    for tag, platform in (("skopeo", "index"), ("skopeo-arm64", "linux/arm64"), ("regctl", "index"),
                          ("crane-arm64", "linux/arm64")):  # fmt: skip
        assert run(crane, "digest", "--insecure", f"{target}:{tag}").strip() == digests[platform], tag


def test_other_tools_read_what_is_for_docker(
    usb: Path, digests: dict[str, str], destination: str, tmp_path: Path
) -> None:
    (image,) = export(usb, "docker-archive", "amd64", "--platform", "linux/amd64")["images"]
    source = f"docker-archive:{usb}/amd64.tar"
    for name in (source, f"{source}:busybox:1.35"):
        assert digest_of(run("skopeo", "--tmpdir", tmp_path, "inspect", "--config", "--raw", name)) == image["id"]
    crane = debian.CRANE.make()
    run(crane, "push", "--insecure", usb / "amd64.tar", f"{destination}/docker:1")
    assert digest_of(run(crane, "config", "--insecure", f"{destination}/docker:1")) == image["id"]
    # As an OCI layout it has the manifest of the origin.
    run("tar", "-xf", usb / "amd64.tar", "-C", tmp_path)
    assert (
        run(crane, "push", "--insecure", tmp_path, f"{destination}/docker:2").strip().endswith(digests["linux/amd64"])
    )
