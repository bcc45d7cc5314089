"""Docker's config.json and credential helpers."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Optional

import pytest

from bundles.errors import AuthenticationError, BundleError, UsageError
from bundles.registry.auth import Credential
from bundles.registry.credentials import Credentials
from tests.support import ROOT

SECRET = "hunter2-secret"
HUB = "https://index.docker.io/v1/"


def auth(name: str = "me", password: str = SECRET) -> str:
    return base64.b64encode(f"{name}:{password}".encode()).decode()


def config(directory: Path, **document: Any) -> Credentials:
    (directory / "config.json").write_text(json.dumps(document))
    return Credentials(directory)


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a credential helper `docker-credential-NAME` on the PATH; its stdin is kept in the file that is returned."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, answer: str, status: int = 0) -> Path:
        asked = tmp_path / f"asked-{name}"
        program = programs / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n(cat; echo) >> {asked}\ncat <<'END'\n{answer}\nEND\nexit {status}\n")
        program.chmod(0o755)
        return asked

    return make


def first(credentials: Credentials, host: str, repository: str = "org/app") -> Optional[Credential]:
    return next(credentials.get(host, repository), None)


def answer(name: str = "me", secret: str = SECRET) -> str:
    return json.dumps({"ServerURL": "x", "Username": name, "Secret": secret})


def test_no_file_means_no_login(tmp_path: Path) -> None:
    assert first(Credentials(tmp_path), "ghcr.io") is None


@pytest.mark.parametrize(
    "document", [{}, {"auths": {}}, {"auths": None, "HttpHeaders": {"X": "y"}}, {"auths": {"ghcr.io": {}}}]
)
def test_a_file_without_logins(tmp_path: Path, document: dict[str, Any]) -> None:
    assert first(config(tmp_path, **document), "ghcr.io") is None


def test_the_file_is_where_docker_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    (home / ".docker").mkdir(parents=True)
    other.mkdir()
    config(home / ".docker", auths={"ghcr.io": {"auth": auth("home")}})
    config(other, auths={"ghcr.io": {"auth": auth("other")}})
    monkeypatch.setenv("HOME", str(home))
    assert first(Credentials(), "ghcr.io") == Credential("home", SECRET)
    monkeypatch.setenv("DOCKER_CONFIG", str(other))
    assert first(Credentials(), "ghcr.io") == Credential("other", SECRET)


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io/v2/", "ghcr.io"),
        ("mirror.corp:5000", "mirror.corp:5000"),
        (HUB, "docker.io"),
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("GHCR.io:443", "ghcr.io"),
        ("ghcr.io", "ghcr.io:443"),
    ],
)
def test_hosts_are_found_under_their_names(tmp_path: Path, key: str, host: str) -> None:
    credentials = config(tmp_path, auths={"other.io": {"auth": auth("other")}, key: {"auth": auth("me", "a:b")}})
    assert first(credentials, host) == Credential("me", "a:b")
    assert first(credentials, "unknown.io") is None


def test_tokens(tmp_path: Path) -> None:
    credentials = config(
        tmp_path,
        auths={
            "identity.io": {"auth": auth("x", ""), "identitytoken": "abc"},
            "registry.io": {"registrytoken": "def"},
            "padded.io": {"auth": auth("me", "ghi\0\0"), "identitytoken": ""},
        },
    )
    assert first(credentials, "identity.io") == Credential(identity_token="abc")
    assert first(credentials, "registry.io") == Credential(registry_token="def")
    assert first(credentials, "padded.io") == Credential("me", "ghi")


def test_a_helper_of_one_host(tmp_path: Path, helper: Any) -> None:
    asked = helper("one", answer())
    credentials = config(tmp_path, credHelpers={"ghcr.io": "one"}, auths={"quay.io": {"auth": auth("stored")}})
    assert first(credentials, "ghcr.io") == Credential("me", SECRET)
    assert first(credentials, "quay.io") == Credential("stored", SECRET)
    assert asked.read_text().split() == ["ghcr.io"]


def test_a_store_for_all_hosts(tmp_path: Path, helper: Any) -> None:
    asked = helper("all", answer("<token>"))
    credentials = config(tmp_path, credsStore="all")
    assert first(credentials, "ghcr.io") == Credential(identity_token=SECRET)
    assert first(credentials, "docker.io") == Credential(identity_token=SECRET)
    assert asked.read_text().split() == ["ghcr.io", HUB]


@pytest.mark.parametrize("key", [HUB, "docker.io"])
def test_a_helper_of_docker_hub(tmp_path: Path, helper: Any, key: str) -> None:
    asked = helper("hub", answer())
    assert first(config(tmp_path, credHelpers={key: "hub"}), "docker.io") == Credential("me", SECRET)
    assert asked.read_text().split() == [HUB]


@pytest.mark.parametrize(("text", "status"), [("credentials not found in native keychain", 1), (answer("", ""), 0)])
def test_a_helper_that_knows_nothing(tmp_path: Path, helper: Any, text: str, status: int) -> None:
    helper("all", text, status)
    credentials = config(tmp_path, credsStore="all", auths={"ghcr.io": {"auth": auth("stored")}})
    assert first(credentials, "ghcr.io") == Credential("stored", SECRET)
    assert first(credentials, "quay.io") is None


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (f"cannot unlock {SECRET}", 1),
        (f"{SECRET} no JSON", 0),
        (json.dumps({"Secret": SECRET}), 0),
        (f'["{SECRET}"]', 0),
    ],
)
def test_a_helper_that_fails_is_named_and_its_output_is_not_shown(
    tmp_path: Path, helper: Any, text: str, status: int
) -> None:
    helper("bad", text, status)
    with pytest.raises(AuthenticationError, match=r"`docker-credential-bad`.*`ghcr\.io`") as caught:
        first(config(tmp_path, credsStore="bad"), "ghcr.io")
    assert SECRET not in shown(caught.value)
    assert "config.json" in str(caught.value.hint)


def test_a_helper_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match=r"`docker-credential-nosuch` .* not installed"):
        first(config(tmp_path, credsStore="nosuch"), "ghcr.io")


def shown(error: BundleError) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


@pytest.mark.parametrize(
    "text",
    [
        f'{{"auths": {{"ghcr.io": {{"auth": "{SECRET}"',
        f'["{SECRET}"]',
        f'{{"auths": ["{SECRET}"]}}',
        f'{{"credsStore": {{"x": "{SECRET}"}}}}',
        f'{{"credHelpers": {{"ghcr.io": ["{SECRET}"]}}}}',
        f'{{"auths": {{"ghcr.io": "{SECRET}"}}}}',
        f'{{"auths": {{"ghcr.io": {{"auth": "%{SECRET}"}}}}}}',
        f'{{"auths": {{"ghcr.io": {{"auth": ["{SECRET}"]}}}}}}',
        json.dumps({"auths": {"ghcr.io": {"auth": base64.b64encode(SECRET.encode()).decode()}}}),
    ],
)
def test_a_broken_file_is_named_and_not_quoted(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=str(tmp_path / "config.json")) as caught:
        first(Credentials(tmp_path), "ghcr.io")
    assert SECRET not in shown(caught.value)


def test_each_host_is_asked_once(tmp_path: Path, helper: Any) -> None:
    asked = helper("all", answer())
    credentials = config(tmp_path, credsStore="all")
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(first(credentials, "ghcr.io"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Credential("me", SECRET)] * 8
    assert asked.read_text().split() == ["ghcr.io"]


def test_docker_is_imported_only_when_there_are_logins(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from bundles.registry.credentials import Credentials\n"
        f"assert next(Credentials(__import__('pathlib').Path({str(tmp_path)!r})).get('ghcr.io', 'app'), None) is None\n"
        "assert 'docker' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


# Other places and other forms


def write(path: Path, **document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def everything(credentials: Credentials, host: str, repository: str) -> list[str]:
    return [login.username for login in credentials.get(host, repository)]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"username": "me", "password": "p:w"}, Credential("me", "p:w")),
        ({"username": "me", "password": "old", "auth": auth("you", "new")}, Credential("you", "new")),
        ({"username": "me", "password": "", "identitytoken": "abc"}, Credential(identity_token="abc")),
        ({"username": "", "password": "alone"}, None),
        ({"email": "me@example.org"}, None),
    ],
)
def test_a_name_and_a_password_without_auth(tmp_path: Path, entry: Any, expected: Optional[Credential]) -> None:
    assert first(config(tmp_path, auths={"ghcr.io": entry}), "ghcr.io") == expected


def test_the_environment_comes_first_then_podman_s_choice_then_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name, path in (
        ("docker", home / ".docker/config.json"),
        ("running", tmp_path / "run/containers/auth.json"),
        ("home", home / ".config/containers/auth.json"),
        ("named", tmp_path / "named.json"),
    ):
        write(path, auths={"quay.io": {"auth": auth(name)}})
    assert everything(Credentials(), "quay.io", "app") == ["docker", "running", "home"]
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "named.json"))
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"quay.io": {"auth": auth("variable")}}}))
    assert everything(Credentials(), "quay.io", "app") == ["variable", "named", "docker", "running", "home"]
    assert everything(Credentials(), "ghcr.io", "app") == []


def test_a_later_place_is_not_read_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".docker/config.json", credsStore="nosuch")
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"quay.io": {"auth": auth("variable")}}}))
    logins = Credentials().get("quay.io", "app")
    assert next(logins).username == "variable"
    with pytest.raises(AuthenticationError, match="docker-credential-nosuch"):
        next(logins)


def test_a_variable_that_is_broken_is_named_and_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", f'{{"auths": "{SECRET}"')
    with pytest.raises(UsageError, match=r"`\$DOCKER_AUTH_CONFIG` cannot be used") as caught:
        first(Credentials(), "quay.io")
    assert SECRET not in shown(caught.value)


@pytest.mark.parametrize(
    ("repository", "order"),
    [
        ("team/app", ["team-app", "team", "all", "other"]),
        ("team/app/part", ["team-app", "team", "all", "other"]),
        ("team/apple", ["team", "all", "other", "team-app"]),
        ("other/x", ["other", "all", "team", "team-app"]),
        ("", ["all", "team", "other", "team-app"]),
    ],
)
def test_of_several_logins_for_a_host_the_nearest_is_the_first(
    tmp_path: Path, repository: str, order: list[str]
) -> None:
    names = {"R.io/team": "team", "r.io": "all", "r.io/other/": "other", "r.io/team/app": "team-app", "s.io": "far"}
    credentials = config(tmp_path, auths={key: {"auth": auth(name)} for key, name in names.items()})
    assert everything(credentials, "r.io", repository) == order


def test_what_other_registries_have_may_be_odd(tmp_path: Path) -> None:
    auths = {"odd.io": {"auth": "%%%"}, "old.io": "text", "ghcr.io": {"auth": auth()}}
    credentials = config(tmp_path, auths=auths)
    assert first(credentials, "ghcr.io") == Credential("me", SECRET)
    with pytest.raises(UsageError):
        first(credentials, "odd.io")
