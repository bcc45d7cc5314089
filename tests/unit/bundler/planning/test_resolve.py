"""From names to digests, against a registry: every kind of image, and everything that is wrong reported at once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from bundler.definition.spec import ImageRequest, Spec
from bundler.planning.plan import Plan
from bundler.planning.resolve import resolve
from bundler.sources.registry import RegistrySource
from bundles.errors import AuthenticationError, ContentError, NetworkError, NotFoundError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.registry.transport import Transport
from tests.support.fake_registry import FakeRegistry
from tests.support.images import CONFIG, LAYER, layer_tar

AMD64, ARM64, ARMV7 = Platform("linux", "amd64"), Platform("linux", "arm64"), Platform("linux", "arm", "v7")


@pytest.fixture
def look(registry: FakeRegistry, connect: Callable[..., Transport]) -> Callable[..., Plan]:
    """Resolve images of Docker Hub, which the fake registry mirrors: `look("debian:12", platforms=[...])`."""

    def plan(*names: str, platforms: Any = (AMD64, ARM64), attestations: bool = False, wanted: Any = None) -> Plan:
        source = RegistrySource(connect(), {"docker.io": [registry.host]})
        images = wanted or tuple(ImageRequest(Reference.parse(name), "base", tuple(platforms)) for name in names)
        return resolve(Spec("test", (AMD64,), (AMD64,), tuple(images), {}, attestations), source)

    return plan


def digests(plan: Plan) -> set[Digest]:
    return {descriptor.digest for descriptor, _ in (*plan.documents, *plan.layers)}


def below(registry: FakeRegistry, *roots: Descriptor) -> set[Digest]:
    """The digests of these and of everything that they need."""
    found = set()
    for root in roots:
        found |= {root.digest} | below(registry, *registry.children(root))
    return found


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_index_of_either_kind(registry: FakeRegistry, look: Callable[..., Plan], kind: str) -> None:
    index = registry.index(*(registry.image(name, kind=kind) for name in ("linux/amd64", "linux/arm64")), kind=kind)
    registry.tag("library/debian", "12", index)
    plan = look("debian:12")
    (image,) = plan.images
    assert (image.root.digest, image.root.media_type, image.sparse) == (index.digest, index.media_type, False)
    assert [content.platform for content in image.platforms] == [AMD64, ARM64]
    assert digests(plan) == below(registry, index)
    assert all(data == registry.data(descriptor) for descriptor, data in plan.documents)


def test_only_the_wanted_platforms_are_taken_and_the_index_is_kept(
    registry: FakeRegistry, look: Callable[..., Plan]
) -> None:
    amd64, arm64, arm = (registry.image(name) for name in ("linux/amd64", "linux/arm64", "linux/arm/v7"))
    index = registry.tag("library/debian", "12", registry.index(amd64, arm64, arm))
    plan = look("debian:12", platforms=[ARM64])
    assert plan.images[0].root.digest == index.digest
    assert plan.images[0].sparse
    assert digests(plan) == {index.digest} | below(registry, arm64)


def test_content_size_is_config_and_layers(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    amd64 = registry.tag("library/debian", "12", registry.image("linux/amd64", layers=3))
    (content,) = look("debian:12", platforms=[AMD64]).images[0].platforms
    assert content.content_size == sum(child.size for child in registry.children(amd64))


def test_a_bare_manifest(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    manifest = registry.tag("library/tool", "1", registry.image("linux/arm64", kind="docker"))
    (image,) = look("tool:1", platforms=[ARM64]).images
    assert (image.root.digest, image.sparse) == (manifest.digest, False)
    assert [content.platform for content in image.platforms] == [ARM64]
    with pytest.raises(NotFoundError, match="has no linux/amd64: it has linux/arm64"):
        look("tool:1")


def test_nested_indexes(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    amd64, arm64, arm = (registry.image(name) for name in ("linux/amd64", "linux/arm64", "linux/arm/v7"))
    inner, unused = registry.index(arm64), registry.index(arm)
    index = registry.tag("library/nested", "1", registry.index(amd64, inner, unused))
    plan = look("nested:1")
    assert digests(plan) == {index.digest, inner.digest} | below(registry, amd64, arm64)
    assert plan.images[0].sparse


def nested(registry: FakeRegistry, levels: int, times: int = 1) -> list[Descriptor]:
    """Tag nested:1: an index in an index, each listed so many times in the next. Gives all, the innermost first."""
    image = registry.link("library/nested", registry.image("linux/amd64"))
    indexes = [registry.index(image)]
    for _ in range(levels):
        indexes.append(registry.index(*[indexes[-1]] * times))
    for index in indexes:
        registry.link("library/nested", index, children=False)
    registry.repository("library/nested").tags["1"] = indexes[-1].digest
    return indexes


def test_an_index_that_is_listed_again_and_again_is_opened_once(
    registry: FakeRegistry, look: Callable[..., Plan]
) -> None:
    indexes = nested(registry, levels=7, times=8)
    plan = look("nested:1", platforms=(AMD64,))
    assert {index.digest for index in indexes} <= digests(plan)
    assert not plan.images[0].sparse
    # Those indexes, the manifest and its config.
    assert len(registry.seen()) == 8 + 2


def test_indexes_stand_in_one_another_16_levels_deep(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    indexes = nested(registry, levels=16)
    assert {index.digest for index in indexes} <= digests(look("nested:1", platforms=(AMD64,)))


@pytest.mark.parametrize("levels", [17, 2000])
def test_and_not_deeper(registry: FakeRegistry, look: Callable[..., Plan], levels: int) -> None:
    nested(registry, levels)
    with pytest.raises(ContentError) as caught:
        look("nested:1", platforms=(AMD64,))
    assert "more than 16 levels of indexes inside" in str(caught.value)


def test_variants(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    v5, v6 = registry.image("linux/arm/v5"), registry.image("linux/arm/v6")
    registry.tag("library/old", "1", registry.index(v5, v6))
    plan = look("old:1", platforms=[ARMV7])
    assert [str(content.platform) for content in plan.images[0].platforms] == ["linux/arm/v6"]
    assert plan.notes == ("old:1: linux/arm/v7 is served by linux/arm/v6",)


def test_arm64_with_and_without_its_variant_is_one(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    arm64 = registry.image("linux/arm64")
    data = json.loads(registry.data(registry.index(arm64)))
    data["manifests"][0]["platform"]["variant"] = "v8"
    registry.tag("library/v8", "1", registry.add("application/vnd.oci.image.index.v1+json", json.dumps(data).encode()))
    assert look("v8:1", platforms=[ARM64]).images[0].platforms[0].manifest.digest == arm64.digest


def test_an_index_entry_without_a_platform_is_told_by_its_config(
    registry: FakeRegistry, look: Callable[..., Plan]
) -> None:
    plain = [registry.image(name) for name in ("linux/amd64", "linux/arm64")]
    registry.tag(
        "library/plain", "1", registry.index(*(Descriptor(each.media_type, each.digest, each.size) for each in plain))
    )
    assert [content.platform for content in look("plain:1").images[0].platforms] == [AMD64, ARM64]


def test_attestations_only_when_asked_for(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    amd64, arm64 = registry.image("linux/amd64"), registry.image("linux/arm64")
    mine, other = registry.attestation(amd64), registry.attestation(arm64)
    registry.tag("library/debian", "12", registry.index(amd64, arm64, mine, other))
    without = look("debian:12", platforms=[AMD64])
    assert mine.digest not in digests(without)
    assert without.images[0].sparse
    with_them = look("debian:12", platforms=[AMD64], attestations=True)
    assert below(registry, mine) <= digests(with_them)
    assert other.digest not in digests(with_them)
    assert not look("debian:12", attestations=True).images[0].sparse


def test_by_digest_by_tag_and_by_both(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    index = registry.tag("library/debian", "12", registry.index(registry.image("linux/amd64")))
    newer = registry.tag("library/debian", "13", registry.index(registry.image("linux/amd64", seed=1)))
    names = ["debian:12", f"debian@{newer.digest}", f"debian:13@{index.digest}"]
    roots = [image.root.digest for image in look(*names, platforms=[AMD64]).images]
    assert roots == [index.digest, newer.digest, index.digest]


def test_zstd_layers_and_unknown_media_types_travel_as_they_are(
    registry: FakeRegistry, look: Callable[..., Plan]
) -> None:
    config = registry.add(
        CONFIG["oci"], b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'
    )
    layers = [
        registry.add("application/vnd.oci.image.layer.v1.tar+zstd", b"\x28\xb5\x2f\xfd zstd"),
        registry.add("application/vnd.example.future", b"anything"),
        registry.add(LAYER["oci"].replace("+gzip", ""), layer_tar(1)),
    ]
    registry.tag("library/zstd", "1", registry.manifest(config, layers))
    plan = look("zstd:1", platforms=[AMD64])
    assert {(layer.media_type, layer.digest) for layer, _ in plan.layers} == {
        (layer.media_type, layer.digest) for layer in layers
    }


def test_an_artifact_has_no_platform_and_is_taken_whole(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    config = registry.add("application/vnd.cncf.helm.config.v1+json", b"{}")
    chart = registry.add("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"chart")
    registry.tag("library/chart", "1", registry.manifest(config, [chart]))
    plan = look("chart:1")
    assert [content.platform for content in plan.images[0].platforms] == [None]
    assert {layer.digest for layer, _ in plan.layers} == {config.digest, chart.digest}


def test_blobs_that_images_share_are_there_once_and_in_order(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    for name in ("a", "b"):
        registry.tag(f"library/{name}", "1", registry.index(registry.image("linux/amd64", seed="same")))
    plan = look("a:1", "b:1", platforms=[AMD64])
    layers = [layer.digest for layer, _ in plan.layers]
    assert layers == sorted(set(layers))
    assert len(layers) == 2


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_merge_puts_images_of_one_platform_under_one_index(
    registry: FakeRegistry, look: Callable[..., Plan], kind: str
) -> None:
    amd64 = registry.image("linux/amd64", kind=kind)
    arm64 = registry.image("linux/arm64", kind=kind)
    registry.tag("library/protoc-amd64", "29", amd64)
    registry.tag("library/protoc-arm64", "29", registry.index(arm64, registry.image("linux/arm/v7"), kind=kind))
    sources = ((AMD64, Reference.parse("protoc-amd64:29")), (ARM64, Reference.parse("protoc-arm64:29")))
    plan = look(wanted=[ImageRequest(Reference.parse("tools/protoc:29"), "base", (AMD64, ARM64), sources)])
    (image,) = plan.images
    documents = {descriptor.digest: data for descriptor, data in plan.documents}
    index = json.loads(documents[image.root.digest])
    types = {"oci": "application/vnd.oci.image.index.v1+json"}
    types["docker"] = "application/vnd.docker.distribution.manifest.list.v2+json"
    assert index["mediaType"] == image.root.media_type == types[kind]
    assert [(entry["digest"], entry["platform"]) for entry in index["manifests"]] == [
        (str(amd64.digest), {"architecture": "amd64", "os": "linux"}),
        (str(arm64.digest), {"architecture": "arm64", "os": "linux"}),
    ]
    assert digests(plan) == {image.root.digest} | below(registry, amd64, arm64)
    assert image.merged == (sources[0][1], sources[1][1])


def test_merge_says_which_source_is_wrong(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    registry.tag("library/protoc-amd64", "29", registry.image("linux/amd64"))
    sources = ((AMD64, Reference.parse("protoc-amd64:29")), (ARM64, Reference.parse("protoc-amd64:29")))
    with pytest.raises(NetworkError, match="protoc-amd64:29 for linux/arm64: has no linux/arm64: it has linux/amd64"):
        look(wanted=[ImageRequest(Reference.parse("tools/protoc:29"), "base", (AMD64, ARM64), sources)])


def test_everything_wrong_is_reported_at_once(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    registry.tag("library/debian", "12", registry.index(registry.image("linux/amd64")))
    registry.tag("library/fine", "1", registry.index(registry.image("linux/amd64"), registry.image("linux/arm64")))
    registry.fault("GET", "/library/secret/", times=-1, status=403, body=b'{"errors":[{"code":"DENIED"}]}')
    with pytest.raises(NetworkError, match="3 of 4 images cannot be bundled; nothing was written") as caught:
        look("debian:12", "debian:12.1", "secret:1", "fine:1")
    problems = {problem.subject: problem for problem in caught.value.problems}
    assert set(problems) == {"debian:12", "debian:12.1", "secret:1"}
    assert "has no linux/arm64: it has linux/amd64" in problems["debian:12"].message
    assert problems["debian:12.1"].hint == "did you mean `debian:12`?"
    assert "docker login" in str(problems["secret:1"].hint)
    assert caught.value.exit_code == 5


def test_an_index_with_another_size_than_what_it_lists(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    """Whoever reads the archive goes by the index, and would find it damaged."""
    amd64, arm64 = registry.image("linux/amd64"), registry.image("linux/arm64")
    registry.tag("library/debian", "12", registry.index(dataclasses.replace(amd64, size=amd64.size + 1), arm64))
    with pytest.raises(ContentError) as caught:
        look("debian:12")
    (problem,) = caught.value.problems
    assert f"{amd64.digest} has {amd64.size + 1} bytes: it has {amd64.size}" in problem.message


def test_one_kind_of_trouble_keeps_its_kind(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    with pytest.raises(NotFoundError):
        look("a:1", "b:1")
    registry.fault("GET", "/manifests/", times=-1, status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    with pytest.raises(AuthenticationError):
        look("a:1", "b:1")


def test_schema_1_is_refused_with_a_reason(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    body = b'{"schemaVersion":1,"fsLayers":[]}'
    registry.fault("GET", "/manifests/1", status=200, headers={"Content-Type": media_type}, body=body)
    with pytest.raises(ContentError) as caught:
        look("ancient:1")
    assert "schema 1" in str(caught.value)


def test_nothing_but_documents_is_fetched(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    amd64 = registry.image("linux/amd64")
    registry.tag("library/debian", "12", registry.index(amd64))
    look("debian:12", platforms=[AMD64])
    config, *_ = registry.children(amd64)
    assert registry.paths("GET", "/blobs/") == [f"/v2/library/debian/blobs/{config.digest}"]
