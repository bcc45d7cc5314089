"""bundle.toml and the command line as one definition."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

import pytest

from bundler.definition.build import Build
from bundler.definition.bundle_toml import read_definition
from bundler.definition.spec import Definition, ImageRequest, combine, idle_mirrors, mirrored, read_images
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference

HOSTS = (Platform("linux", "arm64"),)
WHOLE = """
name = "team-base"
platforms = ["linux/amd64", "linux/arm64"]
host-platforms = ["linux/arm64"]
images = ["ubuntu:24.04", "ghcr.io/astral-sh/uv:0.8"]
attestations = false
[merge."tools/protoc:29"]
"linux/amd64" = "registry.corp/protoc-amd64:29"
"linux/arm64" = "registry.corp/protoc-arm64:29"
[mirrors]
"docker.io" = ["mirror.corp:5000", "docker.io"]
[toolchain]
registry = "registry:2"
binfmt = false
"""


def read(tmp_path: Path, text: str) -> Definition:
    path = tmp_path / "bundle.toml"
    path.write_text(text)
    return read_definition(path)


def test_attestations_are_wanted_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    silent = read(tmp_path, 'images = ["debian:12"]')
    without = read(tmp_path, 'images = ["debian:12"]\nattestations = false')
    assert combine(silent, Definition(), "offline").attestations
    assert not combine(without, Definition(), "offline").attestations
    assert combine(without, Definition(attestations=True), "offline").attestations
    assert not combine(silent, Definition(attestations=False), "offline").attestations


def test_a_whole_definition(tmp_path: Path) -> None:
    spec = combine(read(tmp_path, WHOLE), Definition(), "offline")
    assert spec.name == "team-base"
    assert not spec.attestations
    assert spec.mirrors == {"docker.io": ("mirror.corp:5000", "docker.io")}
    found = [(image.role, image.reference.familiar, [str(each) for each in image.platforms]) for image in spec.images]
    assert found == [
        ("registry", "registry:2", ["linux/arm64"]),
        ("buildkit", "moby/buildkit:buildx-stable-1", ["linux/arm64"]),
        ("buildx", "docker/buildx-bin:latest", ["linux/arm64"]),
        ("frontend", "docker/dockerfile:1", ["linux/arm64"]),
        ("python", "python:3-slim", ["linux/arm64"]),
        ("base", "tools/protoc:29", ["linux/amd64", "linux/arm64"]),
        ("base", "ubuntu:24.04", ["linux/amd64", "linux/arm64"]),
        ("base", "ghcr.io/astral-sh/uv:0.8", ["linux/amd64", "linux/arm64"]),
    ]
    assert [str(source) for _, source in spec.images[5].merge] == [
        "registry.corp/protoc-amd64:29",
        "registry.corp/protoc-arm64:29",
    ]


def test_defaults() -> None:
    spec = combine(Definition(), Definition(images=(Reference.parse("debian:12"),)), "offline")
    assert spec.name == "offline"
    assert [str(each) for each in spec.platforms] == ["linux/amd64", "linux/arm64"]
    assert [str(each) for each in spec.host_platforms] == ["linux/amd64"]
    assert [image.role for image in spec.images] == [
        "registry",
        "buildkit",
        "buildx",
        "binfmt",
        "frontend",
        "python",
        "base",
    ]


def test_the_command_line_wins_and_images_add_up(tmp_path: Path) -> None:
    line = Definition(
        platforms=(Platform("linux", "arm", "v7"),),
        images=(Reference.parse("debian:12"), Reference.parse("ubuntu:24.04")),
        mirrors={"docker.io": ("other:5000",)},
        toolchain={"registry": None, "buildx": None, "buildkit": None, "frontend": None, "python": None},
    )
    spec = combine(read(tmp_path, WHOLE), line, "offline")
    assert [image.reference.familiar for image in spec.images] == [
        "tools/protoc:29",
        "ubuntu:24.04",
        "ghcr.io/astral-sh/uv:0.8",
        "debian:12",
    ]
    assert [str(each) for each in spec.images[-1].platforms] == ["linux/arm/v7"]
    assert spec.mirrors == {"docker.io": ("other:5000",)}


def test_a_toolchain_image_that_is_also_a_base_image_has_the_platforms_of_both() -> None:
    spec = combine(Definition(), Definition(images=(Reference.parse("registry:3"),)), "offline")
    (image,) = (image for image in spec.images if image.reference.familiar == "registry:3")
    assert (image.role, [str(each) for each in image.platforms]) == ("registry", ["linux/amd64", "linux/arm64"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images = 'debian'", '`images` is not a list of strings: expected images = ["..."]'),
        ("images = [1]", "`images` is not a list of strings"),
        ("image = ['debian']", "`image` is not known here: did you mean `images`?"),
        ("images = ['De bian']", "`De bian` is not an image reference"),
        ("platforms = ['linux']", "`linux` names no architecture"),
        ("name = 'a b'", "`a b` is not a bundle name"),
        ("name = 1", "`1` is not a bundle name"),
        ("attestations = 'yes'", "`attestations` is `yes`: expected true or false"),
        ("mirrors = 1", "`mirrors` is not a table"),
        ("[mirrors]\n'docker.io' = 'x'", "`docker.io` is not a list of strings"),
        ("[toolchain]\nbuildkid = 'x'", "did you mean `buildkit`?"),
        ("[toolchain]\nbuildkit = 1", "expected an image, true for the usual one, or false to leave it out"),
        ("images = [{ image = 'a:1' }]", "expected such as { image ="),
        ("images = [{ image = 'a:1', platforms = 'linux/amd64' }]", "`platforms` is not a list of strings"),
        ("images = [{ image = 'a:1', platform = ['linux/amd64'] }]", "did you mean `platforms`?"),
        ("images = ['a:1,linux/amd64']", "expected IMAGE, or IMAGE,platform=linux/amd64"),
        ("images = ['a:1,platform=']", "names no platform"),
        ("images = ['a:1,platform=amiga/68k']", "`amiga/68k` has no known operating system"),
        ("[merge.'a:1']", "needs a line for each platform"),
        ("[merge.'a@sha256:" + "0" * 64 + "']\n'linux/amd64' = 'b'", "give it a tag"),
        ("build = 1", "`build` is not a list of tables: expected [[build]]"),
        ("[build]\ncontext = 'a'", "`build` is not a list of tables"),
        ("[[build]]\nname = 'x'", "a [[build]] has no `context`"),
        ("[[build]]\ncontext = ''", "`context` of a [[build]] is ``: expected a string"),
        ("[[build]]\ncontext = 'a'\ntarget = 1", "`target` of a [[build]] is `1`"),
        ("[[build]]\ncontext = 'a'\nfile = 'x'", "has `file`, which is not known here: expected one of args, context"),
        ("[[build]]\ncontext = 'a'\narg = 'x'", "did you mean `args`?"),
        ("[[build]]\ncontext = 'a'\nargs = { V = 1 }", "`args.V` is `1`"),
        ("[[build]]\ncontext = 'a'\nname = 'a b'", "`a b` is not a bundle name"),
        ("[[build]]\ncontext = 'a'\nplatforms = ['amiga/68k']", "`amiga/68k`"),
        ("[[build]]\ncontext = 'a'\n[[build]]\ncontext = 'b/../a'", "two builds are called `a`"),
        ("images = [", "is not valid TOML: in"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "bundle.toml`" in str(caught.value)


def test_the_directory_of_a_definition_is_not_the_definition(tmp_path: Path) -> None:
    for name in ("bundle.toml", "none.toml"):
        step = "write one, or name the one that there is: -f FILE"
        if name == "bundle.toml":
            (tmp_path / name).touch()
            step = f"--file {tmp_path}/bundle.toml"
        with pytest.raises(UsageError, match="cannot be read: is a directory") as caught:
            read_definition(tmp_path)
        assert caught.value.hint == step
        (tmp_path / name).unlink(missing_ok=True)


def test_an_archive_in_the_place_of_a_definition_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "old.tar").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError) as caught:
        read_definition(tmp_path / "old.tar")
    assert (
        "old.tar` is not valid TOML: it is no text\n  next: what images come from is named without -f: bundle:"
        in str(caught.value)
    )


def test_builds_are_relative_to_the_file_and_get_the_build_args(tmp_path: Path) -> None:
    text = """
