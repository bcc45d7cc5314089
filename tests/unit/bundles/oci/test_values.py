"""Digests, platforms, references and descriptors: what they accept, what they refuse, how they read."""

from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.errors import BundleError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import children, media_type_of, parse_index, parse_manifest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference

HEX = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_digest_of_known_bytes() -> None:
    assert str(Digest.of(b"")) == "sha256:" + HEX
    assert Digest.of(b"").blob_path == "blobs/sha256/" + HEX


@pytest.mark.parametrize(
    "text",
    ["", HEX, "sha256:", "sha256:" + HEX[:-1], "sha256:" + HEX + "0", "sha256:" + HEX.upper(), "sha512:" + HEX * 2,
     "sha256:../../" + HEX[6:], "sha256:" + "é" * 64, "sha256:" + HEX + "\n", "sha256:" + "\u0660" * 64],
)  # fmt: skip
def test_digest_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="is not a digest"):
        Digest(text)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("linux/arm64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/x86_64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("armhf", "linux/arm/v7"),
        ("Linux/AMD64", "linux/amd64"),
        ("linux/i386", "linux/386"),
    ],
)
def test_platform_normal_form(text: str, full: str) -> None:
    assert str(Platform.parse(text)) == full


@pytest.mark.parametrize("text", ["", "linux", "linux/", "linux/a/b/c", "lunix/amd64", "linux/amd 64", "/", "a//b"])
def test_platform_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        Platform.parse(text)


def test_platform_list_keeps_order_and_drops_repeats() -> None:
    found = Platform.parse_list("linux/arm64, linux/amd64,linux/arm64/v8,")
    assert [str(platform) for platform in found] == ["linux/arm64", "linux/amd64"]


def test_platform_best_of_is_what_containerd_would_pull() -> None:
    v5, v6, v7 = (Platform("linux", "arm", f"v{level}") for level in (5, 6, 7))
    assert v7.best_of([v5, v6]) == v6
    assert v7.best_of([v7, v6]) == v7
    assert v6.best_of([v7]) is None


@pytest.mark.parametrize(
    ("wanted", "offered", "best"),
    [
        ("linux/amd64/v2", "linux/amd64", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64,linux/amd64/v2,linux/amd64/v4", "linux/amd64/v2"),
        ("linux/amd64", "linux/amd64/v2", None),
        ("linux/amd64", "linux/386", "linux/386"),
        ("linux/386", "linux/amd64", None),
        ("windows/amd64/v3", "linux/amd64", None),
        ("linux/arm64/v9", "linux/arm64", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v8.6,linux/arm64/v8.5,linux/arm64/v8.1", "linux/arm64/v8.5"),
        ("linux/arm64/v9.2", "linux/arm64/v8.8,linux/arm64/v8.7,linux/arm64/v9.3", "linux/arm64/v8.7"),
        ("linux/arm64/v9.2", "linux/arm64/v8.7,linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm64/v8.2", "linux/arm64,linux/arm64/v8.1", "linux/arm64/v8.1"),
        ("linux/arm64", "linux/arm64/v8.1", None),
        ("linux/arm64", "linux/arm/v6,linux/arm/v7,linux/amd64", "linux/arm/v7"),
        ("linux/arm/v7", "linux/arm64", None),
        ("linux/riscv64", "linux/amd64", None),
        ("linux/amd64/vx", "linux/amd64/v2", None),
    ],
)
def test_platform_best_of_other_variants(wanted: str, offered: str, best: Optional[str]) -> None:
    """As containerd's platforms.Only decides, read from compare.go of github.com/containerd/platforms."""
    found = Platform.parse(wanted).best_of(Platform.parse_list(offered))
    assert (str(found) if found else None) == best


def test_unknown_platform_is_none() -> None:
    assert Platform.from_json({"os": "unknown", "architecture": "unknown"}) is None
    assert Platform.from_json({"os": "linux"}) is None
    assert Platform.from_json({"os": "linux", "architecture": ["arm64"]}) is None


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("docker.io/debian:12", "docker.io/library/debian:12", "debian:12"),
        ("index.docker.io/library/debian:12", "docker.io/library/debian:12", "debian:12"),
        ("moby/buildkit:x", "docker.io/moby/buildkit:x", "moby/buildkit:x"),
        ("ghcr.io/a/b:1", "ghcr.io/a/b:1", "ghcr.io/a/b:1"),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("corp:5000/a/b/c:1", "corp:5000/a/b/c:1", "corp:5000/a/b/c:1"),
        ("[::1]:5000/a:1", "[::1]:5000/a:1", "[::1]:5000/a:1"),
        (f"debian@sha256:{HEX}", f"docker.io/library/debian@sha256:{HEX}", f"debian@sha256:{HEX}"),
        (f"debian:12@sha256:{HEX}", f"docker.io/library/debian:12@sha256:{HEX}", f"debian:12@sha256:{HEX}"),
    ],
)
def test_reference_forms(text: str, full: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert (str(reference), reference.familiar) == (full, familiar)
    assert Reference.parse(full) == reference
    assert Reference.parse(familiar) == reference


def test_reference_selector_prefers_the_digest() -> None:
    assert Reference.parse("debian:12").selector == "12"
    assert Reference.parse(f"debian:12@sha256:{HEX}").selector == f"sha256:{HEX}"


@pytest.mark.parametrize(
    "text",
    ["", ":", "Debian", "a b", "debian:", "debian:ta g", "debian:-x", "debian@", "debian@sha256:12", "-x/y", "a//b",
     "a..b", "a/../b", "/a", "docker.io/", "x" * 256, "a:" + "t" * 129, "é", "h:0/x", "h:65536/x", "[::1]:99999/x",
     f"h:{'9' * 5000}/x"],
)  # fmt: skip
def test_reference_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="is not an image reference"):
        Reference.parse(text)


