"""The ways to the local registry, which reads no logins, and to a registry of the site, which has all of them."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles.errors import AuthenticationError, NetworkError
from bundles.oci.descriptor import Descriptor
from installer.model.address import Address
from installer.registry.client import Registry
from installer.registry.connection import local_transport, site_transport
from tests.support.fake_registry import Certificate, FakeRegistry


@pytest.mark.parametrize(("auth", "status"), [("basic", None), (None, 401), (None, 429)])
def test_a_login_is_not_recommended_where_none_is_read(auth: str | None, status: int | None) -> None:
    with FakeRegistry(**({"auth": auth} if auth else {})) as fake:
        if status:
            fake.fault("GET", "/v2/", times=-1, status=status)
        address = Address.parse(fake.host)
        with local_transport(address, attempts=1) as transport, pytest.raises(NetworkError) as caught:
            Registry(transport, fake.host).ping()
    assert "docker login" not in str(caught.value)
    assert str(caught.value.hint).endswith(f"curl {fake.host}")


# To a registry of the site

USER, PASSWORD = "robot$team+push", "hunter2-site"


def login(host: str) -> str:
    entry = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return json.dumps({"auths": {host: {"auth": entry}}})


def docker_config(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path.home() / ".docker/config.json", login(host))


def auth_json(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path.home() / ".config/containers/auth.json", login(f"{host}/team"))


def variable(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", login(host))


def helper(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.dumps({"Username": USER, "Secret": PASSWORD})
    program = Path.home() / "bin/docker-credential-site"
    write(program, f"#!/bin/sh\nread host\n[ \"$host\" = {host} ] && echo '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    write(Path.home() / ".docker/config.json", json.dumps({"credHelpers": {host: "site"}}))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def site(fake: Callable[..., FakeRegistry], certificate: Certificate, names: None) -> FakeRegistry:
    return fake(tls=certificate, auth="bearer", users={USER: PASSWORD}, anonymous_pull=False)


def push(site: FakeRegistry, ca_file: Path | None) -> None:
    host = f"registry.example:{site.port}"
    blob = Descriptor.of("application/octet-stream", b"abc")
    with site_transport(ca_file=ca_file, attempts=1) as transport:
        Registry(transport, host).upload_blob("team/app", blob, b"abc")
    assert site.content[blob.digest] == b"abc"
    assert blob.digest in site.repositories["team/app"].blobs


@pytest.mark.parametrize("place", [docker_config, auth_json, variable, helper], ids=lambda place: str(place.__name__))
def test_a_site_s_registry_is_reached_with_the_logins_that_there_are(
    site: FakeRegistry,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    place: Callable[[str, pytest.MonkeyPatch], None],
) -> None:
    place(f"registry.example:{site.port}", monkeypatch)
    push(site, certificate.file)


def test_a_ca_in_certs_d_will_do(site: FakeRegistry, certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    host = f"registry.example:{site.port}"
    docker_config(host, monkeypatch)
    write(Path.home() / ".docker/certs.d" / host / "ca.crt", certificate.file.read_text())
    push(site, None)


def test_without_its_ca_nothing_is_sent(site: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    docker_config(f"registry.example:{site.port}", monkeypatch)
    with pytest.raises(NetworkError, match="self-signed") as caught:
        push(site, None)
    assert "--ca FILE" in str(caught.value.hint)
    assert site.requests == []


def test_what_comes_after_docker_login_is_pushed(site: FakeRegistry, certificate: Certificate) -> None:
    with pytest.raises(AuthenticationError) as caught:
        push(site, certificate.file)
    assert str(caught.value.hint).startswith(f"docker login registry.example:{site.port}")
