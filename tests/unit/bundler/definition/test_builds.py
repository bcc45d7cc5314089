"""Builds from Bake and Compose files: what is taken over, what is refused, and how it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import pytest

from bundler.definition.build import CommandLine
from bundler.definition.builds import Wanted, read_builds
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from tests.support import fake_docker

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
INLINE = "FROM a\nRUN echo $${HOME}\n"


@pytest.fixture(autouse=True)
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory `team`, and a PATH with nothing in it."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "team").mkdir()
    monkeypatch.chdir(tmp_path / "team")
    return tmp_path


def read(work: Path, file: str, printed: Any, *names: str) -> Wanted:
    fake_docker.install(work / "bin", printed=printed)
    Path(file).touch()
    return read_builds(Path(file), names)


def bake(work: Path, *names: str, **targets: Any) -> Wanted:
    return read(work, "docker-bake.hcl", {"target": targets}, *names)


def compose(work: Path, services: dict[str, Any], *names: str, **others: Any) -> Wanted:
    return read(work, "compose.yaml", {"services": services, **others}, *names)


def test_a_target_is_a_build(work: Path) -> None:
    target = {
        "context": "app",
        "dockerfile": "docker/Dockerfile",
        "target": "final",
        "args": {"V": "1", "NONE": None},
        "platforms": ["linux/arm64"],
        "attest": [{"type": "provenance", "disabled": "true"}, {"type": "sbom"}],
        "tags": ["a"],
        "labels": {"a": "b"},
        "output": [{"type": "docker"}],
        "cache-from": [{"type": "gha"}],
        "call": "check",
        "shm-size": "64m",
    }
    wanted = bake(work, app=target)
    assert wanted.name == "team"
    (build,) = wanted.builds
    assert (build.name, build.context, build.dockerfile) == ("app", Path("app"), Path("app/docker/Dockerfile"))
    assert (build.target, build.arguments, build.platforms) == ("final", {"V": "1"}, (ARM64,))
    assert (build.label, build.bake and build.bake.directory) == ("docker/Dockerfile", Path())
    assert build.bake and build.bake.targets == {
        "app": {
            **{key: target[key] for key in ("context", "dockerfile", "target", "args", "platforms", "shm-size")},
            "attest": [{"type": "sbom"}],
        }
    }


def test_a_dockerfile_that_stands_in_the_file_is_read_as_it_is_meant(work: Path) -> None:
    (build,) = bake(work, app={"context": ".", "dockerfile-inline": INLINE}).builds
    assert (build.text(), build.label) == ("FROM a\nRUN echo ${HOME}\n", "docker-bake.hcl[app]")


def test_all_targets_but_those_for_others_and_what_they_are_made_of(work: Path) -> None:
    targets = {
        "_args": {"context": "."},
        "_base": {"context": "."},
        "app": {"context": ".", "contexts": {"b": "target:mid", "i": "docker-image://a:1", "d": "../d"}},
        "mid": {"context": ".", "contexts": {"c": "target:_base"}},
        "other": {"context": "."},
    }
    wanted = bake(work, **targets)
    assert [build.name for build in wanted.builds] == ["base", "app", "mid", "other"]
    assert [sorted(build.bake.targets) for build in wanted.builds if build.bake] == [
        ["_base"],
        ["_base", "app", "mid"],
        ["_base", "mid"],
        ["other"],
    ]


def test_names_are_given_to_bake(work: Path) -> None:
    bake(work, "app", "group", _app={"context": "."})
    assert fake_docker.calls(work / "bin")[-1][1:] == ["bake", "--file", "docker-bake.hcl", "--print", "app", "group"]


def test_overrides_beside_it_are_read_and_named(work: Path) -> None:
    Path("docker-bake.override.hcl").touch()
    assert bake(work, app={"context": "."}).notes == ("docker-bake.override.hcl is read, too",)
    assert "--file docker-bake.hcl --file docker-bake.override.hcl" in " ".join(fake_docker.calls(work / "bin")[-1])


@pytest.mark.parametrize(
    "target, message, hint",
    [
        (
            {"context": "https://github.com/a/b.git#main"},
            "is built from `https://github.com/a/b.git#main`",
            "git clone",
        ),
        ({"context": "git@github.com:a/b"}, "is built from `git@github.com:a/b`", "git clone"),
        ({"context": ".", "dockerfile": "https://h/D"}, "has its Dockerfile at `https://h/D`", "download it"),
        ({"context": ".", "contexts": {"s": "github.com/a/b"}}, "the context `s` from `github.com/a/b`", "git clone"),
        ({"context": ".", "network": "host"}, "has `network` host", "take `network` out"),
        ({"context": ".", "entitlements": ["security.insecure"]}, "entitlement `security.insecure`", "take it out"),
    ],
)
def test_what_cannot_be_recorded_is_named_with_what_to_do(
    work: Path, target: dict[str, Any], message: str, hint: str
) -> None:
    on_it = {"context": ".", "contexts": {"b": "target:bad"}}
    with pytest.raises(UsageError) as caught:
        bake(work, bad=target, good={"context": "."}, top=on_it)
    (problem,) = caught.value.problems
    assert problem.subject == "docker-bake.hcl[bad]"
    assert message in problem.message
    assert problem.hint and hint in problem.hint
    # `top` is built from it.
    assert caught.value.hint == "record the others: bundle record docker-bake.hcl good"


@pytest.mark.parametrize("context", ["../git.d", "cwd://app", "./github.com", "https", "/srv/app"])
def test_directories_are_not_taken_for_what_is_elsewhere(work: Path, context: str) -> None:
    (build,) = bake(work, app={"context": context}).builds
    assert build.context == Path(context.replace("cwd://", ""))


def test_a_service_is_a_build(work: Path) -> None:
    services = {
        "db": {"image": "postgres:16"},
        "my.lib": {"build": {"context": "/srv/lib", "dockerfile": "Dockerfile"}, "platform": "linux/arm64"},
        "web": {
            "image": "web",
            "platform": "linux/arm64",
            "build": {
                "context": "/srv/web",
                "dockerfile_inline": INLINE,
                "additional_contexts": {"lib": "service:my.lib", "img": "docker-image://a:1"},
                "args": {"V": "1", "NONE": None},
                "target": "t",
                "platforms": ["linux/amd64"],
                "ssh": ["default"],
                "secrets": [{"source": "pw"}, {"source": "key", "target": "k"}],
                "extra_hosts": ["one=10.0.0.1", "two:10.0.0.2"],
                "shm_size": 64,
                "ulimits": {"nofile": {"soft": 1, "hard": 2}, "nproc": 3},
                "labels": {"a": "b"},
                "cache_to": ["x"],
            },
        },
    }
    secrets = {"pw": {"file": "/srv/pw"}, "key": {"environment": "KEY"}}
    lib, web = compose(work, services, secrets=secrets).builds
    assert (lib.name, lib.context, lib.platforms) == ("my_lib", Path("/srv/lib"), (ARM64,))
    assert (web.name, web.arguments, web.target, web.platforms) == ("web", {"V": "1"}, "t", (AMD64,))
    assert web.text() == "FROM a\nRUN echo ${HOME}\n"
    assert web.bake and web.bake.targets["web"] == {
        "context": "/srv/web",
        "contexts": {"lib": "target:my_lib", "img": "docker-image://a:1"},
        "dockerfile-inline": "FROM a\nRUN echo ${HOME}\n",
        "args": {"V": "1", "NONE": None},
        "target": "t",
        "platforms": ["linux/amd64"],
        "ssh": ["default"],
        "secret": ["id=pw,src=/srv/pw", "id=k,env=KEY"],
        "extra-hosts": {"one": "10.0.0.1", "two": "10.0.0.2"},
        "shm-size": "64",
        "ulimits": ["nofile=1:2", "nproc=3"],
    }
    assert "my_lib" in web.bake.targets


def test_services_that_are_named(work: Path) -> None:
    services = {name: {"build": {"context": "/srv"}} for name in ("a", "b", "c")}
    services["c"]["build"]["additional_contexts"] = {"x": "service:a"}  # type: ignore[assignment]
    assert [build.name for build in compose(work, services, "c").builds] == ["a", "c"]
    with pytest.raises(UsageError, match=r"`compose.yaml` builds no `d`: expected a, b, c"):
        read_builds(Path("compose.yaml"), ["d"])


@pytest.mark.parametrize(
    "build, message",
    [({"privileged": True}, "security.insecure"), ({"network": "host"}, "`network` host")],
)
def test_a_service_that_cannot_be_recorded(work: Path, build: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        compose(work, {"web": {"build": {"context": "/srv", **build}}})
    assert message in caught.value.problems[0].message
    assert caught.value.hint is None


@pytest.mark.parametrize(
    "file, printed, message",
    [
        ("docker-bake.json", {"target": {}}, "has nothing to build"),
        ("docker-bake.json", {"target": []}, "has nothing to build"),
        ("docker-bake.json", {"target": {"a": 1}}, "printed something unexpected"),
        ("docker-bake.json", {"target": {"a": {"args": 1}}}, "printed something unexpected"),
        ("docker-bake.json", {"target": {"a": {"platforms": ["amiga/68k"]}}}, "`amiga/68k`"),
        (
            "docker-bake.json",
            {"target": {"_a": {}, "a": {"contexts": {"x": "target:_a"}}}},
            "two builds are called `a`",
        ),
        ("compose.yml", {"services": {"db": {"image": "a"}}}, "has nothing to build"),
        ("compose.yml", {"services": {"a": {"build": "x"}}}, "printed something unexpected"),
    ],
)
def test_what_docker_prints_and_is_none(work: Path, file: str, printed: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(work, file, printed)


@pytest.mark.parametrize("file, tool", [("docker-bake.hcl", "docker buildx"), ("compose.yaml", "docker compose")])
def test_without_the_tool_it_is_said(file: str, tool: str) -> None:
    Path(file).touch()
    with pytest.raises(UsageError, match=tool) as caught:
        read_builds(Path(file), [])
    assert caught.value.hint and "bundle record app/" in caught.value.hint


@pytest.mark.parametrize(
    "line, api, lib",
    [
        (CommandLine(default_platforms=(AMD64, ARM64)), "linux/amd64 linux/arm64", "linux/arm64"),
        (CommandLine(platforms=(AMD64,), default_platforms=(ARM64,)), "linux/amd64", "linux/amd64"),
    ],
)
def test_the_command_line_is_for_all_builds(
    work: Path, monkeypatch: pytest.MonkeyPatch, line: CommandLine, api: str, lib: str
) -> None:
    monkeypatch.setenv("GIVEN", "g")
    monkeypatch.delenv("MISSING", raising=False)
    arguments: dict[str, Optional[str]] = {"A": "2", "GIVEN": None, "MISSING": None}
    wanted = bake(
        work,
        api={"context": ".", "contexts": {"l": "target:lib"}, "args": {"A": "1", "B": "1"}},
        lib={"context": ".", "platforms": ["linux/arm64"], "ssh": ["a"]},
    )
    build = wanted.builds[0].with_line(
        CommandLine(arguments, line.platforms, line.default_platforms, ("id=s",), ("default",))
    )
    assert build.known_arguments == {"A": "2", "B": "1", "GIVEN": "g"}
    assert " ".join(map(str, build.platforms)) == api
    assert build.bake
    first, second = (build.bake.targets[name] for name in ("api", "lib"))
    assert (" ".join(first["platforms"]), " ".join(second["platforms"])) == (api, lib)
    assert (first["args"], second["args"]) == ({"A": "2", "B": "1", "GIVEN": "g"}, {"A": "2", "GIVEN": "g"})
    assert (first["secret"], second["ssh"]) == (["id=s"], ["a", "default"])
