"""The ways to the local registry, which reads no logins, and to a registry of the site, which has all of them."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles.errors import AuthenticationError, NetworkError, UnreachableError
from bundles.oci.descriptor import Descriptor
from bundles.oci.platform import Platform
from installer.model.job import DesiredState
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.registry.client import Registry
from installer.registry.connection import local_transport, login_to, site_transport, transport_to
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.states import desired


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

AMD64 = Platform("linux", "amd64")
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


def test_a_registry_that_is_closed_itself_answers_to_a_login_that_it_takes(
    fake: Callable[..., FakeRegistry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its repositories may be open to that login. A wrong one is refused as everywhere."""
    site = fake(auth="bearer", users={USER: PASSWORD}, anonymous_pull=False, closed=True)
    docker_config(site.host, monkeypatch)
    with site_transport(attempts=1) as transport:
        Registry(transport, site.host).ping()
    assert site.requests[-1].path == "/v2/"
    assert site.requests[-1].authorization.startswith("Bearer ")
    site.users[USER] = "another"
    with site_transport(attempts=1) as transport, pytest.raises(AuthenticationError, match="refused the login"):
        Registry(transport, site.host).ping()


# To our own registry with TLS


def own_state(host: str, authority: Path, password: Path | None = None) -> DesiredState:
    access = Access(True, str(authority), str(password) if password else None)
    return desired(Address.parse(host), access=access)


def test_our_own_registry_is_verified_on_this_machine_too(certificate: Certificate, tmp_path: Path) -> None:
    """Whoever listens there while it does not run gets no password."""
    (tmp_path / "other").mkdir()
    other, password = Certificate.make(tmp_path / "other"), tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    with FakeRegistry(tls=certificate, auth="basic", users={"bundle": PASSWORD}) as fake:
        with transport_to(own_state(fake.host, certificate.file, password), attempts=1) as transport:
            Registry(transport, fake.host).ping()
        asked = len(fake.requests)
        with transport_to(own_state(fake.host, other.file, password), attempts=1) as transport:
            with pytest.raises(NetworkError, match="TLS with"):
                Registry(transport, fake.host).ping()
            assert len(fake.requests) == asked


def test_a_password_that_is_gone_is_a_login_that_is_missing(tmp_path: Path, certificate: Certificate) -> None:
    """Whoever looks at the registry goes on, and the doctor makes another one."""
    with FakeRegistry(tls=certificate, auth="basic", users={"bundle": PASSWORD}, anonymous_pull=False) as fake:
        state = own_state(fake.host, certificate.file, tmp_path / "password")
        with (
            transport_to(state, attempts=1) as transport,
            pytest.raises(AuthenticationError, match="cannot be read") as caught,
        ):
            Registry(transport, fake.host).ping()
    assert caught.value.hint is not None and caught.value.hint.endswith("doctor --fix")


def test_plain_http_gets_no_password(tmp_path: Path, certificate: Certificate) -> None:
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    with FakeRegistry(auth="basic", users={"bundle": PASSWORD}) as fake:
        state = own_state(fake.host, certificate.file, password)
        with transport_to(state, attempts=1) as transport, pytest.raises(NetworkError, match="does not speak TLS"):
            Registry(transport, fake.host).ping()
        assert fake.requests == []


def test_a_ca_that_is_made_later_is_read_then(certificate: Certificate, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    with FakeRegistry(tls=certificate) as fake, contextlib.ExitStack() as stack:
        transport = stack.enter_context(transport_to(own_state(fake.host, authority), attempts=1))
        registry = Registry(transport, fake.host)
        with pytest.raises(UnreachableError, match=r"the CA file .* cannot be used"):
            registry.ping()
        authority.write_bytes(certificate.file.read_bytes())
        registry.ping()


def test_a_registry_that_is_made_anew_is_spoken_to_as_it_speaks(certificate: Certificate) -> None:
    with FakeRegistry(tls=certificate) as fake:
        state = own_state(fake.host, certificate.file)
        with local_transport(state.address, attempts=1) as before, transport_to(state, attempts=1) as transport:
            registry = Registry(before, fake.host)
            registry.speak_through(transport)
            registry.ping()
    assert [request.path for request in fake.requests] == ["/v2/"]


def test_docker_pulls_with_the_login_of_now(tmp_path: Path, certificate: Certificate) -> None:
    """Of a registry of the site it is the one that docker keeps; in the clear none goes to what others fill."""
    site = Destination("registry.corp:5000", "team")
    state = dataclasses.replace(own_state("registry.corp:5000", certificate.file), site=site)
    assert login_to(state) is None
    write(Path.home() / ".docker/config.json", login("registry.corp:5000"))
    assert login_to(state) == (USER, PASSWORD)
    joined = dataclasses.replace(state, site=dataclasses.replace(site, joined=True))
    assert login_to(joined) == (USER, PASSWORD)
    assert login_to(dataclasses.replace(joined, access=PLAIN)) is None
    write(Path.home() / ".docker/config.json", "nonsense")
    assert login_to(state) is None
    write(tmp_path / "password", f"{PASSWORD}\n")
    assert login_to(own_state("localhost:5000", certificate.file, tmp_path / "password")) == ("bundle", PASSWORD)
