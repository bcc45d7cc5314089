"""Where images are looked for: files, directories, and what `docker buildx bake` and `docker compose` say."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from bundler.definition.dockerfiles import Scan, scan
from bundles.dockerfile.images import BuildSettings
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from tests.support.fake_registry import FakeRegistry
from tests.support.program import bundle_here as bundle

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


RESET = 'services:\n  "web":\n    env_file: !reset []\n    label_file: !reset []\n'
VERSIONS = {"buildx": "github.com/docker/buildx v0.38.2 x", "compose": "Docker Compose version v5.3.1"}


def docker(tmp_path: Path, *, buildx: Any = None, compose: Any = None, fails: str = "") -> None:
    """Put a docker into PATH that answers for its plugins, those that are given."""
    program(
        tmp_path,
        "docker",
        f"""
answer = {{"buildx": {buildx!r}, "compose": {compose!r}}}.get(sys.argv[1])
if answer is None:
    sys.exit("docker: unknown command: docker " + sys.argv[1])
if sys.argv[2] == "version":
    print({VERSIONS!r}[sys.argv[1]])
elif {fails!r}:
    sys.exit({fails!r})
else:
    print(json.dumps(answer).replace("$", "$$" if sys.argv[1] == "compose" else "$"))
""",
    )


def program(tmp_path: Path, name: str, text: str) -> None:
    """Put a program into PATH that writes down how it was called."""
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    calls = f"open({str(tmp_path / 'calls')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')"
    path.write_text(f"#!{sys.executable} -IS\nimport json, os, sys\n{calls}\n{text}")
    path.chmod(0o755)


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def write(**files: str) -> None:
    for name, text in files.items():
        path = Path(name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def look(*paths: str, arguments: Optional[dict[str, str]] = None, exclude: Sequence[str] = ()) -> Scan:
    settings = BuildSettings((AMD64, ARM64), (AMD64,), arguments or {})
    return scan([Path(path) for path in paths], settings, exclude)


def images(result: Scan) -> set[str]:
    return {use.reference.familiar for use in result.uses}


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
    assert images(look(".")) == {f"{letter}:latest" for letter in "abcef"}
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


def test_variables_in_a_dockerfile_that_stands_in_a_bake_file(tmp_path: Path) -> None:
    # Bake prints a Bake file, in which `${` is written `$${`.
    inline = "ARG V=12\nFROM debian:$${V}\n"
    docker(tmp_path, buildx={"target": {"app": {"dockerfile-inline": inline, "args": {"V": "13-$${x}"}}}})
    Path("docker-bake.hcl").write_text("")
    with pytest.raises(UsageError, match=r"debian:13-\$\{x\}"):
        look("docker-bake.hcl")
    docker(tmp_path, buildx={"target": {"app": {"dockerfile-inline": inline}}})
    assert images(look("docker-bake.hcl")) == {"debian:12"}


def test_compose_services(tmp_path: Path) -> None:
    docker(tmp_path, compose=json.loads(json.dumps(COMPOSE).replace("{here}", str(Path.cwd()))))
    write(app__Dockerfile="ARG V=1\nFROM debian:$V")
    Path("compose.yaml").write_text("")
    assert found(look("compose.yaml")) == {
        ("postgres:16", "amd64", "compose.yaml[db]"),
        ("debian:11", "amd64", "app/Dockerfile:2"),
        ("debian:11", "arm64", "app/Dockerfile:2"),
    }
    assert "compose --file compose.yaml --profile * config --format json --no-env-resolution" in calls(tmp_path)


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
    assert [problem.subject for problem in result.skipped] == ["docker-bake.json", "compose.yaml"]
    assert all("not installed" in problem.message for problem in result.skipped)


def test_what_the_tool_says_is_passed_on(tmp_path: Path) -> None:
    docker(tmp_path, buildx=BAKE, compose=COMPOSE, fails="docker-bake.hcl:3: no such variable")
    Path("docker-bake.hcl").write_text("")
    with pytest.raises(UsageError, match=r"docker-bake\.hcl:3: no such variable"):
        look("docker-bake.hcl")


def test_a_tool_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundler.definition.docker_tools._TIMEOUT", 0.2)
    program(tmp_path, "docker", "import time\ntime.sleep(60)\n")
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
        ("compose.yaml", None, "`compose.yaml` is not there"),
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


@pytest.mark.parametrize(
    "name",
    [
        *("Dockerfile-worker", "Dockerfile_test", "Dockerfile.prod", "dockerfile2", "Containerfile.prod"),
        *("api.Containerfile", "api-dockerfile", "web_Dockerfile.dev", ".devcontainer/Dockerfile"),
        *(".github/actions/lint/Dockerfile", "vendor/Containerfile"),
    ],
)
def test_dockerfiles_are_found_by_many_names(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("FROM only:1")
    assert found(look(".")) == {("only:1", each, f"{name}:1") for each in ("amd64", "arm64")}


@pytest.mark.parametrize(
    "name",
    [
        *("Dockerfiles", "mydockerfile", "Dockerfile.dockerignore", "x.dockerfile.dockerignore"),
        *(".git/Dockerfile", "node_modules/a/Dockerfile", ".venv/lib/Dockerfile", "cache/Dockerfile"),
    ],
)
def test_what_is_none_of_them(name: str) -> None:
    for mark in (".venv/pyvenv.cfg", "cache/CACHEDIR.TAG", name):
        Path(mark).parent.mkdir(parents=True, exist_ok=True)
        Path(mark).write_text("FROM none")
    with pytest.raises(UsageError, match="has nothing to look at"):
        look(".")


def test_what_was_found_and_cannot_be_read_is_noted_and_what_was_named_is_an_error() -> None:
    templates = {
        "Dockerfile.j2": "FROM {{ base }}\n",
        "app/Dockerfile.erb": "FROM <%= x %>",
        "Dockerfile.md": "# Docs\n\nText",
    }
    for name, text in {**templates, "Dockerfile": "FROM debian:12", "app/Dockerfile": "FROM debian:$V"}.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    result = look(".")
    assert images(result) == {"debian:12"}
    assert [problem.subject for problem in result.skipped] == [
        *("Dockerfile.j2", "Dockerfile.md", "app/Dockerfile", "app/Dockerfile.erb")
    ]
    assert result.skipped[2].message.startswith("`app/Dockerfile:1`")
    # All that was named is reported, not only the first.
    with pytest.raises(UsageError) as caught:
        look(*templates, "Dockerfile", "nowhere")
    assert [problem.subject for problem in caught.value.problems] == [*templates, "nowhere"]
    # A directory of which nothing can be read is an error, with the reasons.
    with pytest.raises(UsageError, match="nothing in `app` can be looked through") as caught:
        look("app")
    assert [problem.subject for problem in caught.value.problems] == ["app/Dockerfile", "app/Dockerfile.erb"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], "abcd"),
        (["docs"], "acd"),
        (["docs/"], "acd"),
        (["*.test"], "abd"),
        (["app/docs"], "abcd"),
        (["app/x/*", "./docs"], "ac"),
        (["app/x/*", "./docs/*"], "ac"),
        (["Dockerfile"], "c"),
        (["**/docs", "/app/x"], "ac"),
    ],
)
def test_exclude(patterns: list[str], expected: str) -> None:
    write(Dockerfile="FROM a", docs__Dockerfile="FROM b", app__x__Dockerfile="FROM d")
    Path("app/Dockerfile.test").write_text("FROM c")
    result = look(".", exclude=patterns)
    assert images(result) == {f"{letter}:latest" for letter in expected}
    # What is named is looked at, whatever it is called.
    assert images(look("docs/Dockerfile", exclude=["*"])) == {"b:latest"}


def test_a_directorys_compose_files_are_those_that_compose_takes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker(tmp_path, compose={"services": {"db": {"image": "db:1"}}})

    def read(*names: str, path: str = ".", exclude: Sequence[str] = ()) -> tuple[list[str], tuple[str, ...]]:
        for name in names:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).touch()
        (tmp_path / "calls").unlink(missing_ok=True)
        result = look(path, exclude=exclude)
        for name in names:
            Path(name).unlink()
        asked = [call.partition(" --profile")[0] for call in calls(tmp_path) if "--profile" in call]
        return asked, result.notes

    assert read("compose.yaml") == (["compose --file compose.yaml"], ())
    both = ["compose --file compose.yaml --file compose.override.yaml"]
    assert read("compose.yaml", "compose.override.yaml") == (both, ())
    assert read("compose.yaml", "compose.override.yaml", exclude=["*.override.*"])[0] == ["compose --file compose.yaml"]
    asked, notes = read("docker-compose.yaml", "compose.yml", "docker-compose.override.yml", "compose.prod.yaml")
    assert asked == ["compose --file compose.yml --file docker-compose.override.yml"]
    assert [note.partition(" was not")[0] for note in notes] == ["compose.prod.yaml", "docker-compose.yaml"]
    # One that is named is read alone, and that is said.
    asked, notes = read("compose.yaml", "compose.override.yml", path="compose.yaml")
    assert asked == ["compose --file compose.yaml"]
    assert notes[0].startswith("compose.override.yml was not read")
    # COMPOSE_FILE, of the environment for the directory that is named, and of a .env for its own.
    monkeypatch.setenv("COMPOSE_FILE", "stack.yaml")
    assert read("compose.yaml", "below/compose.yaml")[0] == ["compose", "compose --file compose.yaml"]
    monkeypatch.delenv("COMPOSE_FILE")
    Path("below/.env").write_text("A=1\nCOMPOSE_FILE = stack.yaml\n")
    assert read("below/stack.yaml")[0] == ["compose"]


def test_the_environment_speaks_of_the_directory_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
if sys.argv[1] == "version":
    print("Docker Compose version v5.3.1")
else:
    here = f"{os.path.basename(os.environ['PWD'])}/{os.environ.get('COMPOSE_FILE', 'none')}"
    print(json.dumps({"services": {"x": {"image": here.lower()}}}))
"""
    program(tmp_path, "docker-compose", text)
    monkeypatch.setenv("COMPOSE_FILE", "stack")
    Path("below").mkdir()
    Path("below/.env").write_text("export COMPOSE_FILE=other.yaml")
    assert images(look(".")) == {"work/stack:latest", "below/none:latest"}


