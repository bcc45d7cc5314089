"""`record` with a docker command that only fetches: the flow, the builder's life, and every way in which it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.definition.record import Record, read_record
from bundler.recording.builder import BuilderSettings
from bundles.archive.tape.answer import Tape
from bundles.dockerfile.steps import steps
from bundles.oci.platform import Platform
from bundles.proxy.certificates import Authority
from tests.support import ROOT, fake_docker
from tests.support.web_origin import WebOrigin


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[WebOrigin]:
    origin = WebOrigin(Authority(tmp_path / "origin").context("localhost"))
    yield origin
    origin.close()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "Dockerfile").write_text("FROM debian:12 AS t\nRUN fetch\n")
    (tmp_path / "tmp").mkdir()
    return tmp_path


def start(app: Path, docker: Path, *arguments: str, what: str = "app", **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from bundles.cli.app import main; main()", "record", what, *arguments]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(app), "PATH": str(docker), "TMPDIR": str(app / "tmp"), **more}
    return subprocess.Popen(
        command, cwd=app, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def record(app: Path, docker: Path, *arguments: str, what: str = "app", code: int = 0, **more: str) -> Any:
    process = start(app, docker, "--json", *arguments, what=what, **more)
    out, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert list((app / "tmp").iterdir()) == []
    return {**json.loads(out), "said": said}


def test_a_build_becomes_a_record(app: Path, origin: WebOrigin) -> None:
    docker = fake_docker.install(app / "bin", urls=[f"{origin.url}/release", f"{origin.url}/page", f"{origin.url}/no"])
    arguments = ["--platform", "linux/amd64", "--target", "t", "--build-arg", "A=b", "--secret", "id=s", "--", "--pull"]
    document = record(app, docker, *arguments)
    assert (document["name"], document["buildkit"], document["answers"]) == ("app", "v0.34.2", 4)
    assert document["images"] == [
        {"reference": "docker.io/library/debian:12", "digest": "sha256:" + "a" * 64, "platforms": ["linux/amd64"]}
    ]
    recorded = read_record(app / "app.record")
    assert recorded.to_json().items() <= document.items()
    manifest = json.loads((app / "app.record" / "index.json").read_bytes())["manifests"][0]
    blobs = app / "app.record" / "blobs" / "sha256"
    config = json.loads((blobs / manifest["digest"][7:]).read_bytes())["config"]["digest"]
    tape = Tape.parse((blobs / config[7:]).read_bytes())
    assert [(answer.url.removeprefix(origin.url), answer.status) for answer in tape] == [
        ("/no", 404),
        ("/page", 200),
        ("/release", 302),
        ("/signed?se=1&sig=-", 200),
    ]
    # The build names the first address of a redirect with the digest of what came in the end.
    assert document["notes"] == [f"{origin.url}/signed?se=1&sig=-: the values of secrets are left out of it"]
    assert (document["size"], document["cacheSize"]) == (len("the release" + "page for None"), len("app"))
    build = next(call for call in fake_docker.calls(docker) if call[:2] == ["buildx", "build"])
    joined = " ".join(build)
    assert joined.endswith("--platform linux/amd64 --target t --build-arg A=b --secret id=s --pull app")
    cache = "type=registry,mode=max,image-manifest=true,oci-mediatypes=true,compression=zstd,compression-level=1"
    assert re.search(rf"--cache-to {cache},ref=127\.0\.0\.1:\d+/[0-9a-f]{{32}}:app ", joined)
    assert "#1 [1/1] as BuildKit says it" in document["said"]
    assert fake_docker.state_of(docker)["builders"] == []


def index_of(path: Path) -> list[str]:
    index = json.loads((path / "index.json").read_bytes())
    return [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]


def test_what_is_built_is_known_again(app: Path) -> None:
    text = "ARG F=no\nFROM a AS base\nRUN one\nFROM b AS test\nRUN two\nFROM ${F}\nRUN three\n"
    (app / "my.Dockerfile").write_text(text)
    docker = fake_docker.install(app / "bin")
    arguments = ["-f", "my.Dockerfile", "--platform", "linux/arm64", "--name", "web", "-o", "o"]
    (build,) = record(app, docker, *arguments, "--build-arg", "F=base")["builds"]
    expected = steps(text, "", [Platform("linux", "arm64")], {"F": "base"})
    assert [step.text for step in expected] == ["one", "three"]
    assert build == {
        "name": "web",
        "dockerfile": "../my.Dockerfile",
        "target": None,
        "platforms": ["linux/arm64"],
        "steps": [{"step": str(step.step), "chain": str(step.chain)} for step in expected],
    }
    assert index_of(app / "o") == ["tape", "cache-web"]
    (build,) = record(app, docker, *arguments, "--target", "test")["builds"]
    assert (build["target"], len(build["steps"])) == ("test", 1)
    (app / "my.Dockerfile").write_text("FROM a\nRUN <<EOT\n")
    document = record(app, docker, *arguments)
    assert document["builds"][0]["steps"] == []
    assert document["notes"] == [
        "the steps of the build web are not known: `../my.Dockerfile:2`: the heredoc `EOT` does not end"
    ]


def test_the_targets_of_a_bake_file_become_one_record(app: Path, origin: WebOrigin) -> None:
    printed = {
        "target": {
            "api": {
                "context": "app",
                "contexts": {"lib": "target:lib"},
                "args": {"V": "$${W}"},
                "cache-from": ["type=registry,ref=r"],
                "output": ["type=registry"],
                "tags": ["r/api"],
            },
            "lib": {"context": ".", "dockerfile-inline": "FROM a\nRUN $${X}\n", "platforms": ["linux/arm64"]},
        }
    }
    docker = fake_docker.install(app / "bin", urls=[f"{origin.url}/page"], printed=printed)
    (app / "team").mkdir()
    (app / "team" / "app").mkdir()
    (app / "team" / "app" / "Dockerfile").write_text("FROM lib\nRUN one\n")
    (app / "team" / "docker-bake.hcl").write_text("")
    document = record(app, docker, "--build-arg", "A=b", "--secret", "id=s", what="team/docker-bake.hcl")
    assert (document["name"], document["record"]) == ("team", str(app / "team.record"))
    assert index_of(app / "team.record") == ["tape", "cache-api", "cache-lib"]
    assert document["platforms"] == ["linux/amd64", "linux/arm64"]
    assert [(b["name"], b["dockerfile"], b["platforms"], len(b["steps"])) for b in document["builds"]] == [
        ("api", "Dockerfile", ["linux/amd64", "linux/arm64"], 1),
        ("lib", "docker-bake.hcl[lib]", ["linux/arm64"], 1),
    ]
    # One builder, and each request once.
    assert sum(call[:2] == ["buildx", "create"] for call in fake_docker.calls(docker)) == 1
    assert origin.paths() == ["GET /page"]
    api, lib = fake_docker.state_of(docker)["built"]
    assert (api["name"], lib["name"], api["directory"]) == ("api", "lib", str(app / "team"))
    (cache,) = api["bake"]["target"]["api"]["cache-to"]
    assert cache.startswith(
        "type=registry,mode=max,image-manifest=true,oci-mediatypes=true,compression=zstd,compression-level=1,ref=127"
    )
    assert cache.endswith(":api")
    common = {"args": {"A": "b"}, "secret": ["id=s"]}
    expected = {"context": ".", "dockerfile-inline": "FROM a\nRUN $${X}\n", "platforms": ["linux/arm64"], **common}
    assert lib["bake"] == {"target": {"lib": {**expected, "cache-to": [cache.replace(":api", ":lib")]}}}
    assert api["bake"]["target"] == {
        "lib": expected,
        "api": {
            "context": "app",
            "contexts": {"lib": "target:lib"},
            "platforms": ["linux/amd64", "linux/arm64"],
            "args": {"V": "$${W}", "A": "b"},
            "secret": ["id=s"],
            "cache-to": [cache],
        },
    }


def test_a_build_that_fails_is_named_and_those_before_it_are_not_asked_again(app: Path, origin: WebOrigin) -> None:
    (app / "two").symlink_to("app")
    (app / "bundle.toml").write_text('[[build]]\ncontext = "app"\n[[build]]\ncontext = "two"\nname = "two"\n')
    docker = fake_docker.install(app / "bin", urls=[f"{origin.url}/page"], code=5, good="app")
    error = record(app, docker, "-o", "o", what="bundle.toml", code=1)["error"]
    assert error["message"].startswith("the build `two` failed (exit code 5)")
    (docker / "state.json").write_text(json.dumps({**fake_docker.state_of(docker), "code": 0}))
    document = record(app, docker, "-o", "o", what="bundle.toml")
    assert [build["name"] for build in document["builds"]] == ["app", "two"]
    assert origin.paths() == ["GET /page"]
    assert "build 2 of 2: two" in document["said"]


def test_a_bundle_toml_says_where_platforms_and_mirrors(app: Path) -> None:
    text = 'name = "team"\nplatforms = ["linux/arm64"]\n[mirrors]\n"docker.io" = ["m.corp"]\n'
    (app / "app" / "bundle.toml").write_text(text + '[[build]]\ncontext = "."\n[[build]]\ncontext = ".."\nname = "b"\n')
    docker = fake_docker.install(app / "bin")
    document = record(app, docker, "app", what="app/bundle.toml")
    assert (document["record"], document["platforms"]) == (str(app / "app" / "team.record"), ["linux/arm64"])
    assert [build["name"] for build in document["builds"]] == ["app"]
    assert 'mirrors = ["m.corp"]' in fake_docker.state_of(docker)["config"]
    error = record(app, docker, "c", what="app/bundle.toml", code=2)["error"]
    assert "builds no `c`: expected app, b" in error["message"]


@pytest.mark.parametrize(
    "what, arguments, message",
    [
        ("app", ["x"], "`x` means nothing behind a directory"),
        ("app", ["--", "--target", "x"], "`--target` stands after --"),
        ("app", ["--", "--platform=linux/arm64"], "`--platform=linux/arm64` stands after --"),
        ("app", ["--", "-fother"], "`-fother` stands after --: it is an option of `bundle record`"),
        ("app", ["--", "-Dqf", "other"], "`-Dqf` stands after --: it is an option of `bundle record`"),
        ("app", ["--", "--build-arg", "A=b"], "`--build-arg` stands after --: it is an option of `bundle record`"),
        ("app", ["--", "--secret=id=a"], "`--secret=id=a` stands after --: it is an option of `bundle record`"),
        ("app", ["--", "--builder", "mine"], "`--builder` stands after --: the build runs in a builder"),
        ("app", ["--", "--cache-from=r"], "`--cache-from=r` stands after --: a step that comes from a cache asks for"),
        ("app", ["--", "--cache-to=type=inline"], "`--cache-to=type=inline` stands after --: the steps' results are"),
        ("app", ["--", "--metadata-file", "m"], "`--metadata-file` stands after --: the recording reads it"),
        ("app", ["--", "--provenance=false"], "`--provenance=false` stands after --: the build's provenance"),
        ("app", ["--", "--attest", "type=sbom"], "`--attest` stands after --: the build's provenance"),
        ("app", ["--", "--check"], "`--check` stands after --: it builds nothing"),
        ("app", ["--", "--call=outline"], "`--call=outline` stands after --: it builds nothing"),
        ("app", ["--", "--push"], "`--push` stands after --: a recording pushes nothing"),
        ("app", ["--", "-qotype=registry"], "`-qotype=registry` stands after --: a recording pushes nothing"),
        ("app", ["--", "-o", "type=image,push=true"], "`-o` stands after --: a recording pushes nothing"),
        ("app", ["--", "--network", "host"], "`--network` stands after --: its steps go past what records them"),
        ("app", ["--", "--allow=network.host"], "`--allow=network.host` stands after --: the recording's builder"),
        (
            "app",
            ["--", "--build-context", "a=https://h/a.git"],
            "`--build-context` stands after --: `a=https://h/a.git`",
        ),
        ("app", ["--", "--push", "--pull", "--check"], "2 options stand after -- that cannot be there"),
        ("none", [], "`none` is not a directory here"),
        ("https://host/app.git", [], "`https://host/app.git` is not a directory here"),
        ("none.hcl", [], "`none.hcl` is not there"),
        ("app/Dockerfile", [], "`app/Dockerfile` is no file that names builds"),
        ("bundle.toml", ["--target", "x"], "`--target` is for a directory"),
        ("bundle.toml", ["-f", "x"], "`--file` is for a directory"),
        ("bundle.toml", ["--", "--pull"], "`--pull` cannot be given to the builds of `bundle.toml`"),
        ("bundle.toml", [], "`bundle.toml` has no [[build]]"),
    ],
)
def test_what_cannot_be_meant_is_said(app: Path, what: str, arguments: list[str], message: str) -> None:
    (app / "bundle.toml").write_text("")
    docker = fake_docker.install(app / "bin")
    assert message in record(app, docker, *arguments, what=what, code=2)["error"]["message"]


def test_other_options_of_docker_are_passed_on(app: Path) -> None:
    docker = fake_docker.install(app / "bin")
    options = ["--pull", "-qt", "app:1", "-o", "type=local,dest=out", "--network=none", "--build-context", "lib=../lib"]
    options += ["--no-cache", "--label", "a=--push", "--sbom=true", "--add-host", "h:127.0.0.1"]
    record(app, docker, "--", *options)
    build = next(call for call in fake_docker.calls(docker) if call[:2] == ["buildx", "build"])
    assert build[-len(options) - 1 :] == [*options, "app"]


def test_the_environment_cannot_take_the_provenance_away(app: Path) -> None:
    docker = fake_docker.install(app / "bin")
    assert record(app, docker, BUILDX_METADATA_PROVENANCE="false", BUILDX_NO_DEFAULT_ATTESTATIONS="1")["images"]
    environment = fake_docker.state_of(docker)["built"][0]["environment"]
    assert [name for name in environment if name.startswith("BUILDX_")] == ["BUILDX_BAKE_ENTITLEMENTS_FS"]


def test_contexts_that_are_not_here_are_named_at_once(app: Path) -> None:
    (app / "bundle.toml").write_text('[[build]]\ncontext = "x"\n[[build]]\ncontext = "y"\n')
    error = record(app, fake_docker.install(app / "bin"), what="bundle.toml", code=2)["error"]
    assert [problem["subject"] for problem in error["problems"]] == ["x", "y"]


def test_a_mirror_that_means_nothing_is_said(app: Path) -> None:
    docker = fake_docker.install(app / "bin")
    error = record(app, docker, "--mirror", "docker.io=https://m.corp", code=2)["error"]
    assert "`https://m.corp` is not a mirror" in error["message"]
    said = record(app, docker, "--mirror", "dokcer.io=m.corp", "--mirror", "docker.io=m.corp")["said"]
    assert "the mirror for `dokcer.io` is not used, no image comes from there: did you mean `docker.io`?" in said
    assert said.count("is not used") == 1


def test_a_dockerfile_that_is_not_there_is_wrong_use(app: Path) -> None:
    docker = fake_docker.install(app / "bin")
    error = record(app, docker, "-f", "app/nowhere", code=2)["error"]
    assert (error["message"], error["hint"]) == ("`app/nowhere` is not there", "name the Dockerfile with -f FILE")
    assert not (app / "bin" / "calls.jsonl").exists()
    (app / "app" / "Dockerfile").rename(app / "app" / "dockerfile")
    assert record(app, docker)["images"]


def test_the_builder_is_led_to_the_recorder(app: Path, origin: WebOrigin) -> None:
    docker = fake_docker.install(app / "bin")
    record(
        app,
        docker,
        "--mirror",
        "https://index.docker.io/=127.0.0.1:5555/",
        "--mirror",
        "docker.io=m.corp",
        "--insecure-registry",
        "https://M.corp/",
    )
    state = fake_docker.state_of(docker)
    proxy = state["options"]["env.HTTPS_PROXY"]
    assert proxy.startswith("http://127.0.0.1:")
    assert state["options"] == {
        "image": "moby/buildkit:buildx-stable-1",
        "network": "host",
        "env.HTTP_PROXY": proxy,
        "env.HTTPS_PROXY": proxy,
        "env.NO_PROXY": "127.0.0.1",
        "env.SSL_CERT_FILE": "/etc/buildkit/certs/record.invalid/ca.pem",
    }
    ca = state["config"].splitlines()[2].partition("=")[2].strip()
    cache = re.findall(r"127\.0\.0\.1:(?!5555)\d+", state["config"])[0]
    assert (
        state["config"]
        == f"""proxyNetwork = true
