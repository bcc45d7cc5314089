"""bundle.lock: what moves, what drifts, and the same bytes wherever it is used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundles.archive.reader import Archive
from tests.support import ROOT
from tests.support.fake_registry import FakeRegistry
from tests.support.program import bundle_here as bundle

DEFINITION = """\
name = "team"
images = ["debian:12", "gcc:12"]
platforms = ["linux/amd64", "linux/arm64"]

[mirrors]
"docker.io" = ["{host}"]

[merge."tools/protoc:29"]
"linux/amd64" = "protoc-amd64:29"
"linux/arm64" = "protoc-arm64:29"
"""


def push(hub: FakeRegistry, repository: str, tag: str, seed: str) -> str:
    index = hub.index(*(hub.image(name, seed=seed) for name in ("linux/amd64", "linux/arm64")))
    hub.tag(repository, tag, index)
    return str(index.digest)


@pytest.fixture
def project(hub: FakeRegistry, tmp_path: Path) -> Path:
    push(hub, "library/gcc", "12", "gcc")
    for architecture in ("amd64", "arm64"):
        hub.tag(f"library/protoc-{architecture}", "29", hub.image(f"linux/{architecture}", seed="protoc"))
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "bundle.toml").write_text(DEFINITION.format(host=hub.host))
    return directory


def lock(project: Path, *arguments: str) -> dict[str, Any]:
    done = bundle("lock", "--json", *arguments, cwd=project)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def create(project: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return bundle("create", "-f", "bundle.toml", *arguments, cwd=project)


def bundled(project: Path, name: str) -> dict[str, str]:
    with Archive(project / name) as archive:
        return {str(image.reference): str(image.root.digest) for image in archive.manifest.images}


def test_what_is_locked_is_bundled_until_it_is_upgraded(hub: FakeRegistry, project: Path) -> None:
    first = lock(project)
    assert (first["changed"], len(first["added"]), first["moved"]) == (True, 8, [])
    locked = json.loads((project / "bundle.lock").read_text())
    old = next(image["digest"] for image in locked["images"] if image["reference"] == "docker.io/library/debian:12")
    new = push(hub, "library/debian", "12", "a newer debian")
    push(hub, "library/gcc", "12", "a newer gcc")
    assert lock(project)["changed"] is False
    assert create(project, "-o", "locked.tar").returncode == 0
    assert bundled(project, "locked.tar")["docker.io/library/debian:12"] == old

    planned = lock(project, "--upgrade", "debian:12", "--plan")
    assert planned["moved"] == [{"reference": "debian:12", "old": old, "new": new}]
    assert json.loads((project / "bundle.lock").read_text()) == locked
    said = bundle("lock", "--upgrade", "debian:12", cwd=project)
    assert f"moved    debian:12  {old} -> {new}" in said.stdout
    assert create(project, "-o", "upgraded.tar").returncode == 0
    assert bundled(project, "upgraded.tar")["docker.io/library/debian:12"] == new
    changed = {name for name, digest in bundled(project, "upgraded.tar").items()
               if bundled(project, "locked.tar")[name] != digest}  # fmt: skip
    assert changed == {"docker.io/library/debian:12"}
    assert [entry["reference"] for entry in lock(project, "--upgrade")["moved"]] == ["gcc:12"]


def test_sizes_and_platforms_are_in_the_lock(hub: FakeRegistry, project: Path) -> None:
    lock(project)
    locked = json.loads((project / "bundle.lock").read_text())
    image = next(image for image in locked["images"] if image["reference"] == "docker.io/library/debian:12")
    assert [content["platform"] for content in image["platforms"]] == ["linux/amd64", "linux/arm64"]
    for content in image["platforms"]:
        manifest = next(each for each in hub.content if str(each) == content["digest"])
        document = json.loads(hub.content[manifest])
        sizes = [document["config"]["size"], *(layer["size"] for layer in document["layers"])]
        assert content["size"] == len(hub.content[manifest]) + sum(sizes)
    merged = next(image for image in locked["images"] if image["reference"] == "docker.io/tools/protoc:29")
    assert [source["reference"] for source in merged["sources"]] == [
        "docker.io/library/protoc-amd64:29",
        "docker.io/library/protoc-arm64:29",
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"gcc:12"', '"gcc:12", "busybox:1"', "`busybox:1` is not in the lock"),
        (', "gcc:12"', "", "`gcc:12` is only in the lock"),
        (', "linux/arm64"]', "]", "the platforms are linux/amd64, locked are linux/amd64, linux/arm64"),
        ('"team"', '"other"', "the name is `other`, locked is `team`"),
        ("protoc-arm64:29", "protoc-amd64:29", "`tools/protoc:29` is merged from other images"),
        ('name = "team"', 'name = "team"\nattestations = false', "attestations are not wanted"),
        ("[mirrors]", '[toolchain]\nbinfmt = false\n[mirrors]', "`tonistiigi/binfmt:latest` is only in the lock"),
    ],
)  # fmt: skip
def test_a_drifted_definition_is_refused(project: Path, old: str, new: str, words: str) -> None:
    lock(project)
    path = project / "bundle.toml"
    path.write_text(path.read_text().replace(old, new))
    done = create(project)
    assert done.returncode == 2
    assert words in done.stderr
    assert "next: bundle lock -f bundle.toml" in done.stderr
    assert not (project / "team.tar").exists()
    assert not (project / "other.tar").exists()


def test_more_images_on_the_command_line_are_drift_too(project: Path) -> None:
    lock(project)
    done = create(project, "busybox:1")
    assert (done.returncode, "`busybox:1` is not in the lock" in done.stderr) == (2, True)


def test_the_order_in_the_definition_does_not_matter(project: Path) -> None:
    lock(project)
    assert create(project, "-o", "a.tar").returncode == 0
    path = project / "bundle.toml"
    text = path.read_text().replace('"debian:12", "gcc:12"', '"gcc:12", "debian:12"')
    path.write_text(text.replace('"linux/amd64", "linux/arm64"]', '"linux/arm64", "linux/amd64"]'))
    assert create(project, "-o", "b.tar").returncode == 0
    assert (project / "a.tar").read_bytes() == (project / "b.tar").read_bytes()


def test_what_is_no_longer_there_is_named_with_the_way_out(hub: FakeRegistry, project: Path) -> None:
    lock(project)
    locked = bundled_digest = json.loads((project / "bundle.lock").read_text())["images"][-1]["digest"]
    repository = hub.repositories["library/gcc"]
    del repository.manifests[next(digest for digest in repository.manifests if str(digest) == bundled_digest)]
    push(hub, "library/gcc", "12", "a newer gcc")
    done = create(project)
    assert done.returncode == 5
    assert f"`gcc:12` is locked as {locked}, which is no longer there" in done.stderr
    assert "bundle lock -f bundle.toml --upgrade gcc:12" in done.stderr
    assert lock(project, "--upgrade", "gcc:12")["moved"][0]["old"] == locked
    assert create(project).returncode == 0


@pytest.mark.parametrize(
    "data", ["", "{", "[]", '{"lock": 2}', '{"lock": 1}', '{"lock": 1, "name": "x", "platforms": 5}']
)
def test_a_broken_lock_is_named(project: Path, data: str) -> None:
    (project / "bundle.lock").write_text(data)
    for done in (create(project), bundle("lock", cwd=project)):
        assert (done.returncode, "`bundle.lock` cannot be used" in done.stderr) == (2, True)
        assert "Traceback" not in done.stderr


def test_upgrading_what_is_not_locked(project: Path) -> None:
    lock(project)
    done = bundle("lock", "--upgrade", "debian:11", cwd=project)
    assert (done.returncode, "`debian:11` is not in the lock" in done.stderr) == (2, True)
    done = bundle("lock", "--upgrade", "oci-archive:a.tar", cwd=project)
    assert done.returncode == 2
    assert "`oci-archive:a.tar` names a file: expected the names that its images have in the lock" in done.stderr
    assert "next: for all images: bundle lock -f bundle.toml --upgrade\n" in done.stderr
    done = bundle("lock", "debian:12", cwd=project)
    assert (done.returncode, "next: bundle lock -f bundle.toml --upgrade debian:12" in done.stderr) == (2, True)


def interpreters() -> list[str]:
    """This Python, and every other one of this machine that can run the tool."""
    found = [sys.executable]
    names = [f"python3.{minor}" for minor in range(9, 16)]
    candidates = [
        *map(shutil.which, names),
        *map(str, Path(os.environ.get("PYENV_ROOT", "/nowhere")).glob("*/bin/python")),
    ]
    for program in (*candidates, *os.environ.get("OTHER_PYTHONS", "").split(":")):
        if program and _can_run(program):
            found.append(program)
    return found


def _can_run(program: str) -> bool:
    script = "import bundler.commands.create, bundler.writing.program; bundler.writing.program.program()"
    done = subprocess.run([program, "-c", script], env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    return done.returncode == 0


def test_same_lock_same_bytes_wherever_it_is_used(hub: FakeRegistry, project: Path, tmp_path: Path) -> None:
    lock(project)
    surroundings = [
        {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C", "umask": "022"},
        {"PYTHONHASHSEED": "2", "TZ": "Asia/Shanghai", "LC_ALL": "C.UTF-8", "umask": "077"},
    ]
    hashes = set()
    for number, (program, around) in enumerate(
        (program, around) for program in interpreters() for around in surroundings
    ):
        place = tmp_path / f"machine {number}"
        shutil.copytree(project, place)
        environment = {"PYTHONPATH": str(ROOT), "HOME": str(place), "PATH": "/usr/bin:/bin", **around}
        command = f'umask {environment.pop("umask")}; exec "$0" -c \'from bundles.cli.app import main; main()\' "$@"'
        subprocess.run(
            ["sh", "-c", command, program, "create", "-f", str(place / "bundle.toml"), "-o", str(place / "x.tar")],
            cwd="/" if number % 2 else place, env=environment, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        hashes.add(hashlib.sha256((place / "x.tar").read_bytes()).hexdigest())
    assert len(hashes) == 1
