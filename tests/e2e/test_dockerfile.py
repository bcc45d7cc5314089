"""Our reading of Dockerfiles against BuildKit's own, and Bake files through the real buildx."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bundler.definition.dockerfiles import scan
from bundles.dockerfile.images import BuildSettings, uses
from bundles.errors import UsageError
from bundles.oci.platform import Platform

pytestmark = pytest.mark.e2e

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
NAMES = ("A", "B", "C", "REG")
WORDS = ("12", "a", "a-b", "1.2.3", "foo/", "x.y", "")
BODIES = (
    "RUN true", "RUN a \\\n  b \\\n# c\n\n  d", "RUN <<EOF\nFROM nothing\nEOF", 'RUN echo "<<EOF"',
    "RUN cat <<'E F' > x\nCOPY --from=nothing / /\nE F", "COPY <<-A <<B /x/\n\tfoo\n\tA\nFROM no\nB",
    "RUN echo $((1<<3))", "COPY --from=build /a /b", "COPY --from=0 /a /b", "COPY --from=busybox /a /b",
    "COPY --from=Final /a /b", "COPY --from=scratch /a /b", f"COPY --from=ghcr.io/q/r@sha256:{'a' * 64} /a /b",
    "RUN --mount=type=bind,from=alpine,target=/x echo hi", "RUN --mount=from=FINAL,target=/x echo hi",
    "RUN --mount=type=cache,target=/c --mount=from=busybox:1,target=/b \\\n cat <<EOF >/x && foo\nbar\nEOF",
    'RUN ["sh", "-c", "<<EOF"]', "ARG A=9", "ENV B=3", "# comment \\", "RUN foo \\ \n bar", "LABEL a=<<EOF",
    "COPY --from=a\\\nb /x /y", 'RUN --mount="type=bind,from=quoted,target=/q" x', "RUN echo '\n",
    'COPY --chown=1:1 --from="busy" /x /y', "RUN <<A cat <<B\n1\nA\n2\nB", "RUN cat << EOF\nFROM zz\nEOF",
    "RUN 3<<EOF\nx\nEOF", "RUN a;<<EOF\nx\nEOF",
)  # fmt: skip
ARGUMENTS = (
    "ARG A", "ARG A=12", "ARG B=$A.1.0", 'ARG C="c $A"', "ARG REG", "ARG REG=r.io/", "ARG A=1.2.3 B=x",
    "ARG B=${A:-7}-x", "arg C=\\\n 5", "ARG C='x'", "# c", "", "ARG TARGETARCH=zz", "ARG BUILDPLATFORM",
)  # fmt: skip
PLATFORMS = (
    "", "", "--platform=$BUILDPLATFORM ", "--platform=linux/arm64 ", "--platform=$TARGETPLATFORM ",
    "--platform=linux/${TARGETARCH} ", '--platform="linux/amd64" ',
)  # fmt: skip
# What BuildKit refuses and what has nothing to do with images: the rest of the Dockerfile.
ELSEWHERE = re.compile(r"circular|unknown instruction|needs to be defined|cannot copy from|cannot mount from")


class Dockerfiles:
    """Dockerfiles of all that is difficult, mixed by chance."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one(self) -> str:
        pick = self._random.choice
        lines = [pick(("# escape=`", "#escape = \\", "# comment\n# escape=`", "# check=skip=all"))] * pick((0, 0, 0, 1))
        lines += [pick(ARGUMENTS) for _ in range(self._random.randrange(4))]
        for _ in range(self._random.randrange(1, 4)):
            lines.append(
                f"{pick(('FROM', 'from'))} {pick(PLATFORMS)}{self._image()}{pick(('', ' AS build', ' as Final'))}"
            )
            lines += [pick(BODIES) for _ in range(self._random.randrange(3))]
        return pick(("", "", "\ufeff")) + pick(("\n", "\n", "\r\n")).join("\n".join(lines).split("\n"))

    def arguments(self) -> dict[str, str]:
        chance = self._random
        return {name: chance.choice(("7", "u.v", "ghcr.io/")) for name in NAMES if chance.random() < 0.3}

    def _image(self) -> str:
        return self._random.choice(
            ("debian:12", "debian", "ghcr.io/a/b:1", "scratch", "build", "final", f"debian:x{self._word()}",
             f"{self._word()}debian:1", f"r.io/{self._word()}:{self._word()}", f"x{self._word()}")
        )  # fmt: skip

    def _word(self) -> str:
        name, other, word = self._random.choice(NAMES), self._random.choice(NAMES), self._random.choice(WORDS)
        return self._random.choice(
            (f"${name}", f"${{{name}}}", f"${{{name}:-{word}}}", f"${{{name}-{word}}}", f"${{{name}:+{word}}}",
             f"${{{name}+{word}}}", f"${{{name}#*.}}", f"${{{name}##*.}}", f"${{{name}%.*}}", f"${{{name}%%.*}}",
             f"${{{name}/./-}}", f"${{{name}//./-}}", f"${{{name}:?no}}", f"${{{name}:-${{{other}:-z}}}}", word,
             '"q"', "'$A'", "${TARGETARCH}", "$BUILDARCH", "\\$A", f'"${name}"', f"${{{name}#?}}", '"a\\"b"')
        )  # fmt: skip


