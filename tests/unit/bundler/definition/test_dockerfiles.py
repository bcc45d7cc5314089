"""Where images are looked for: files, directories, and what `docker buildx bake` and `docker compose` say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Optional

import pytest

from bundler.definition.dockerfiles import Scan, scan
from bundles.dockerfile.images import BuildSettings
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from tests.support.fake_registry import FakeRegistry
from tests.support.program import bundle

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")

# What docker compose 2 and buildx 0.38 print, apart from what is not read.
BAKE = {
    "group": {"default": {"targets": ["app"]}},
    "target": {
        "app": {
            "context": "app",
            "contexts": {"base": "target:base", "tools": "docker-image://ghcr.io/t:1"},
            "dockerfile": "Dockerfile",
            "args": {"V": "12"},
            "platforms": ["linux/amd64"],
        },
        "base": {"context": ".", "dockerfile": "base.Dockerfile"},
        "inline": {"context": ".", "dockerfile": "Dockerfile", "dockerfile-inline": "FROM busybox:1\n"},
    },
}
COMPOSE = {
    "name": "project",
    "services": {
        "db": {"image": "postgres:16", "platform": "linux/amd64"},
        "again": {"image": "web"},
        "web": {"image": "web", "build": {"context": "{here}/app", "dockerfile": "Dockerfile", "args": {"V": "11"}}},
    },
}


@pytest.fixture(autouse=True)
def no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PATH in which there is no docker, and a working directory."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def docker(tmp_path: Path, *, buildx: Any = None, compose: Any = None, fails: str = "") -> None:
    """Put a docker into PATH that answers for its plugins, those that are given."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"""#!{sys.executable}
