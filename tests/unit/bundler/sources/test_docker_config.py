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
from typing import Any

import pytest

from bundler.sources.docker_config import Credentials
from bundles.errors import AuthenticationError, BundleError, UsageError
from bundles.registry.auth import Credential
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


def answer(name: str = "me", secret: str = SECRET) -> str:
    return json.dumps({"ServerURL": "x", "Username": name, "Secret": secret})


def test_no_file_means_no_login(tmp_path: Path) -> None:
    assert Credentials(tmp_path).get("ghcr.io") is None


@pytest.mark.parametrize(
    "document", [{}, {"auths": {}}, {"auths": None, "HttpHeaders": {"X": "y"}}, {"auths": {"ghcr.io": {}}}]
)
def test_a_file_without_logins(tmp_path: Path, document: dict[str, Any]) -> None:
    assert config(tmp_path, **document).get("ghcr.io") is None


def test_the_file_is_where_docker_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    (home / ".docker").mkdir(parents=True)
    other.mkdir()
    config(home / ".docker", auths={"ghcr.io": {"auth": auth("home")}})
    config(other, auths={"ghcr.io": {"auth": auth("other")}})
    monkeypatch.setenv("HOME", str(home))
    assert Credentials().get("ghcr.io") == Credential("home", SECRET)
    monkeypatch.setenv("DOCKER_CONFIG", str(other))
    assert Credentials().get("ghcr.io") == Credential("other", SECRET)


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io/v2/", "ghcr.io"),
        ("mirror.corp:5000", "mirror.corp:5000"),
        (HUB, "docker.io"),
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
    ],
)
def test_hosts_are_found_under_their_names(tmp_path: Path, key: str, host: str) -> None:
    credentials = config(tmp_path, auths={"other.io": {"auth": auth("other")}, key: {"auth": auth("me", "a:b")}})
    assert credentials.get(host) == Credential("me", "a:b")
    assert credentials.get("unknown.io") is None


def test_tokens(tmp_path: Path) -> None:
    credentials = config(
        tmp_path,
        auths={
            "identity.io": {"auth": auth("x", ""), "identitytoken": "abc"},
            "registry.io": {"registrytoken": "def"},
            "padded.io": {"auth": auth("me", "ghi\0\0"), "identitytoken": ""},
        },
    )
    assert credentials.get("identity.io") == Credential(identity_token="abc")
    assert credentials.get("registry.io") == Credential(registry_token="def")
    assert credentials.get("padded.io") == Credential("me", "ghi")


def test_a_helper_of_one_host(tmp_path: Path, helper: Any) -> None:
    asked = helper("one", answer())
    credentials = config(tmp_path, credHelpers={"ghcr.io": "one"}, auths={"quay.io": {"auth": auth("stored")}})
    assert credentials.get("ghcr.io") == Credential("me", SECRET)
    assert credentials.get("quay.io") == Credential("stored", SECRET)
    assert asked.read_text().split() == ["ghcr.io"]


def test_a_store_for_all_hosts(tmp_path: Path, helper: Any) -> None:
    asked = helper("all", answer("<token>"))
    credentials = config(tmp_path, credsStore="all")
    assert credentials.get("ghcr.io") == Credential(identity_token=SECRET)
    assert credentials.get("docker.io") == Credential(identity_token=SECRET)
    assert asked.read_text().split() == ["ghcr.io", HUB]


@pytest.mark.parametrize("key", [HUB, "docker.io"])
def test_a_helper_of_docker_hub(tmp_path: Path, helper: Any, key: str) -> None:
    asked = helper("hub", answer())
    assert config(tmp_path, credHelpers={key: "hub"}).get("docker.io") == Credential("me", SECRET)
    assert asked.read_text().split() == [HUB]


@pytest.mark.parametrize(("text", "status"), [("credentials not found in native keychain", 1), (answer("", ""), 0)])
def test_a_helper_that_knows_nothing(tmp_path: Path, helper: Any, text: str, status: int) -> None:
    helper("all", text, status)
    credentials = config(tmp_path, credsStore="all", auths={"ghcr.io": {"auth": auth("stored")}})
    assert credentials.get("ghcr.io") == Credential("stored", SECRET)
    assert credentials.get("quay.io") is None


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
        config(tmp_path, credsStore="bad").get("ghcr.io")
    assert SECRET not in shown(caught.value)
    assert "config.json" in str(caught.value.hint)


def test_a_helper_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match=r"`docker-credential-nosuch` .* not installed"):
        config(tmp_path, credsStore="nosuch").get("ghcr.io")


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
        Credentials(tmp_path).get("ghcr.io")
    assert SECRET not in shown(caught.value)


def test_each_host_is_asked_once(tmp_path: Path, helper: Any) -> None:
    asked = helper("all", answer())
    credentials = config(tmp_path, credsStore="all")
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(credentials.get("ghcr.io"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Credential("me", SECRET)] * 8
    assert asked.read_text().split() == ["ghcr.io"]


def test_docker_is_imported_only_when_there_are_logins(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from bundler.sources.docker_config import Credentials\n"
        f"assert Credentials(__import__('pathlib').Path({str(tmp_path)!r})).get('ghcr.io') is None\n"
        "assert 'docker' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
