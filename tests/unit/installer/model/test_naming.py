"""Where images go on the local registry, and how BuildKit is told of it."""

from __future__ import annotations

import pytest

from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from installer.model.naming import full_names, local_name, mirrors, repositories
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination

LOCAL = Destination.of(Address("localhost", 5000))
ROOT = Digest("sha256:" + "ab" * 32)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("debian:12", ("library/debian", "debian")),
        ("docker.io/library/debian", ("library/debian", "debian")),
        ("moby/buildkit:buildx-stable-1", ("moby/buildkit",)),
        ("docker/dockerfile:1", ("docker/dockerfile",)),
        ("ghcr.io/a/b:1", ("ghcr.io/a/b",)),
        ("registry.corp:5001/a:1", ("registry.corp_5001/a",)),
        ("Registry.Corp:5001/a:1", ("registry.corp_5001/a",)),
        ("[fe80::1]:5001/a:1", ("fe80_1_5001/a",)),
        ("localhost:5000/tools/protoc:29", ("tools/protoc",)),
        ("localhost:5001/tools/protoc:29", ("localhost_5001/tools/protoc",)),
    ],
)
def test_repositories_of_a_reference(reference: str, expected: tuple[str, ...]) -> None:
    found = repositories(Reference.parse(reference), LOCAL)
    assert found == expected
    for repository in found:
        Reference.parse(f"localhost:5000/{repository}:1")  # a valid repository


def test_full_names_carry_the_tag_or_else_the_digest() -> None:
    assert full_names(Reference.parse("debian:12"), ROOT, LOCAL) == (
        "localhost:5000/library/debian:12",
        "localhost:5000/debian:12",
    )
    assert full_names(Reference.parse(f"ghcr.io/a/b@{ROOT}"), ROOT, LOCAL) == (f"localhost:5000/ghcr.io/a/b@{ROOT}",)


def test_local_names_are_tags_of_the_local_registry_only() -> None:
    assert local_name(Reference.parse("registry:3"), ROOT, LOCAL) == "localhost:5000/library/registry:3"
    assert local_name(Reference.parse(f"registry@{ROOT}"), ROOT, LOCAL) == (
        "localhost:5000/library/registry:bundle-abababababab"
    )


def test_mirror_and_repository_agree() -> None:
    # BuildKit asks MIRROR-HOST/v2/MIRROR-PATH/REPOSITORY for SOURCE-HOST/REPOSITORY.
    for text in ("debian:12", "moby/buildkit:1", "ghcr.io/a/b:1", "registry.corp:5001/a:1"):
        reference = Reference.parse(text)
        host, _, path = mirrors([reference], LOCAL)[reference.registry].partition("/")
        assert host == "localhost:5000"
        assert "/".join(part for part in (path, reference.repository) if part) == repositories(reference, LOCAL)[0]
