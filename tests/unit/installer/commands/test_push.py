"""`bundle push` as a program: what stands where afterwards, and what is said before the first byte."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from bundles.archive.reader import Archive
from tests.support import ROOT
from tests.support.archives import example
from tests.support.fake_registry import ARTIFACT_NOT_FOUND, Certificate, FakeRegistry

Make = Callable[..., FakeRegistry]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return example().write(tmp_path / "offline.tar").path


@pytest.fixture
def harbor(fake: Make, tmp_path: Path) -> FakeRegistry:
    """TLS, logins, tokens; an index with missing children is not found."""
    certificate = Certificate.make(tmp_path)
    return fake(
        tls=certificate, auth="bearer", users={"robot$team": "secret"}, anonymous_pull=False,
        sparse_index=ARTIFACT_NOT_FOUND,
    )  # fmt: skip


def push(archive: Path, registry: FakeRegistry, *arguments: object, login: str = "robot$team:secret") -> Any:
    """Push to the project team; gives the finished process."""
    home = archive.parent / "home"
    (home / ".docker").mkdir(parents=True, exist_ok=True)
    auths = {registry.host: {"auth": base64.b64encode(login.encode()).decode()}} if login else {}
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": auths}))
    command = [sys.executable, "-c", "from bundles.cli.app import main; main()", "push", str(archive)]
    command += [f"{registry.host}/team", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(home), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stdout + done.stderr
    return done


def test_everything_is_below_the_project(archive: Path, harbor: FakeRegistry, tmp_path: Path) -> None:
    done = push(archive, harbor, "--ca", tmp_path / "certificate.pem", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    with Archive(archive) as opened:
        for image, pushed in zip(opened.manifest.images, document["images"]):
            (name,) = pushed["names"]
            path, _, tag = name.removeprefix(f"{harbor.host}/").rpartition(":")
            repository = harbor.repository(path)
            assert str(repository.tags[tag]) == document["rebuilt"].get(f"{path}:{tag}", str(image.root.digest))
            below = {blob.digest for content in image.platforms for blob in opened.walk(content.manifest)}
            assert below <= repository.blobs | repository.manifests.keys()
    assert any("has the index" in note for note in document["notes"])
    assert {name.partition("/")[0] for name in harbor.repositories} == {"team"}

    harbor.requests.clear()
    again = push(archive, harbor, "--ca", tmp_path / "certificate.pem", "--json")
    assert again.returncode == 0
    assert [step["changed"] for step in json.loads(again.stdout)["steps"]] == [False, False]
    assert not harbor.seen("PUT")


def test_flat_names(archive: Path, fake: Make) -> None:
    registry = fake()
    done = push(archive, registry, "--flat")
    assert done.returncode == 0, done.stderr
    assert "team/debian" in registry.repositories
    assert all(name.count("/") == 1 for name in registry.repositories)
    assert "flat names have no mirror" in done.stdout


def test_all_that_is_wrong_is_said_before_the_first_byte(archive: Path, harbor: FakeRegistry, tmp_path: Path) -> None:
    ca = ("--ca", tmp_path / "certificate.pem")
    refused = push(archive, harbor, *ca, login="robot$team:wrong")
    assert refused.returncode == 4
    assert f"docker login {harbor.host}" in refused.stderr
    harbor.members = {"robot$team": "other/"}
    elsewhere = push(archive, harbor, *ca)
    assert elsewhere.returncode == 4
    assert f"`{harbor.host}/team/" in elsewhere.stderr
    assert not harbor.seen("PUT")
    assert not harbor.seen("PATCH")


def test_tags_of_others_are_moved_only_with_consent(archive: Path, fake: Make) -> None:
    registry = fake()
    theirs = registry.tag("team/library/debian", "12", registry.index(registry.image("linux/amd64", seed="theirs")))
    done = push(archive, registry)
    assert done.returncode == 4
    assert str(theirs.digest) in done.stderr
    assert registry.repository("team/library/debian").tags["12"] == theirs.digest
    assert push(archive, registry, "--yes").returncode == 0
    assert registry.repository("team/library/debian").tags["12"] != theirs.digest


def test_a_platform_that_the_archive_does_not_have_is_no_success(archive: Path, fake: Make) -> None:
    registry = fake()
    done = push(archive, registry, "--platform", "linux/amd64,linux/s390x")
    assert done.returncode == 2
    assert "error: --platform linux/s390x: the archive has linux/amd64, linux/arm64" in done.stderr
    assert f"next: bundle inspect {archive}" in done.stderr
    assert not registry.requests


@pytest.mark.parametrize(
    "text",
    ["https://harbor.corp/team", "me:secret@harbor.corp/team", "team", "harbor.corp/Team", "harbor.corp:65536/team"],
)
def test_what_is_no_destination(archive: Path, tmp_path: Path, text: str) -> None:
    from tests.support.program import bundle

    done = bundle("push", archive, text, cwd=tmp_path)
    assert done.returncode == 2
    assert "secret" not in done.stderr
    assert "such as harbor.corp/team" in done.stderr
    assert bundle("push", archive, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("methods", [("GET", "HEAD", "POST"), ("POST",), ("GET", "HEAD")])
def test_a_portal_in_the_place_of_a_registry_is_named(archive: Path, fake: Make, methods: tuple[str, ...]) -> None:
    registry = fake()
    for method in methods:
        page = b"<!DOCTYPE html><title>Portal</title>"
        registry.fault(method, "/v2/team", times=-1, status=200, body=page, headers={"Content-Type": "text/html"})
    done = push(archive, registry)
    assert done.returncode in (4, 5)
    assert f"`{registry.host}` sent a web page, `Portal`" in done.stderr
    assert "a proxy, a portal or a single sign-on answers there" in done.stderr
    assert not registry.seen("PUT")