@pytest.mark.parametrize("version", ["v2.26.1", "v5.3.1"])
def test_what_only_running_needs_does_not_stop_compose(tmp_path: Path, version: str) -> None:
    """As 2.26 does it with env_file, and 5.3 with label_file: one that is not there stops `config`, but no raw one."""
    program(
        tmp_path,
        "docker-compose",
        f"""
if sys.argv[1] == "version":
    print("Docker Compose version {version}")
elif ("--no-env-resolution" in sys.argv) and {version == "v2.26.1"}:
    sys.exit("unknown flag")
elif "--no-interpolate" in sys.argv:
    print(json.dumps({{"services": {{"web": {{"image": "web:$V"}}}}}}))
elif sys.argv[1:5] == ["--file", "compose.yaml", "--file", "-"] and sys.stdin.read() == {RESET!r}:
    print(json.dumps({{"services": {{"web": {{"image": "web:1"}}}}}}))
else:
    sys.exit("file x.env not found")
""",
    )
    Path("compose.yaml").write_text("")
    assert images(look("compose.yaml")) == {"web:1"}
    Path("compose.yaml").rename("other.yaml")
    with pytest.raises(UsageError, match=r"file x\.env not found"):
        look("other.yaml")


@pytest.mark.parametrize("told", ["environment", ".env"])
def test_what_only_running_needs_does_not_stop_the_files_that_compose_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    program(
        tmp_path,
        "docker-compose",
        f"""
if sys.argv[1] == "version":
    print("Docker Compose version v2.26.1")
elif "--no-interpolate" in sys.argv:
    print(json.dumps({{"services": {{"web": {{}}}}}}))
elif sys.argv[1:7] == ["--file", "a.yaml", "--file", "b.yaml", "--file", "-"] and sys.stdin.read() == {RESET!r}:
    print(json.dumps({{"services": {{"web": {{"image": "web:1"}}}}}}))
else:
    sys.exit("file x.env not found")
""",
    )
    if told == "environment":
        monkeypatch.setenv("COMPOSE_FILE", "a.yaml:b.yaml")
    else:
        Path(".env").write_text('A=1\nexport COMPOSE_FILE="a.yaml:b.yaml"  # two\n')
    assert images(look(".")) == {"web:1"}