import json, sys
answers = {{"buildx": {buildx!r}, "compose": {compose!r}}}
answer = answers.get(sys.argv[1])
open({str(tmp_path / "calls")!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
if answer is None:
    sys.exit("docker: unknown command: docker " + sys.argv[1])
if sys.argv[2] != "version":
    if {fails!r}:
        sys.exit({fails!r})
    print(json.dumps(answer))
""")
    program.chmod(0o755)


def write(**files: str) -> None:
    for name, text in files.items():
        path = Path(name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def look(*paths: str, arguments: Optional[dict[str, str]] = None) -> Scan:
    return scan([Path(path) for path in paths], BuildSettings((AMD64, ARM64), (AMD64,), arguments or {}))


def found(result: Scan) -> set[tuple[str, str, str]]:
    return {(use.reference.familiar, use.platform.architecture, use.where) for use in result.uses}


def test_files_and_directories() -> None:
    write(Dockerfile="FROM a\nFROM b", sub__deep__Containerfile="FROM c", sub__x="FROM d")
    Path("sub/Dockerfile.test").write_text("FROM e")
    Path("sub/app.dockerfile").write_text("FROM f")
    Path("sub/Dockerfile.dockerignore").write_text("FROM none")
    write(node_modules__Dockerfile="FROM none")
    Path(".git").mkdir()
    Path(".git/Dockerfile").write_text("FROM none")
    images = {image for image, _, _ in found(look("."))}
    assert images == {f"{letter}:latest" for letter in "abcef"}
    assert found(look("sub/x")) == {("d:latest", "amd64", "sub/x:1"), ("d:latest", "arm64", "sub/x:1")}


def test_bake_targets_are_built_with_their_arguments_contexts_and_platforms(tmp_path: Path) -> None:
    docker(tmp_path, buildx=BAKE)
    Path("docker-bake.hcl").write_text("")
    Path("base.Dockerfile").write_text("FROM gcc:12")
    write(app__Dockerfile="ARG V=1\nFROM debian:$V\nCOPY --from=base / /\nCOPY --from=tools / /")
    expected = {
        ("debian:12", "amd64", "app/Dockerfile:2"),
        ("ghcr.io/t:1", "amd64", "app/Dockerfile:4"),
        ("gcc:12", "amd64", "base.Dockerfile:1"),
        ("gcc:12", "arm64", "base.Dockerfile:1"),
        ("busybox:1", "amd64", "docker-bake.hcl[inline]:1"),
        ("busybox:1", "arm64", "docker-bake.hcl[inline]:1"),
    }
    assert found(look("docker-bake.hcl")) == expected
    # In a directory the Dockerfiles that the Bake file builds are not read a second time, with other arguments.
    assert found(look(".")) == expected
    assert ("debian:13", "amd64", "app/Dockerfile:2") in found(look(".", arguments={"V": "13"}))


def test_compose_services(tmp_path: Path) -> None:
    docker(tmp_path, compose=json.loads(json.dumps(COMPOSE).replace("{here}", str(Path.cwd()))))
    write(app__Dockerfile="ARG V=1\nFROM debian:$V")
    Path("compose.yaml").write_text("")
    assert found(look("compose.yaml")) == {
        ("postgres:16", "amd64", "compose.yaml[db]"),
        ("debian:11", "amd64", "app/Dockerfile:2"),
        ("debian:11", "arm64", "app/Dockerfile:2"),
    }
    assert "compose --file compose.yaml --profile * config --format json" in (tmp_path / "calls").read_text()


def test_without_the_tool_it_is_said() -> None:
    Path("compose.yaml").write_text("services: {}")
    Path("docker-bake.json").write_text("{}")
    for file, tool in (("compose.yaml", "docker compose"), ("docker-bake.json", "docker buildx")):
        with pytest.raises(UsageError) as caught:
            look(file)
        assert f"`{tool}`, which reads such a file, is not installed" in str(caught.value)
        assert "--dockerfile PATH" in str(caught.value)
    Path("Dockerfile").write_text("FROM a")
    result = look(".")
    assert {image for image, _, _ in found(result)} == {"a:latest"}
    assert [note.split(" was not looked at")[0] for note in result.notes] == ["docker-bake.json", "compose.yaml"]


def test_what_the_tool_says_is_passed_on(tmp_path: Path) -> None:
    docker(tmp_path, buildx=BAKE, compose=COMPOSE, fails="docker-bake.hcl:3: no such variable")
    Path("docker-bake.hcl").write_text("")
    with pytest.raises(UsageError, match=r"docker-bake\.hcl:3: no such variable"):
        look("docker-bake.hcl")


def test_a_tool_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundler.definition.dockerfiles._TIMEOUT", 0.2)
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    program.chmod(0o755)
    Path("docker-bake.hcl").write_text("")
    with pytest.raises(UsageError, match=r"docker buildx version` does not end within 0\.2 seconds"):
        look("docker-bake.hcl")


@pytest.mark.parametrize("answer", [{"target": {"x": 1}}, {"target": {"x": {"contexts": 5}}}, {"target": [1]}])
def test_a_strange_answer_is_no_traceback(tmp_path: Path, answer: Any) -> None:
    docker(tmp_path, buildx=answer)
    Path("docker-bake.hcl").write_text("")
    Path("Dockerfile").write_text("FROM a\nCOPY --from=b / /")
    with pytest.raises(UsageError, match=r"docker-bake\.hcl"):
        look("docker-bake.hcl")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing", None, "`missing` cannot be read"),
        ("compose.yaml", None, "not installed"),
        ("Dockerfile", b"\xff\xfe", "no text in UTF-8"),
        ("empty/", None, "has nothing to look at"),
        ("Dockerfile", b"FROM $X", "`Dockerfile:1`"),
    ],
)
def test_what_cannot_be_read(name: str, content: Optional[bytes], words: str) -> None:
    if name.endswith("/"):
        Path(name).mkdir()
    elif content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        look(name)
    assert words in str(caught.value)


def test_a_context_elsewhere_is_refused(tmp_path: Path) -> None:
    docker(tmp_path, buildx={"target": {"x": {"context": "https://example.com/x.git"}}})
    Path("docker-bake.hcl").write_text("")
    with pytest.raises(UsageError, match=r"`docker-bake.hcl\[x\]` is built from `https://example.com/x.git`"):
        look("docker-bake.hcl")


def test_create_bundles_what_dockerfiles_need(hub: FakeRegistry, tmp_path: Path) -> None:
    for name in ("golang", "gcc"):
        hub.tag(
            f"library/{name}", "1", hub.index(*(hub.image(each, seed=name) for each in ("linux/amd64", "linux/arm64")))
        )
    hub.tag("docker/dockerfile", "1.7", hub.index(hub.image("linux/amd64", seed="1.7")))
    (tmp_path / "Dockerfile").write_text("""\
# syntax=docker/dockerfile:1.7
ARG REG
ARG V
FROM --platform=$BUILDPLATFORM golang:1 AS build
FROM ${REG}debian:${V}
COPY --from=build / /
""")
    arguments = ("--dockerfile", "Dockerfile", "--mirror", f"docker.io={hub.host}")
    failed = bundle("create", *arguments, cwd=tmp_path)
    assert failed.returncode == 2
    assert "`Dockerfile:5`" in failed.stderr
    assert "--build-arg REG=... --build-arg V=..." in failed.stderr

    done = bundle("create", "gcc:1", *arguments, "--build-arg", "V=12", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "found golang:1 for linux/amd64 in Dockerfile:4 (FROM)" in done.stderr
    assert "note: Dockerfile:5: `REG` has no value and was taken as empty" in done.stderr
    document = json.loads(done.stdout)
    assert document["found"][-1] == {
        "reference": "debian:12",
        "platforms": ["linux/amd64", "linux/arm64"],
        "where": ["Dockerfile:5 (FROM)"],
    }
    bundled = {
        image["reference"]: (image["role"], [each["platform"] for each in image["platforms"]])
        for image in document["images"]
    }
    assert bundled["docker.io/library/golang:1"] == ("base", ["linux/amd64"])
    assert bundled["docker.io/library/debian:12"] == ("base", ["linux/amd64", "linux/arm64"])
    assert bundled["docker.io/library/gcc:1"] == ("base", ["linux/amd64", "linux/arm64"])
    assert bundled["docker.io/docker/dockerfile:1.7"] == ("frontend", ["linux/amd64"])

    # The same in a definition, whose paths count from where it is; and a Dockerfile that changes is drift.
    (tmp_path / "bundle.toml").write_text(
        f'dockerfiles = ["Dockerfile"]\n[build-args]\nV = "12"\n[mirrors]\n"docker.io" = ["{hub.host}"]\n'
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert bundle("lock", "-f", "../bundle.toml", cwd=elsewhere).returncode == 0
    done = bundle("create", "-f", "../bundle.toml", "--plan", cwd=elsewhere)
    assert (done.returncode, "golang:1" in done.stdout) == (0, True), done.stderr
    (tmp_path / "Dockerfile").write_text("FROM gcc:1")
    done = bundle("create", "-f", "bundle.toml", "--plan", cwd=tmp_path)
    assert (done.returncode, "`gcc:1` is not in the lock" in done.stderr) == (2, True)
