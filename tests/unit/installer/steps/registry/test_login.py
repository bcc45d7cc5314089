"""The login of this user's Docker: made with the password on standard input, recognised, and undone."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bundles.errors import HostError
from bundles.oci.platform import Platform
from bundles.registry.auth import Credential
from installer.host.docker.cli import CommandError
from installer.host.host import Host
from installer.host.paths import Places
from installer.model.registry.access import Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.registry.installed import own_access
from installer.receipt.ledger import remember
from installer.receipt.receipt import BundleName, Receipt
from installer.steps.registry.login import Login, RemoveLogin
from tests.support.states import desired

LAN = "192.168.10.10:5000"
PASSWORD = "Planted-Passw0rd-81b7"
AMD64 = Platform("linux", "amd64")


class CLI:
    """The docker command, as far as logins go: it keeps them in config.json, and what it was given."""

    def __init__(self, config: Path) -> None:
        self.config, self.done = config, list[Sequence[str]]()
        self.refuses = False

    def run(self, arguments: Sequence[str], stdin: str = "") -> str:
        self.done.append(arguments)
        if self.refuses:
            raise CommandError("exit code 1 from: docker login\nunauthorized")
        value: dict[str, Any] = json.loads(self.config.read_text()) if self.config.exists() else {}
        auths = value.setdefault("auths", {})
        if arguments[0] == "login":
            assert "--password-stdin" in arguments
            login = f"{arguments[arguments.index('--username') + 1]}:{stdin}"
            auths[arguments[1]] = {"auth": base64.b64encode(login.encode()).decode()}
        else:
            auths.pop(arguments[1], None)
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(json.dumps(value))
        return ""


class Place:
    """A user with a password for a registry."""

    def __init__(self, root: Path) -> None:
        self.places = Places(root / "docker", root / "buildx", root / "state")
        self.config = self.places.docker_config / "config.json"
        self.cli = CLI(self.config)
        self.host = Host(None, self.cli, self.places)  # type: ignore[arg-type]
        self.places.registry.mkdir(parents=True)
        self.places.password.write_text(f"{PASSWORD}\n")
        access = own_access(self.places, login=True)
        self.state = desired(Address.parse(LAN), access=access)

    def step(self, access: Access | None = None, *, drops: bool = False) -> Login:
        state = self.state if access is None else dataclasses.replace(self.state, access=access)
        return Login(state, self.host, drops=drops)

    def log_in(self) -> Receipt:
        """Do it as an installation does; the receipt."""
        step = self.step()
        changes = step.look()
        made = remember((), [], changes, self.places)
        step.apply(changes)
        return Receipt(BundleName("x", "sha256:1", "/x.tar"), self.state, made=made)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_password_is_on_no_command_line_and_a_login_is_made_once(place: Place) -> None:
    receipt = place.log_in()
    assert place.cli.done == [["login", LAN, "--username", "bundle", "--password-stdin"]]
    assert place.step().look() == []
    assert PASSWORD not in json.dumps(receipt.to_json())
    assert receipt.names_made("login") == [LAN]


def test_another_password_is_logged_in_with(place: Place) -> None:
    place.log_in()
    place.places.password.write_text("another\n")
    (change,) = place.step().look()
    assert (change.action, change.name) == ("log in", LAN)
    assert PASSWORD not in place.step().explain(change)


def test_what_docker_says_is_shown_with_a_command_that_has_no_password(place: Place) -> None:
    place.cli.refuses = True
    with pytest.raises(HostError, match="unauthorized") as caught:
        place.log_in()
    assert caught.value.hint == (f"docker login {LAN} --username bundle --password-stdin < {place.places.password}")
    assert PASSWORD not in str(caught.value)


def test_without_a_login_docker_is_logged_out_where_an_earlier_run_logged_in(place: Place) -> None:
    place.log_in()
    without = own_access(place.places)
    assert place.step(without).look() == []
    step = place.step(without, drops=True)
    step.apply(step.look())
    assert place.cli.done[-1] == ["logout", LAN]
    assert step.look() == []


def test_uninstalling_takes_the_login_and_a_config_that_was_made_for_it(place: Place) -> None:
    step = RemoveLogin(place.log_in(), place.host)
    changes = step.look()
    assert [(change.action, change.name) for change in changes] == [("log out", LAN), ("remove", str(place.config))]
    step.apply(changes)
    assert not place.config.exists()


def test_uninstalling_leaves_other_logins_and_a_config_that_was_there(place: Place) -> None:
    place.config.parent.mkdir()
    place.config.write_text('{"credsStore": ""}')
    receipt = place.log_in()
    place.cli.run(["login", "registry.corp", "--username", "ann", "--password-stdin"], "other")
    step = RemoveLogin(receipt, place.host)
    step.apply(step.look())
    assert list(json.loads(place.config.read_text())["auths"]) == ["registry.corp"]


def test_a_config_that_is_not_dockers_is_said_to_be_so(place: Place) -> None:
    place.config.parent.mkdir()
    place.config.write_text("nonsense")
    with pytest.raises(HostError, match="it is not JSON"):
        place.step().look()


def test_a_login_that_was_given_is_made_for_its_own_user(place: Place) -> None:
    state = dataclasses.replace(place.state, site=Destination(LAN, joined=True), access=Access(tls=True))
    given = Credential("robot$team", "Another-Passw0rd")
    step = Login(state, place.host, given=given)
    step.apply(step.look())
    auth = json.loads(place.config.read_text())["auths"][LAN]["auth"]
    assert base64.b64decode(auth).decode() == "robot$team:Another-Passw0rd"
    assert Login(state, place.host, given=given).look() == []
    assert not [word for words in place.cli.done for word in words if "Another" in word]
    place.cli.refuses = True
    with pytest.raises(HostError, match="cannot log in") as caught:
        step.apply(step.look())
    assert "Another" not in str(caught.value)
    # Docker asks for the password by itself.
    assert caught.value.hint == f"docker login {LAN} --username 'robot$team'"
