"""The files for other clients, read by those clients' own parsers where they are to be had."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles.oci.reference import Reference
from installer.model.naming import mirrors
from installer.model.registry.client_files import ClientFiles, client_files
from installer.model.registry.destination import Destination
from tests.support.fake_registry import Certificate, FakeRegistry

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OURS = Destination("192.168.10.10:5000", aliases=True)
HARBOR = Destination("harbor.corp", "team")
REFERENCES = tuple(map(Reference.parse, ("debian:12", "ghcr.io/a/b:1", "registry.corp:5001/a:1")))
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def made(kind: str, destination: Destination, *, tls: bool = True, authority: str = PEM) -> ClientFiles:
    return client_files(kind, destination, mirrors(REFERENCES, destination), tls=tls, authority=authority)


def contents(kind: str, destination: Destination, *, tls: bool = True, authority: str = PEM) -> dict[str, str]:
    return {file.path: file.content for file in made(kind, destination, tls=tls, authority=authority).files}


@pytest.mark.parametrize("kind", ["containerd", "nerdctl"])
def test_containerd_asks_the_mirror_and_nothing_else(kind: str) -> None:
    found = contents(kind, OURS)
    ca = "/etc/containerd/certs.d/192.168.10.10_5000_/ca.crt"
    assert found.pop(ca) == PEM
    read = {path: tomllib.loads(text) for path, text in found.items()}
    pull = {"capabilities": ["pull", "resolve"], "ca": [ca]}
    below = {**pull, "override_path": True}
    assert read == {
        "/etc/containerd/certs.d/192.168.10.10_5000_/hosts.toml": {
            "server": "https://192.168.10.10:5000", "capabilities": ["pull", "resolve", "push"], "ca": [ca],
        },
        "/etc/containerd/certs.d/docker.io/hosts.toml": {"server": "https://192.168.10.10:5000", **pull},
        "/etc/containerd/certs.d/ghcr.io/hosts.toml": {"server": "https://192.168.10.10:5000/v2/ghcr.io", **below},
        "/etc/containerd/certs.d/registry.corp_5001_/hosts.toml": {
            "server": "https://192.168.10.10:5000/v2/registry.corp_5001", **below,
        },
    }  # fmt: skip


def test_containerd_finds_a_project_by_its_path() -> None:
    read = {path: tomllib.loads(text) for path, text in contents("containerd", HARBOR, authority="").items()}
    assert read["/etc/containerd/certs.d/docker.io/hosts.toml"] == {
        "server": "https://harbor.corp/v2/team", "capabilities": ["pull", "resolve"], "override_path": True,
    }  # fmt: skip
    assert read["/etc/containerd/certs.d/harbor.corp/hosts.toml"]["server"] == "https://harbor.corp"
    assert not [path for path in read if path.endswith(".crt")]


def test_podman() -> None:
    found = contents("podman", HARBOR)
    assert found.pop("/etc/containers/certs.d/harbor.corp/ca.crt") == PEM
    (text,) = found.values()
    assert list(found) == ["/etc/containers/registries.conf.d/50-bundle.conf"]
    assert tomllib.loads(text) == {
        "unqualified-search-registries": ["docker.io"],
        "registry": [
            {"location": "docker.io", "mirror": [{"location": "harbor.corp/team"}]},
            {"location": "ghcr.io", "mirror": [{"location": "harbor.corp/team/ghcr.io"}]},
            {"location": "registry.corp:5001", "mirror": [{"location": "harbor.corp/team/registry.corp_5001"}]},
        ],
    }


def test_k3s() -> None:
    assert contents("k3s", OURS) == {
        "/etc/rancher/k3s/registries.yaml": """\
mirrors:
  "192.168.10.10:5000":
    endpoint:
      - "https://192.168.10.10:5000"
  "docker.io":
    endpoint:
      - "https://192.168.10.10:5000"
  "ghcr.io":
    endpoint:
      - "https://192.168.10.10:5000/v2/ghcr.io"
  "registry.corp:5001":
    endpoint:
      - "https://192.168.10.10:5000/v2/registry.corp_5001"
configs:
  "192.168.10.10:5000":
    tls:
      ca_file: "/etc/rancher/k3s/bundle-ca.pem"
""",
        "/etc/rancher/k3s/bundle-ca.pem": PEM,
    }


def test_plain_http_is_said_to_each() -> None:
    containerd = contents("containerd", OURS, tls=False, authority="")
    assert all('server = "http://192.168.10.10:5000' in text for text in containerd.values())
    assert (
        '- "http://192.168.10.10:5000"'
        in contents("k3s", OURS, tls=False, authority="")["/etc/rancher/k3s/registries.yaml"]
    )
    (text,) = contents("podman", OURS, tls=False, authority="").values()
    registries = tomllib.loads(text)["registry"]
    assert registries[0] == {"location": "192.168.10.10:5000", "insecure": True}
    assert [mirror["insecure"] for registry in registries[1:] for mirror in registry["mirror"]] == [True] * 3


@pytest.mark.parametrize("kind", ["containerd", "nerdctl", "podman", "k3s"])
def test_where_the_login_goes_is_said(kind: str) -> None:
    text = "\n".join(made(kind, OURS).advice)
    assert "login" in text and "192.168.10.10:5000" in text


@pytest.mark.e2e
@pytest.mark.parametrize("prefix", ["", "team/"])
def test_skopeo_finds_the_images_through_podmans_file(
    fake: Callable[..., FakeRegistry], certificate: Certificate, tmp_path: Path, prefix: str
) -> None:
    """With TLS and a login, and every name as it is written in a Dockerfile."""
    registry = fake(tls=certificate, auth="basic", users={"bundle": "secret"})
    for name in ("library/debian:12", "ghcr.io/a/b:1", "registry.corp_5001/a:1"):
        repository, _, tag = name.partition(":")
        registry.tag(f"{prefix}{repository}", tag, registry.image("linux/amd64", seed=name))
    found = contents("podman", Destination(registry.host, prefix.rstrip("/")), authority=certificate.file.read_text())
    configuration, certificates, logins = tmp_path / "registries.conf", tmp_path / "certs", tmp_path / "auth.json"
    configuration.write_text(found["/etc/containers/registries.conf.d/50-bundle.conf"])
    certificates.mkdir()
    (certificates / "ca.crt").write_text(found[f"/etc/containers/certs.d/{registry.host}/ca.crt"])
    login = base64.b64encode(b"bundle:secret").decode()
    logins.write_text(json.dumps({"auths": {registry.host: {"auth": login}}}))
    for number, reference in enumerate(REFERENCES):
        command = ["skopeo", "--registries-conf", str(configuration), "copy", "--src-cert-dir", str(certificates)]
        command += ["--src-authfile", str(logins), f"docker://{reference}", f"dir:{tmp_path / str(number)}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / str(number) / "manifest.json").is_file()
    assert len([path for path in registry.paths("GET", "/manifests/") if path.startswith(f"/v2/{prefix}")]) == 3
