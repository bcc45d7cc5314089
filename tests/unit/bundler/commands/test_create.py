"""`bundle create` as a program: what it says of registries, and what it takes from elsewhere."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from bundles.archive.reader import Archive
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from tests.support import ROOT
from tests.support.fake_registry import FakeRegistry
from tests.support.images import CONFIG, LAYER, MANIFEST, layer, layer_tar
from tests.support.program import bundle_here as bundle

Make = Callable[..., FakeRegistry]
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def create(hub: FakeRegistry, cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return bundle("create", "--mirror", f"docker.io={hub.host}", "--platform", "linux/amd64", *arguments, cwd=cwd)


def test_a_mirror_under_another_name_of_docker_hub(hub: FakeRegistry, tmp_path: Path) -> None:
    mirror = f"https://INDEX.docker.io/v1/={hub.host}"
    done = bundle(
        "create", "debian:12", "--mirror", mirror, "--mirror", "dokcer.io=nowhere.corp", "--plan", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "note: the mirror for `dokcer.io` is not used, no image comes from there: did you mean `docker.io`?" in (
        done.stderr.splitlines()
    )


def test_a_mirror_of_a_repository_is_refused(tmp_path: Path) -> None:
    done = bundle("create", "debian:12", "--mirror", "docker.io/library=mirror.corp", cwd=tmp_path)
    assert done.returncode == 2
    assert "`docker.io/library` is not a registry that can have a mirror" in done.stderr


def test_a_mirror_that_serves_nothing_is_in_the_result(hub: FakeRegistry, fake: Make, tmp_path: Path) -> None:
    empty = fake()
    mirrors = ("--mirror", f"docker.io={empty.host}", "--mirror", f"docker.io={hub.host}")
    done = bundle("create", "debian:12", *mirrors, "--plan", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (note,) = (note for note in json.loads(done.stdout)["notes"] if "mirror" in note)
    assert note.startswith(f"the mirror {empty.host} served nothing: ")


@pytest.mark.parametrize("place", ["variable", "podman", "named"])
def test_logins_from_everywhere(hub: FakeRegistry, tmp_path: Path, place: str) -> None:
    hub.auth, hub.users, hub.anonymous_pull = "bearer", {"me": "secret"}, False
    login = json.dumps({"auths": {hub.host: {"auth": base64.b64encode(b"me:secret").decode()}}})
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    path = tmp_path / ("named.json" if place == "named" else ".config/containers/auth.json")
    if place == "variable":
        environment["DOCKER_AUTH_CONFIG"] = login
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(login)
    if place == "named":
        environment["REGISTRY_AUTH_FILE"] = str(path)
    program = "from bundles.cli.app import main; main()"
    command = [sys.executable, "-c", program, "create", "debian:12", "--mirror", f"docker.io={hub.host}", "--plan"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def vendor_image(hub: FakeRegistry, url: str, data: bytes, media_type: str) -> Descriptor:
    """An image vendor:1 with a layer of its own and one that is only at `url`."""
    own = hub.add(LAYER["docker"], layer("own"))
    diffs = [str(Digest.of(gzip.decompress(each))) for each in (layer("own"), data)]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diffs}}
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST["docker"],
        "config": hub.add(CONFIG["docker"], json.dumps(config).encode()).to_json(),
        "layers": [own.to_json(), {**Descriptor.of(media_type, data).to_json(), "urls": [url]}],
    }
    return hub.tag("library/vendor", "1", hub.add(MANIFEST["docker"], json.dumps(value).encode()))


@pytest.mark.parametrize("how", ["option", "file"])
@pytest.mark.parametrize("media_type", [FOREIGN, LAYER["docker"]])
def test_layers_that_no_registry_has(hub: FakeRegistry, fake: Make, tmp_path: Path, how: str, media_type: str) -> None:
    vendor = fake()
    data = layer("theirs")
    blob = vendor.blob("store", data)
    image = vendor_image(hub, f"{vendor.url}/v2/store/blobs/{blob.digest}?key=word", data, media_type)
    refused = create(hub, tmp_path, "vendor:1")
    assert refused.returncode == 5
    assert f"is not in its registry, only at `{vendor.host}`" in refused.stderr
    assert "next: the same command with --foreign-layers" in refused.stderr
    assert vendor.seen() == []
    assert hub.paths("GET", image.digest.hex) == []
    (tmp_path / "bundle.toml").write_text('images = ["vendor:1"]\nforeign-layers = true\n')
    allowed = ["vendor:1", "--foreign-layers"] if how == "option" else ["-f", "bundle.toml"]
    done = create(hub, tmp_path, *allowed, "-o", "a.tar")
    assert done.returncode == 0, done.stderr
    assert f"comes from `{vendor.host}`, not from a registry" in done.stderr
    with Archive(tmp_path / "a.tar") as archive:
        assert archive.open_blob(blob).read(len(data)) == data
        (bundled,) = (each for each in archive.manifest.images if "vendor" in each.reference.repository)
        own, theirs = json.loads(archive.read_document(bundled.root))["layers"]
    assert f"vendor:1: {image.digest} became {bundled.root.digest}" in done.stderr
    assert own["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert theirs == {**own, "digest": str(blob.digest), "size": blob.size}
    assert bundle("verify", "a.tar", cwd=tmp_path).returncode == 0


def test_a_layer_from_elsewhere_is_recompressed_and_its_address_is_gone(
    hub: FakeRegistry, fake: Make, tmp_path: Path
) -> None:
    vendor = fake()
    data = gzip.compress(layer_tar("theirs") + bytes(1_000_000), compresslevel=1)
    blob = vendor.blob("store", data)
    url = f"{vendor.url}/v2/store/blobs/{blob.digest}"
    for media_type in (LAYER["docker"], FOREIGN):
        vendor_image(hub, url, data, media_type)
        done = create(hub, tmp_path, "vendor:1", "--foreign-layers", "--recompress", "zstd", "-o", "a.tar", "--json")
        assert done.returncode == 0, done.stderr
        (root,) = (each["digest"] for each in json.loads(done.stdout)["images"] if "vendor" in each["reference"])
        with Archive(tmp_path / "a.tar") as archive:
            (bundled,) = (each for each in archive.manifest.images if str(each.root.digest) == root)
            layers = json.loads(archive.read_document(bundled.root))["layers"]
        assert not any("urls" in each for each in layers)
        assert layers[1]["mediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd"
        assert layers[1]["digest"] != str(blob.digest)
        (tmp_path / "a.tar").unlink()