@pytest.mark.parametrize(
    ("service", "bundled"),
    [
        ({"image": "web:1", "environment": {"PASSWORD": "$PW"}, "ports": ["$PORT:80"]}, True),
        ({"image": "web:1", "volumes": [{"type": "bind", "source": "$PW"}]}, True),
        ({"image": "web:$PW"}, False),
        ({"image": "web:1", "volumes": [{"type": "image", "source": "data:$PW"}]}, False),
        ({"image": "web", "build": {"dockerfile_inline": "FROM web:1", "args": {"V": "$PW"}}}, False),
    ],
)
def test_a_variable_that_only_running_needs_may_lack_a_value(
    tmp_path: Path, service: dict[str, Any], bundled: bool
) -> None:
    """As Compose has it for `${PW:?no password}`."""
    program(
        tmp_path,
        "docker-compose",
        f"""
if sys.argv[1] == "version":
    print("Docker Compose version v2.40.3")
else:
    text = json.dumps({{"services": {{"web": {service!r}}}}})
    for name in ("PW", "PORT"):
        if not os.environ.get(name):
            sys.exit(f"error while interpolating x: required variable {{name}} is missing a value: no password")
        text = text.replace("$" + name, os.environ[name])
    print(text)
""",
    )
    Path("compose.yaml").touch()
    if bundled:
        assert images(look("compose.yaml")) == {"web:1"}
    else:
        with pytest.raises(UsageError, match="required variable PW is missing a value: no password"):
            look("compose.yaml")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("docker-compose", "docker-compose version 1.29.2, build 5becea4c"),
        ("docker-compose", "podman-compose version: 1.0.6"),
        ("docker-buildx", "buildah 1.33.7"),
    ],
)
def test_a_program_that_is_another_one_is_worse_than_none(tmp_path: Path, name: str, says: str) -> None:
    program(tmp_path, name, f"print({says!r}) if sys.argv[1] == 'version' else sys.exit('unknown command')")
    file = {"docker-compose": "compose.yaml", "docker-buildx": "docker-bake.hcl"}[name]
    Path(file).touch()
    with pytest.raises(UsageError, match=f"{name}` is another program, or too old"):
        look(file)
    write(Dockerfile="FROM a")
    assert images(look(".")) == {"a:latest"}
    assert not [call for call in calls(tmp_path) if call != "version"]