@given(st.text(max_size=60))
def test_reference_never_fails_otherwise(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(reference)) == reference
    assert ".." not in reference.repository.split("/")


def test_descriptor_keeps_what_it_reads() -> None:
    value = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": "sha256:" + HEX,
        "size": 7,
        "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"},
        "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": "sha256:" + HEX,
        },
    }
    descriptor = Descriptor.from_json(value)
    assert (descriptor.is_manifest, descriptor.is_index, descriptor.is_attestation) == (True, False, True)
    assert descriptor.attests == Digest("sha256:" + HEX)
    assert descriptor.platform == Platform("linux", "arm64")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"mediaType": "x", "digest": "sha256:" + HEX, "size": -1},
        {"mediaType": "x", "digest": "sha256:" + HEX, "size": True},
        {"mediaType": "x", "digest": "sha256:" + HEX, "size": 1 << 63},
        {"mediaType": "x", "digest": "sha256:" + HEX, "size": "1"},
        {"mediaType": "", "digest": "sha256:" + HEX, "size": 1},
        {"mediaType": "x", "digest": None, "size": 1},
        {"mediaType": "x", "digest": "sha256:" + HEX, "size": 1, "annotations": {"a": 1}},
        {"mediaType": "x", "digest": "sha256:" + HEX, "size": 1, "annotations": ["a"]},
    ],
)
def test_descriptor_refuses(value: object) -> None:
    with pytest.raises(UsageError):
        Descriptor.from_json(value)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
    lambda value: repr(value).encode()))  # fmt: skip
def test_documents_from_outside_raise_only_our_errors(data: bytes) -> None:
    manifest = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(data), len(data))
    for read in (parse_index, parse_manifest, lambda raw: children(manifest, raw), lambda raw: media_type_of(raw, "")):
        with pytest.raises(BundleError):
            read(data)


def test_deeply_nested_json_is_an_error_not_a_crash() -> None:
    with pytest.raises(UsageError):
        parse_index(b'{"manifests":' + b"[" * 200_000 + b"]" * 200_000 + b"}")


@pytest.mark.parametrize(
    ("data", "content_type", "expected"),
    [
        (b'{"manifests":[]}', "", "application/vnd.oci.image.index.v1+json"),
        (b'{"layers":[]}', "application/octet-stream", "application/vnd.oci.image.manifest.v1+json"),
        (
            b'{"layers":[]}',
            "application/vnd.docker.distribution.manifest.v2+json; charset=utf-8",
            "application/vnd.docker.distribution.manifest.v2+json",
        ),
        (
            b'{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.oci.image.index.v1+json",
        ),
    ],
)
def test_media_type_of(data: bytes, content_type: str, expected: str) -> None:
    assert media_type_of(data, content_type) == expected


def test_schema_1_is_named() -> None:
    with pytest.raises(UsageError, match="schema 1"):
        media_type_of(b'{"schemaVersion":1}', "application/vnd.docker.distribution.manifest.v1+prettyjws")
