"""What is handed to a program that reads from the registry elsewhere: the CAs and logins of this one, and no others."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from bundles.errors import HostError
from bundles.oci.platform import Platform
from bundles.registry.auth import Credential
from installer.model.job import DesiredState
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.registry.handover import authorities, logins
from tests.support.states import desired

AMD64 = Platform("linux", "amd64")
HARBOR = Destination("harbor.corp", "team")


def own(access: Access) -> DesiredState:
    return desired(Address.parse("localhost:5000"), data="v", access=access)


def site(access: Access) -> DesiredState:
    return desired(Address.of_host("harbor.corp"), data="", site=HARBOR, access=access)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CAs of a system, in a file and in a directory as OpenSSL reads it."""
    (tmp_path / "system.pem").write_text("SYSTEM\n")
    (tmp_path / "certs").mkdir()
    for name, text in (("0a1b2c3d.0", "HASHED\n"), ("0a1b2c3d.1", "SYSTEM\n"), ("README", "NONE")):
        (tmp_path / "certs" / name).write_text(text)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "certs"))


@pytest.mark.usefixtures("system")
def test_what_is_trusted(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("OWN\n")
    assert (authorities(own(PLAIN)), authorities(site(PLAIN))) == (b"", b"")
    assert authorities(own(Access(True, str(ca)))) == b"OWN\n"
    assert authorities(own(Access(True))) == b"SYSTEM\nHASHED\n"
    assert authorities(site(Access(True))) == b"SYSTEM\nHASHED\n"
    known = Path.home() / ".docker/certs.d/harbor.corp/site.crt"
    known.parent.mkdir(parents=True)
    known.write_text("CERTS.D\n")
    assert authorities(site(Access(True, str(ca)))) == b"OWN\nCERTS.D\nSYSTEM\nHASHED\n"
    ca.unlink()
    with pytest.raises(HostError, match=f"the CA file `{ca}` cannot be read: no such file"):
        authorities(site(Access(True, str(ca))))


def test_which_logins(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("generated\n")
    assert logins(own(Access(True, None, str(password))), "x") == (Credential("bundle", "generated"),)
    # Over plain HTTP our own registry wants none, and gets none.
    assert (logins(own(PLAIN), "x"), logins(own(Access(True)), "x")) == ((), ())
    assert logins(site(Access(True)), "team/x") == ()

    def entry(text: str) -> dict[str, str]:
        return {"auth": base64.b64encode(text.encode()).decode()}

    file = Path.home() / ".docker/config.json"
    file.parent.mkdir()
    names = {"harbor.corp": "all:1", "harbor.corp/team": "team:2", "localhost:5000": "local:3", "nexus.corp": "n:4"}
    file.write_text(json.dumps({"auths": {name: entry(text) for name, text in names.items()}}))
    assert logins(site(Access(True)), "team/x") == (Credential("team", "2"), Credential("all", "1"))
    assert logins(own(Access(True)), "x") == ()
    file.write_text(json.dumps({"credHelpers": {"harbor.corp": "none-such"}}))
    with pytest.raises(HostError, match=r"`docker-credential-none-such` .* is not installed"):
        logins(site(Access(True)), "team/x")
