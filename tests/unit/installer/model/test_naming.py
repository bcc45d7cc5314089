"""Where images go on the local registry, and how BuildKit is told of it."""

from __future__ import annotations

import sys

import pytest

from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from installer.model.address import Address
from installer.model.naming import (
    full_names,
    local_name,
    mirrors,
    repositories,
)
from installer.steps.builder import config_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCAL = Address("localhost", 5000)
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


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback", "ip"),
    [
        ("localhost:5000", "localhost", 5000, True, "127.0.0.1"),
        ("127.0.0.1:5001", "127.0.0.1", 5001, True, "127.0.0.1"),
        ("192.168.10.10:5000", "192.168.10.10", 5000, False, "192.168.10.10"),
        ("[::1]:5000", "[::1]", 5000, True, "::1"),
    ],
)
def test_addresses(text: str, host: str, port: int, loopback: bool, ip: str) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, address.is_loopback, address.listen_ip()) == (host, port, loopback, ip)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "localhost", ":5000", "localhost:0", "localhost:99999", "a b:5000", "0.0.0.0:5000", "::1:5000", "x:y"),
        *("localhost:²", "localhost:" + "9" * 5000, "a..b:5000", "x" * 64 + ":5000", "a-.b:5000", "ä:5000"),
    ],
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"HOST:PORT|no name|every address"):
        Address.parse(text)


def test_buildkitd_toml_reads_back() -> None:
    references = map(Reference.parse, ["debian:12", "ghcr.io/a/b:1", "registry.corp:5001/a:1", "ghcr.io/c:2"])
    text = config_text(LOCAL, mirrors(references, LOCAL))
    assert tomllib.loads(text) == {
        "registry": {
            "localhost:5000": {"http": True, "insecure": True},
            "docker.io": {"mirrors": ["localhost:5000"]},
            "ghcr.io": {"mirrors": ["localhost:5000/ghcr.io"]},
            "registry.corp:5001": {"mirrors": ["localhost:5000/registry.corp_5001"]},
        }
    }


def test_docker_hub_is_always_mirrored_and_the_registry_never_mirrors_itself() -> None:
    lan = Address.parse("192.168.10.10:5000")
    found = mirrors([Reference.parse("192.168.10.10:5000/tools/x:1")], lan)
    assert found == {"docker.io": "192.168.10.10:5000"}
    assert tomllib.loads(config_text(lan, found))["registry"]["docker.io"] == {"mirrors": ["192.168.10.10:5000"]}


def test_mirror_and_repository_agree() -> None:
    # BuildKit asks MIRROR-HOST/v2/MIRROR-PATH/REPOSITORY for SOURCE-HOST/REPOSITORY.
    for text in ("debian:12", "moby/buildkit:1", "ghcr.io/a/b:1", "registry.corp:5001/a:1"):
        reference = Reference.parse(text)
        host, _, path = mirrors([reference], LOCAL)[reference.registry].partition("/")
        assert host == "localhost:5000"
        assert "/".join(part for part in (path, reference.repository) if part) == repositories(reference, LOCAL)[0]