def test_a_directorys_bake_files_are_those_that_bake_takes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = {"target": {"app": {"dockerfile-inline": "FROM bake:1"}}}
    docker(tmp_path, buildx=target, compose={"services": {"db": {"image": "db:1"}}})
    for name in ("compose.yaml", "docker-bake.hcl", "docker-bake.override.json", "docker-bake.dev.hcl"):
        Path(name).touch()
    result = look(".")
    asked = "buildx bake --file compose.yaml --file docker-bake.hcl --file docker-bake.override.json --print *"
    assert asked in calls(tmp_path)
    assert images(result) == {"bake:1", "db:1"}
    assert [note.partition(" was not")[0] for note in result.notes] == ["docker-bake.dev.hcl"]
    assert look("docker-bake.hcl").notes[0].startswith("docker-bake.override.json was not read")
    monkeypatch.setenv("BUILDX_BAKE_FILE", "other.hcl")
    assert look(".").notes == ()
    assert calls(tmp_path)[-3:-2] == ["buildx bake --print *"]


def test_a_compose_file_that_bake_refuses_does_not_stop_the_bake_file_beside_it(tmp_path: Path) -> None:
    program(
        tmp_path,
        "buildx",
        """
if sys.argv[1] == "version":
    print("github.com/docker/buildx v0.13.0")
elif "compose.yaml" in sys.argv:
    sys.exit("env file x.env not found")
else:
    print(json.dumps({"target": {"app": {"dockerfile-inline": "FROM bake:1"}}}))
""",
    )
    Path("compose.yaml").touch()
    Path("docker-bake.hcl").touch()
    result = look(".")
    assert images(result) == {"bake:1"}
    assert result.notes == (
        "docker-bake.hcl was read without the Compose file beside it, with which buildx refuses it",
    )


