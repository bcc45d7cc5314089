"""How files are named: containers-transports(5), and what is ours."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from bundler.definition.bundle_toml import read_definition
from bundler.definition.file_request import FileRequest
from bundler.definition.spec import read_images
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference


@pytest.mark.parametrize(
    ("text", "kind", "path", "choice", "name"),
    [
        ("oci:dir", "oci", "dir", "", ""),
        ("oci:dir:12", "oci", "dir", "12", ""),
        ("oci:/a/dir:docker.io/library/debian:12", "oci", "/a/dir", "docker.io/library/debian:12", ""),
        ("oci-archive:a.tar:@0", "oci-archive", "a.tar", "@0", ""),
        ("docker-archive:../images.tar:app:1", "docker-archive", "../images.tar", "app:1", ""),
        ("hauler:haul.tar.zst", "hauler", "haul.tar.zst", "", ""),
        ("bundle:old.tar.001", "bundle", "old.tar.001", "", ""),
        ("team/app:1=oci:dir:latest", "oci", "dir", "latest", "team/app:1"),
        ("oci:a=b:c", "oci", "a=b", "c", ""),
        ("app=oci:a=b", "oci", "a=b", "", "app"),
        (r"oci:C:\images\app:1", "oci", r"C:\images\app", "1", ""),
        ("oci:C:/images/app", "oci", "C:/images/app", "", ""),
        ("oci:d:tag", "oci", "d", "tag", ""),
    ],
)
def test_the_grammar(text: str, kind: str, path: str, choice: str, name: str) -> None:
    found = FileRequest.parse(text, Path())
    assert found == FileRequest(text, kind, Path(path), choice, name)


@pytest.mark.parametrize(
    "text", ["debian:12", "docker.io/library/oci:dir", "library/bundle:old.tar", "./oci:dir", "app:1", "a=b", "ocidir"]
)
def test_what_is_no_file(text: str) -> None:
    assert FileRequest.parse(text, Path()) is None


def test_platforms_are_not_part_of_the_file() -> None:
    found = FileRequest.parse("app=oci:dir:1,platform=linux/arm64,platform=linux/amd64", Path("/x"))
    assert found is not None
    assert found.platforms == (Platform("linux", "arm64"), Platform("linux", "amd64"))
    assert (found.text, found.path, found.choice) == ("app=oci:dir:1", Path("/x/dir"), "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("oci:", "names no file: expected oci:PATH"),
        ("hauler::x", "names no file"),
        ("oci:dir,platform=", "names no platform"),
        ("oci:a\0b", "has a NUL byte"),
        ("oci:lay,linux/amd64", "is not an image: expected oci:lay,platform=linux/amd64"),
        ("x=oci:lay:1,linux/amd64,linux/arm64", "expected x=oci:lay:1,platform=linux/amd64,linux/arm64"),
        ("App=oci:dir", "`App` is not an image reference"),
        (f"app@sha256:{'0' * 64}=oci:dir", "has a digest"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        FileRequest.parse(text, Path())
    assert message in caught.value.message


@pytest.mark.parametrize("text", ["linux/arm64", "linux/arm/v7", "platform=linux/amd64"])
def test_what_powershell_made_two_of_is_told_of_quotes(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_images(["debian:12", text], Path())
    assert caught.value.message == f"`{text}` is a platform: expected an image"
    assert "in PowerShell" in (caught.value.hint or "")
    assert read_images(["linux/tool", "amd64", "linux"], Path())[0] == tuple(
        map(Reference.parse, ("linux/tool", "amd64", "linux"))
    )


def test_commas_in_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "a,linux").mkdir()
    (tmp_path / "a,linux" / "arm64").touch()
    found = FileRequest.parse("oci-archive:a,linux/arm64", tmp_path)
    assert found is not None
    assert found.path == tmp_path / "a,linux/arm64"


@pytest.mark.parametrize("text", ["./layout", "/var/images.tar", "app:1=archive.tar"])
def test_a_path_without_its_kind_is_told_of_kinds(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_images([text], Path())
    assert "oci-archive:PATH" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "tag", "expected"),
    [
        ("app:1", "2", "app:1"),
        ("app", "2", "app:2"),
        ("app", None, "app:latest"),
        ("localhost:5000/app", "2", "localhost:5000/app:2"),
    ],
)
def test_a_name_without_a_tag_gets_the_one_of_the_file(name: str, tag: Optional[str], expected: str) -> None:
    found = FileRequest.parse(f"{name}=oci:dir", Path())
    assert found is not None
    assert found.named(tag) == Reference.parse(expected)


def test_files_in_bundle_toml_are_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "bundle.toml"
    path.write_text(
        'images = ["debian:12", "app:1=oci:build/app", { image = "hauler:h.tar.zst", platforms = ["linux/amd64"] }]\n'
    )
    definition = read_definition(path)
    assert definition.images == (Reference.parse("debian:12"),)
    assert [(file.text, file.path) for file in definition.files] == [
        ("app:1=oci:build/app", tmp_path / "build/app"),
        ("hauler:h.tar.zst", tmp_path / "h.tar.zst"),
    ]
    assert definition.files[1].platforms == (Platform("linux", "amd64"),)
