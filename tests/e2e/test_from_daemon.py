"""`create --from-daemon` against real engines, and that what it made installs, builds and runs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import ORIGIN, Host, debian, start_origin

pytestmark = pytest.mark.e2e
BUNDLE = Path(sys.executable).parent / "bundle"


def local_images(host: Host) -> None:
    """Images that exist in this engine only: app-amd64:1 of two layers, app-arm64:1 of one."""
    for arch, name in (("amd64", "base:1"), ("arm64", "app-arm64:1")):
        layer = tar_of({"bin/busybox": (debian.BUSYBOX.make() / f"busybox-{arch}").read_bytes()}, {"bin/sh": "busybox"})
        diff_id = "sha256:" + hashlib.sha256(layer).hexdigest()
        config = {
            "architecture": arch,
            "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
        entry = {"Config": "config.json", "RepoTags": [name], "Layers": ["layer/layer.tar"]}
        files = {"layer/layer.tar": layer, "config.json": dump(config), "manifest.json": dump([entry])}
        host.path("/root/image.tar").write_bytes(tar_of(files, {}))
        host.run("docker", "load", "-i", "/root/image.tar")
    host.path("/root/app").mkdir()
    host.path("/root/app/Dockerfile").write_text("FROM base:1\nCOPY Dockerfile /made-here\n")
    host.run("docker", "build", "-t", "app-amd64:1", "/root/app", env={"DOCKER_BUILDKIT": "0"})


def tar_of(files: dict[str, bytes], links: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return buffer.getvalue()


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def create(host: Host, *arguments: object, code: int = 0) -> Any:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{host.path('/run/docker.sock')}"}
    command = [BUNDLE, "create", *map(str, arguments), "--mirror", f"docker.io={ORIGIN}", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("suite", "containerd"),
    [("bookworm", False), ("sid", False), ("sid", True), ("docker29", False), ("docker29", True)],
    ids=["20.10", "28", "28-containerd", "29", "29-containerd"],
)
def test_images_of_the_local_docker(suite: str, containerd: bool, tmp_path: Path) -> None:
    start_origin()
    config = {"features": {"containerd-snapshotter": containerd}}
    archive = tmp_path / "offline.tar"
    with Host(suite=suite, name=f"daemon-{suite}", daemon_config=config) as host:
        local_images(host)
        arguments = ["--from-daemon", "team/app:1=app-amd64:1,app-arm64:1", "-o", archive]
        planned = create(host, *arguments, "--plan")
        assert list(tmp_path.iterdir()) == []
        made = create(host, *arguments)
        assert made["images"] == planned["images"]
        assert made["madeSize"] == planned["madeSize"] > 1_000_000
        (app,) = (image for image in made["images"] if image["role"] == "base")
        assert app["reference"] == "docker.io/team/app:1"
        assert [item["platform"] for item in app["platforms"]] == ["linux/amd64", "linux/arm64"]
        missing = create(host, "--from-daemon", "nope:1", "-o", tmp_path / "none.tar", code=5)
        assert missing["error"]["message"] == "the local Docker has no image `nope:1`"
        # The spool is gone, after a failure too.
        assert sorted(path.name for path in tmp_path.iterdir()) == ["offline.tar", "offline.tar.sha256"]
        config_id = json.loads(_document(archive, app["platforms"][0]["digest"]))["config"]["digest"]
        if not containerd:
            # The image keeps its id: the config, with the digests of the raw layers, is what it was.
            assert config_id == host.run("docker", "inspect", "-f", "{{.Id}}", "app-amd64:1").stdout.strip()
    subprocess.run([BUNDLE, "verify", archive], check=True, capture_output=True)
    if containerd:
        return
    with Host(suite="sid", name=f"daemon-{suite}-airgap") as host:
        host.mount_in(tmp_path, "/media/usb")
        host.run("python3", "/media/usb/offline.tar", "install")
        host.path("/root/app").mkdir()
        host.path("/root/app/Dockerfile").write_text("FROM team/app:1\nRUN test -e /bin/sh && echo built > /built\n")
        host.run(
            *("docker", "buildx", "build", "--platform", "linux/amd64,linux/arm64"),
            *("-t", "localhost:5000/derived:1", "--push", "/root/app"),
        )
        for name, expected in (
            ("localhost:5000/team/app:1", "FROM base:1"),
            ("localhost:5000/derived:1", "FROM base:1"),
        ):
            done = host.run("docker", "run", "--rm", name, "busybox", "head", "-n1", "/made-here")
            assert done.stdout.strip() == expected


def _document(archive: Path, digest: str) -> str:
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"blobs/sha256/{digest.partition(':')[2]}")
        assert member is not None
        return member.read().decode()