@pytest.fixture(scope="module")
def buildkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that asks BuildKit's own frontend, of the version that the testbed builds with."""
    from tests.testbed import gotools

    directory = tmp_path_factory.mktemp("buildkit")
    shutil.copy(Path(__file__).parent / "buildkit" / "main.go", directory)
    go = gotools.go_command()
    package = f"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb@{gotools.BUILDKIT_VERSION}"
    for arguments in (("mod", "init", "ask"), ("get", package), ("build", "-mod=mod", "-o", "ask", ".")):
        subprocess.run((go, *arguments), cwd=directory, check=True, capture_output=True)
    return directory / "ask"


def test_buildkit_asks_for_the_same_images(buildkit: Path) -> None:
    dockerfiles = Dockerfiles(7)
    cases = [
        {"Text": dockerfiles.one(), "Target": target, "Build": "linux/amd64", "Args": dockerfiles.arguments()}
        for _ in range(1500)
        for target in ("linux/amd64", "linux/arm/v7")
    ]
    lines = "\n".join(map(json.dumps, cases))
    done = subprocess.run([buildkit], input=lines, check=True, capture_output=True, text=True)
    agreed = 0
    for case, line in zip(cases, done.stdout.splitlines()):
        agreed += compare(case, json.loads(line))
    assert agreed > 800


def compare(case: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether both found images; fails the test where they differ."""
    try:
        settings = BuildSettings((Platform.parse(case["Target"]),), (AMD64,), case["Args"])
        found = {(str(use.reference), str(use.platform)) for use in uses(case["Text"], "D", settings)}
    except UsageError as error:
        # The one thing in which ours is stricter: a variable that nothing declares.
        assert theirs["error"] or "nothing gives" in str(error), (case, theirs, error)
        return False
    if theirs["error"]:
        assert ELSEWHERE.search(theirs["error"]), (case, theirs, found)
        return False
    assert found == {(name, str(Platform.parse(platform))) for name, platform in theirs["images"]}, case
    return True


def test_a_bake_file_through_buildx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.testbed import debian

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "buildx").symlink_to(debian.BUILDX.make())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    Path("app").mkdir()
    Path("app/Dockerfile").write_text("ARG V=1\nFROM debian:$V\nCOPY --from=base / /\nCOPY --from=tools / /\n")
    Path("base.Dockerfile").write_text("FROM gcc:12\n")
    Path("docker-bake.hcl").write_text("""\
variable "TAG" { default = "12" }
group "default" { targets = ["app"] }
target "base" { dockerfile = "base.Dockerfile" }
target "app" {
  context = "app"
  args = { V = TAG }
  contexts = { base = "target:base", tools = "docker-image://ghcr.io/t:1" }
  platforms = ["linux/arm64"]
}
target "other" {
  matrix = { v = ["1", "2"] }
  name = "other-${v}"
  dockerfile-inline = "FROM busybox:${v}"
}
""")
    result = scan([Path("docker-bake.hcl")], BuildSettings((AMD64, ARM64), (AMD64,)))
    assert {(use.reference.familiar, use.platform.architecture, use.where) for use in result.uses} == {
        ("debian:12", "arm64", "app/Dockerfile:2"),
        ("ghcr.io/t:1", "arm64", "app/Dockerfile:4"),
        *(("gcc:12", each, "base.Dockerfile:1") for each in ("amd64", "arm64")),
        *(("busybox:1", each, "docker-bake.hcl[other-1]:1") for each in ("amd64", "arm64")),
        *(("busybox:2", each, "docker-bake.hcl[other-2]:1") for each in ("amd64", "arm64")),
    }
    Path("docker-bake.hcl").write_text("target {")
    with pytest.raises(UsageError, match=r"docker-bake\.hcl"):
        scan([Path("docker-bake.hcl")], BuildSettings((AMD64,), (AMD64,)))


def test_a_directory_with_overrides_through_buildx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.testbed import debian

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "buildx").symlink_to(debian.BUILDX.make())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    compose = "services: {web: {build: {dockerfile_inline: 'FROM compose:1'}%s}}"
    Path("compose.yaml").write_text(compose % "")
    Path("docker-bake.hcl").write_text("""\
target "app" {
  dockerfile-inline = "ARG V=1\\nFROM debian:$V"
  attest = ["type=sbom,generator=ghcr.io/own/scan:1", "type=provenance"]
}
""")
    Path("docker-bake.override.hcl").write_text('target "app" { args = { V = "13" } }')

    def found() -> set[tuple[str, str]]:
        result = scan([Path()], BuildSettings((AMD64, ARM64), (AMD64,)))
        return {(use.reference.familiar, use.platform.architecture) for use in result.uses}

    app = {("debian:13", "amd64"), ("debian:13", "arm64"), ("ghcr.io/own/scan:1", "amd64")}
    both = {("compose:1", "amd64"), ("compose:1", "arm64")}
    assert found() == app | both
    # buildx reads what running needs, too: without it the Bake files alone are read.
    Path("compose.yaml").write_text(compose % ", env_file: missing.env")
    assert found() == app
