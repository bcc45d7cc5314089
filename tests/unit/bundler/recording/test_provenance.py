"""Provenance as BuildKit writes it: images with their digests, downloads, and what is neither."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bundler.recording.provenance import materials
from bundles.archive.tape.record import RecordedImage
from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference

AMD64, ARM64, ARMV7 = map(Platform.parse, ("linux/amd64", "linux/arm64", "linux/arm/v7"))


def digest(letter: str) -> Digest:
    return Digest("sha256:" + letter * 64)


def material(uri: str, letter: str) -> dict[str, Any]:
    return {"uri": uri, "digest": {"sha256": letter * 64}}


def test_images_of_all_platforms_and_targets() -> None:
    def of(arch: str) -> dict[str, Any]:
        found = [
            material("pkg:docker/docker/dockerfile@1", "a"),
            material(f"pkg:docker/debian@12?platform=linux%2F{arch}", "b"),
            material(f"pkg:docker/127.0.0.1:5555/team/app@1.35?digest=sha256:{'c' * 64}&platform=linux%2F{arch}", "c"),
        ]
        return {"buildType": "x", "materials": found, "invocation": {"parameters": {"args": {"build-arg:T": "s3cr3t"}}}}

    pinned = material("pkg:docker/ghcr.io/team/tool?platform=linux%2Farm%2Fv7", "d")
    metadata = {
        "one": {"buildx.build.provenance/linux/amd64": of("amd64"), "buildx.build.provenance/linux/arm64": of("arm64")},
        "two": {"buildx.build.provenance": {"materials": [pinned]}, "buildx.build.ref": "a/b/c"},
    }
    found = materials(json.dumps(metadata).encode())
    assert set(found.images) == {
        RecordedImage(Reference.parse("docker/dockerfile:1"), digest("a")),
        RecordedImage(Reference.parse("debian:12"), digest("b"), (AMD64, ARM64)),
        RecordedImage(Reference.parse("127.0.0.1:5555/team/app:1.35"), digest("c"), (AMD64, ARM64)),
        RecordedImage(Reference.parse(f"ghcr.io/team/tool@{digest('d')}"), digest("d"), (ARMV7,)),
    }
    assert (found.downloads, found.others) == ((), ())
    assert "s3cr3t" not in repr(found)


def test_downloads_and_what_is_neither_and_slsa_1() -> None:
    dependencies = [
        material("https://host/a?b=c", "e"),
        material("https://host/a?b=c", "e"),
        {"uri": "https://github.com/team/app.git#main", "digest": {"sha1": "f" * 40}},
    ]
    metadata = {"buildx.build.provenance": {"buildDefinition": {"resolvedDependencies": dependencies}}}
    found = materials(json.dumps(metadata).encode())
    assert found.downloads == (("https://host/a?b=c", digest("e")),)
    assert found.others == ("https://github.com/team/app.git#main",)


@pytest.mark.parametrize("metadata", [b"", b"{}", b'{"buildx.build.ref": "x"}'])
def test_no_provenance_is_an_error(metadata: bytes) -> None:
    with pytest.raises(UsageError):
        materials(metadata)