[registry."record.invalid"]
  ca = {ca}
[registry."docker.io"]
  mirrors = ["127.0.0.1:5555", "m.corp"]
[registry."127.0.0.1:5555"]
  http = true
  insecure = true
[registry."m.corp"]
  http = true
  insecure = true
[registry."{cache}"]
  http = true
"""
    )


def test_cache_only_leaves_the_steps_alone_and_takes_an_older_buildkit(app: Path) -> None:
    docker = fake_docker.install(app / "bin", version="v0.29.0")
    assert record(app, docker, "--cache-only")["buildkit"] == "v0.29.0"
    assert fake_docker.state_of(docker)["config"].startswith("proxyNetwork = false\n")
    assert BuilderSettings("i", "p", Path("/ca")).config().startswith("proxyNetwork = true\n")


@pytest.mark.parametrize("version, code", [("v0.32.2", 4), ("v0.33.0", 0), ("v1.0.0", 0)])
def test_a_buildkit_that_is_too_old_is_named_and_removed(app: Path, version: str, code: int) -> None:
    docker = fake_docker.install(app / "bin", version=version)
    document = record(app, docker, code=code)
    if code:
        assert f"is BuildKit {version}: " in document["error"]["message"]
        assert "--buildkit-image" in document["error"]["hint"]
    assert fake_docker.state_of(docker)["builders"] == []


@pytest.mark.parametrize(
    "state, message",
    [
        ({"fails": ["buildx version", "buildx ls"]}, "`docker buildx` is not installed here"),
        ({"fails": ["info --format"]}, "the Docker Engine does not answer: info --format does not work"),
        ({"endpoint": "ssh://build.corp"}, "the engine of another machine, `ssh://build.corp`"),
        ({"fails": ["buildx create"]}, "buildx create does not work"),
    ],
)
def test_what_is_missing_is_said(app: Path, state: dict[str, Any], message: str) -> None:
    document = record(app, fake_docker.install(app / "bin", **state), code=4)
    assert message in document["error"]["message"]


def test_without_docker_or_a_directory(app: Path) -> None:
    (app / "bin").mkdir()
    assert "there is no `docker` command" in record(app, app / "bin", code=4)["error"]["message"]
    shutil.rmtree(app / "app")
    assert "`app` is not a directory" in record(app, app / "bin", code=2)["error"]["message"]


def test_a_build_that_fails_keeps_what_came(app: Path, origin: WebOrigin) -> None:
    docker = fake_docker.install(app / "bin", urls=[f"{origin.url}/big", f"{origin.url}/busy"], code=7)
    error = record(app, docker, code=1)["error"]
    assert "the build failed (exit code 7)" in error["message"]
    assert [problem["message"] for problem in error["problems"]] == [
        f"{origin.url}/busy was not recorded: the last answer was 503"
    ]
    assert fake_docker.state_of(docker)["builders"] == []
    (docker / "state.json").write_text(json.dumps({**fake_docker.state_of(docker), "code": 0}))
    origin.seen.clear()
    document = record(app, docker)
    assert "going on with 1 answers" in document["said"]
    assert origin.paths() == ["GET /busy"]


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def change(docker: Path, **state: Any) -> None:
    (docker / "state.json").write_text(json.dumps({**fake_docker.state_of(docker), **state}))


@pytest.mark.parametrize(
    "state, code, fetched",
    [
        ({"fails": ["info --format"]}, 4, 0),
        ({"fails": ["buildx create"]}, 4, 0),
        ({"version": "v0.30.0"}, 4, 0),
        ({"code": 1, "urls": []}, 1, 0),
        ({"code": 1}, 1, 2),
        ({"kills": True}, -9, 2),
    ],
)
def test_a_whole_record_stays_whole_until_another_one_is(
    app: Path, origin: WebOrigin, state: dict[str, Any], code: int, fetched: int
) -> None:
    good: dict[str, Any] = {
        "urls": [f"{origin.url}/page"],
        "code": 0,
        "fails": [],
        "version": "v0.34.2",
        "kills": False,
    }
    docker = fake_docker.install(app / "bin", **good)
    record(app, docker)
    path = app / "app.record"
    before, recorded = files(path), Record.read(path)
    urls = [f"{origin.url}/page", f"{origin.url}/big"]
    change(docker, **{"urls": urls, **state})
    process = start(app, docker, "--json")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    if code == 1:
        assert f"the record in `{path}` is as it was" in json.loads(out)["error"]["message"]
    after = files(path)
    assert before.items() <= after.items()
    assert Record.read(path) == recorded and recorded.is_complete
    # What was fetched is not lost, either; where nothing was, nothing is left.
    assert len(after.get("next.jsonl", b"").splitlines()) == fetched
    assert ("next.jsonl" in after) == bool(fetched)
    origin.seen.clear()
    change(docker, **{**good, "urls": [*urls, f"{origin.url}/chunked"]})
    shutil.rmtree(app / "tmp")
    (app / "tmp").mkdir()
    assert record(app, docker)["answers"] == 3
    assert origin.paths() == (["GET /chunked"] if fetched else ["GET /page", "GET /big", "GET /chunked"])
    assert {file.name for file in path.iterdir()} == {"oci-layout", "index.json", "record.json", "blobs"}
    assert Record.read(path).is_complete


def test_an_interruption_ends_the_build_and_removes_the_builder(app: Path, origin: WebOrigin) -> None:
    docker = fake_docker.install(app / "bin", urls=[f"{origin.url}/big"], hangs=True)
    process = start(app, docker)
    end = time.monotonic() + 60
    while not (docker / "hanging").exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=15)
    assert (process.returncode, "it goes on" in said) == (130, True)
    assert fake_docker.state_of(docker)["builders"] == []
    assert list((app / "tmp").iterdir()) == []
    assert json.loads((app / "app.record" / "tape.jsonl").read_text())["url"] == f"{origin.url}/big"


def test_builders_of_killed_recordings_are_removed_and_no_others(app: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    others = [f"bundle-record-{os.getpid()}-b", f"bundle-record-{ended.pid}-b0", "mine"]
    killed = [f"bundle-record-{ended.pid}-b", f"bundle-record-{ended.pid}-i"]
    docker = fake_docker.install(app / "bin", builders=[*killed, *others])
    record(app, docker)
    assert fake_docker.state_of(docker)["builders"] == others


IMAGE = "moby/buildkit:buildx-stable-1"


@pytest.mark.parametrize("state", [{}, {"code": 1}, {"version": "v0.30.0"}, {"fails": ["buildx inspect"]}])
def test_the_image_that_was_pulled_for_the_builder_goes_with_it(app: Path, state: dict[str, Any]) -> None:
    docker = fake_docker.install(app / "bin", images={"mine:1": "sha256:mine"}, **state)
    start(app, docker).communicate(timeout=60)
    assert fake_docker.state_of(docker)["images"] == {"mine:1": "sha256:mine"}
    assert fake_docker.state_of(docker)["builders"] == []


def test_an_image_that_was_there_stays(app: Path) -> None:
    docker = fake_docker.install(app / "bin", images={IMAGE: "sha256:pulled"})
    record(app, docker)
    state = fake_docker.state_of(docker)
    assert (state["images"], "removed" in state) == ({IMAGE: "sha256:pulled"}, False)


def test_a_tag_that_the_pull_has_moved_is_put_back(app: Path) -> None:
    docker = fake_docker.install(app / "bin", images={IMAGE: "sha256:before"})
    record(app, docker)
    state = fake_docker.state_of(docker)
    assert (state["images"], state["removed"]) == ({IMAGE: "sha256:before"}, ["sha256:pulled"])


def test_an_image_that_another_builder_has_taken_stays(app: Path) -> None:
    docker = fake_docker.install(app / "bin", containers={"theirs": IMAGE})
    record(app, docker)
    assert fake_docker.state_of(docker)["images"] == {IMAGE: "sha256:pulled"}


@pytest.mark.parametrize("images, left", [({}, {}), ({IMAGE: "sha256:pulled"}, {IMAGE: "sha256:pulled"})])
def test_the_image_of_a_killed_recording_goes_with_its_builder(
    app: Path, images: dict[str, str], left: dict[str, str]
) -> None:
    docker = fake_docker.install(app / "bin", images=images, kills=True)
    process = start(app, docker)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(fake_docker.state_of(docker)["builders"]) == 1
    shutil.rmtree(app / "tmp")
    (app / "tmp").mkdir()
    change(docker, kills=False)
    record(app, docker)
    state = fake_docker.state_of(docker)
    assert (state["builders"], state["images"]) == ([], left)


def test_what_is_not_recorded_is_said(app: Path) -> None:
    elsewhere = {"uri": "https://host/a?token=s3cr3t", "digest": {"sha256": "b" * 64}}
    git = {"uri": "https://github.com/team/app.git#main", "digest": {"sha1": "f" * 40}}
    login = {"uri": "https://me:s3cr3t@h/team/app.git#main", "digest": {"sha1": "f" * 40}}
    docker = fake_docker.install(app / "bin", materials=[git, elsewhere, login])
    assert record(app, docker)["notes"] == [
        "https://host/a?token=- was downloaded, and what came is not on the tape",
        "https://github.com/team/app.git#main is not recorded: only images and downloads are",
        "https://h/team/app.git#main is not recorded: only images and downloads are",
    ]