[build-args]
V = "1"
[[build]]
context = "my app"
[[build]]
name = "test"
context = "."
dockerfile = "docker/Dockerfile"
target = "t"
args = { V = "2", W = "3" }
platforms = ["linux/arm64"]
"""
    first, second = read(tmp_path, text).builds
    assert first == Build("my-app", tmp_path / "my app", arguments={"V": "1"})
    dockerfile, platforms = tmp_path / "docker" / "Dockerfile", (Platform("linux", "arm64"),)
    assert second == Build("test", tmp_path, dockerfile, "t", {"V": "2", "W": "3"}, platforms)
    assert (first.label, second.label) == ("Dockerfile", "docker/Dockerfile")


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_definition(tmp_path / "bundle.toml")
    (tmp_path / "bundle.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        read_definition(tmp_path / "bundle.toml")


def test_a_toolchain_alone_needs_a_definition(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image is named"):
        combine(Definition(), Definition(), "offline")
    assert len(combine(read(tmp_path, "name = 'tools'"), Definition(), "offline").images) == 6


@pytest.mark.parametrize(
    ("file", "line", "optional"),
    [
        (Definition(), Definition(), True),
        (Definition(), Definition(with_python=True), False),
        (Definition(), Definition(images=(Reference.parse("python:3-slim"),)), False),
        (Definition(toolchain={"python": Reference.parse("python:3-slim")}), Definition(), False),
        (Definition(), Definition(toolchain={"python": Reference.parse("python:3-slim")}), False),
    ],
)
def test_python_is_optional_until_somebody_asks_for_it(file: Definition, line: Definition, optional: bool) -> None:
    line = dataclasses.replace(line, images=(*line.images, Reference.parse("debian:12")))
    (image,) = (image for image in combine(file, line, "offline").images if image.role == "python")
    assert image.optional is optional


def test_nothing_to_bundle() -> None:
    nothing = dict.fromkeys(("registry", "buildkit", "buildx", "binfmt", "frontend", "python"))
    with pytest.raises(UsageError, match="nothing to bundle"):
        combine(Definition(), Definition(toolchain=nothing), "offline")


def test_a_toolchain_image_that_is_the_target_of_a_merge_is_merged(tmp_path: Path) -> None:
    lines = '"linux/amd64" = "team/registry-amd64:3"\n"linux/arm64" = "team/registry-arm64:3"'
    spec = combine(read(tmp_path, f'[merge."registry:3"]\n{lines}'), Definition(), "x")
    (image,) = [image for image in spec.images if image.reference == Reference.parse("registry:3")]
    assert image.role == "registry"
    assert [(str(platform), source.familiar) for platform, source in image.merge] == [
        ("linux/amd64", "team/registry-amd64:3"),
        ("linux/arm64", "team/registry-arm64:3"),
    ]
    assert [str(platform) for platform in image.platforms] == ["linux/amd64", "linux/arm64"]


def test_an_image_that_is_also_a_merge_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both an image and the target of a merge"):
        combine(read(tmp_path, WHOLE), Definition(images=(Reference.parse("tools/protoc:29"),)), "offline")


def test_an_image_may_have_its_own_platforms(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        """
images = ["two:1", { image = "one:1", platforms = ["linux/amd64"] }, "three:1,platform=linux/arm64,linux/arm/v7"]
""",
    )
    more, own, _ = read_images(
        ["one:1,platform=linux/arm64", "four:1,platform=linux/amd64,platform=linux/arm64", "two:1"], Path()
    )
    # What Dockerfiles need it for does not add to what was said of the image itself.
    found = tuple(
        ImageRequest(Reference.parse(name), "base", (Platform("linux", "s390x"),)) for name in ("three:1", "five:1")
    )
    spec = combine(file, Definition(images=more, image_platforms=own, found=found), "offline")
    assert {
        image.reference.familiar: [str(each) for each in image.platforms]
        for image in spec.images
        if image.role == "base"
    } == {
        "two:1": ["linux/amd64", "linux/arm64"],
        # The command line wins.
        "one:1": ["linux/arm64"],
        "three:1": ["linux/arm64", "linux/arm/v7"],
        "four:1": ["linux/amd64", "linux/arm64"],
        "five:1": ["linux/s390x"],
    }


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("", {}, None),
        ("[toolchain]\nscanner = true", {}, "docker/buildkit-syft-scanner:stable-1"),
        ("[toolchain]\nscanner = 'r.corp/scan:2'", {}, "r.corp/scan:2"),
        ("[toolchain]\nscanner = true", {"scanner": None}, None),
        ("", {"scanner": Reference.parse("own:1")}, "own:1"),
    ],
)
def test_the_scanner_goes_along_when_asked_for(tmp_path: Path, text: str, line: Any, expected: Optional[str]) -> None:
    line = Definition(images=(Reference.parse("debian:12"),), host_platforms=HOSTS, toolchain=line)
    images = [image for image in combine(read(tmp_path, text), line, "offline").images if image.role == "scanner"]
    assert [(image.reference.familiar, image.platforms) for image in images] == (
        [(expected, HOSTS)] if expected else []
    )


# Mirrors


def test_keys_of_mirrors_are_the_names_of_registries(tmp_path: Path) -> None:
    path = tmp_path / "bundle.toml"
    path.write_text(
        'images = ["debian:12", "GHCR.io/org/app:1"]\n[mirrors]\n"https://Index.docker.io:443/v1/" = ["a.corp"]\n'
        '"docker.io" = ["b.corp"]\n"ghcr.io:443/" = ["c.corp"]\n'
    )
    file = read_definition(path)
    assert file.mirrors == {"docker.io": ("a.corp", "b.corp"), "ghcr.io": ("c.corp",)}
    line = Definition(mirrors={mirrored("registry-1.docker.io"): ("d.corp",)})
    spec = combine(file, line, "test")
    assert spec.mirrors == {"docker.io": ("d.corp",), "ghcr.io": ("c.corp",)}
    assert idle_mirrors(spec.mirrors, spec.asked) == []


def test_a_mirror_of_which_nothing_is_asked_is_said() -> None:
    line = Definition(
        images=(Reference.parse("debian:12"),),
        mirrors={"dokcer.io": ("a.corp",), "quay.io": ("b.corp",), "docker.io": ("c.corp",)},
    )
    spec = combine(Definition(), line, "test")
    assert idle_mirrors(spec.mirrors, spec.asked) == [
        "the mirror for `dokcer.io` is not used, no image comes from there: did you mean `docker.io`?",
        "the mirror for `quay.io` is not used, no image comes from there",
    ]


def test_the_sources_of_a_merge_have_mirrors_too() -> None:
    merge = {Reference.parse("tools:1"): ((Platform.parse("linux/amd64"), Reference.parse("quay.io/tools-amd64:1")),)}
    toolchain = dict.fromkeys(("registry", "buildkit", "buildx", "binfmt", "frontend", "python"))
    spec = combine(
        Definition(merge=merge, toolchain=toolchain, mirrors={"quay.io": ("a",), "docker.io": ("b",)}),
        Definition(),
        "test",
    )
    assert [note.split("`")[1] for note in idle_mirrors(spec.mirrors, spec.asked)] == ["docker.io"]


@pytest.mark.parametrize("key", ["docker.io/library", "https://ghcr.io/org", "", "https://"])
def test_what_has_no_mirror(key: str) -> None:
    with pytest.raises(UsageError, match="not a registry that can have a mirror"):
        mirrored(key)