def test_one_bad_build_does_not_hide_the_others(tmp_path: Path) -> None:
    bad = {"context": "https://example.com/x.git"}
    docker(
        tmp_path,
        buildx={"target": {"a": bad, "b": {"dockerfile-inline": "FROM b:1", **bad}, "c": {"dockerfile": "none"}}},
    )
    Path("docker-bake.hcl").touch()
    with pytest.raises(UsageError) as caught:
        look("docker-bake.hcl")
    assert [problem.subject for problem in caught.value.problems] == ["docker-bake.hcl[a]", "docker-bake.hcl[c]"]
    result = look(".")
    assert images(result) == {"b:1"}
    assert [problem.subject for problem in result.skipped] == ["docker-bake.hcl[a]", "docker-bake.hcl[c]"]


def test_compose_doubles_dollars_and_names_images_in_other_places(tmp_path: Path) -> None:
    service = {
        "image": "web",
        "build": {"context": ".", "dockerfile_inline": "ARG V=12\nFROM debian:$V", "args": {"V": "13"}},
        "volumes": [{"type": "image", "source": "data:1"}, {"type": "bind", "source": "/srv"}],
        "pre_start": [{"image": "migrate:1"}],
    }
    docker(tmp_path, compose={"services": {"web": service}})
    Path("compose.yaml").touch()
    assert images(look("compose.yaml")) == {"debian:13", "data:1", "migrate:1"}


SCANNER = "docker/buildkit-syft-scanner:stable-1"


@pytest.mark.parametrize(
    ("attest", "expected"),
    [
        (["type=sbom,generator=ghcr.io/own/scan:1"], "ghcr.io/own/scan:1"),
        (["type=provenance,mode=max", "type=sbom"], SCANNER),
        ([{"type": "sbom", "generator": "own:2", "EXTRA": "a,b"}], "own:2"),
        ([{"type": "sbom", "disabled": True}], None),
        (["type=sbom,disabled=true"], None),
        (["type=sbom,disabled=false"], SCANNER),
        (["type=provenance"], None),
        ([], None),
    ],
)
def test_what_makes_sboms_is_found_in_bake_files(tmp_path: Path, attest: Any, expected: Optional[str]) -> None:
    docker(tmp_path, buildx={"target": {"x": {"dockerfile-inline": "FROM scratch", "attest": attest}}})
    Path("docker-bake.hcl").touch()
    # It runs on the machine that builds.
    wanted = {(expected, "amd64", "docker-bake.hcl[x]")} if expected else set()
    assert found(look("docker-bake.hcl")) == wanted


@pytest.mark.parametrize(
    ("sbom", "expected"),
    [("true", SCANNER), (True, SCANNER), ("false", None), (None, None), ("generator=own:1", "own:1")],
)
def test_what_makes_sboms_is_found_in_compose_files(tmp_path: Path, sbom: Any, expected: Optional[str]) -> None:
    build = {"context": ".", "dockerfile_inline": "FROM scratch", "sbom": sbom}
    docker(tmp_path, compose={"services": {"x": {"build": build}}})
    Path("compose.yaml").touch()
    assert images(look("compose.yaml")) == ({expected} if expected else set())


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
