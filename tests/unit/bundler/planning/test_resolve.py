"""From names to digests, against a registry: every kind of image, and everything that is wrong reported at once."""

from __future__ import annotations

import dataclasses
import json
import socket
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
from tests.support.images import CONFIG, INDEX, LAYER, MANIFEST, layer_tar

OCI_INDEX, OCI_MANIFEST = INDEX["oci"], MANIFEST["oci"]

AMD64, ARM64, ARMV7 = Platform("linux", "amd64"), Platform("linux", "arm64"), Platform("linux", "arm", "v7")


@pytest.fixture
def look(registry: FakeRegistry, connect: Callable[..., Transport]) -> Callable[..., Plan]:
    """Resolve images of Docker Hub, which the fake registry mirrors: `look("debian:12", platforms=[...])`."""

    def plan(
        *names: str,
        platforms: Any = (AMD64, ARM64),
        attestations: bool = False,
        wanted: Any = None,
        foreign_layers: bool = False,
    ) -> Plan:
        source = RegistrySource(connect(), {"docker.io": [registry.host]})
        images = wanted or tuple(ImageRequest(Reference.parse(name), "base", tuple(platforms)) for name in names)
        spec = Spec("test", (AMD64,), (AMD64,), tuple(images), {}, attestations, foreign_layers=foreign_layers)
        return resolve(spec, source)

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
    with pytest.raises(NotFoundError) as caught:
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


def test_attestations_of_what_is_taken_when_they_are_wanted(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
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


def test_an_attestation_that_is_not_there_is_said(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    amd64 = registry.image("linux/amd64")
    lost = registry.attestation(amd64)
    index = registry.index(amd64, lost)
    del registry.content[lost.digest]
    registry.tag("library/debian", "12", index)
    plan = look("debian:12", platforms=[AMD64], attestations=True)
    assert plan.notes == (f"debian:12: its attestation {lost.digest} is not there",)
    assert plan.images[0].sparse
    assert digests(plan) == {index.digest} | below(registry, amd64)


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
    others = registry.image("linux/arm/v7"), registry.attestation(arm64)
    registry.tag("library/protoc-arm64", "29", registry.index(arm64, *others, kind=kind))
    sources = ((AMD64, Reference.parse("protoc-amd64:29")), (ARM64, Reference.parse("protoc-arm64:29")))
    merged = ImageRequest(Reference.parse("tools/protoc:29"), "base", (AMD64, ARM64), sources)
    plan = look(wanted=[merged], attestations=True)
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
    # This transport reads no logins.
    assert "no login is used here" in str(problems["secret:1"].hint)
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


def index_with(registry: FakeRegistry, *entries: Any) -> Descriptor:
    """An index with these descriptors, or whatever else."""
    manifests = [entry.to_json() if isinstance(entry, Descriptor) else entry for entry in entries]
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    return registry.add(OCI_INDEX, json.dumps(value).encode())


ODD = [
    {"mediaType": OCI_MANIFEST, "digest": "sha512:" + "0" * 128, "size": 7, "platform": ARMV7.to_json()},
    {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": -1},
    {"digest": "sha256:" + "0" * 64, "size": 7},
    {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 7, "annotations": {"x": 1}},
    {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 7, "urls": [1]},
    {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "1" * 64, "size": 7},  # without a platform, and not there
    {"mediaType": OCI_INDEX, "digest": "sha256:" + "2" * 64, "size": 7},  # an index that is not there
    {"mediaType": "application/x-odd", "digest": "sha256:" + "3" * 64, "size": 7},
    "text",
    None,
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_what_nobody_asked_for_may_be_odd(registry: FakeRegistry, look: Callable[..., Plan], odd: Any) -> None:
    amd64, arm64 = registry.image("linux/amd64"), registry.image("linux/arm64")
    index = registry.tag("library/odd", "1", index_with(registry, odd, amd64, arm64))
    plan = look("odd:1")
    (image,) = plan.images
    assert image.sparse
    assert digests(plan) == {index.digest} | below(registry, amd64, arm64)
    assert dict((known.digest, data) for known, data in plan.documents)[index.digest] == registry.data(index)


def test_what_is_asked_for_must_be_understood(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    registry.tag("library/odd", "1", index_with(registry, ODD[0], registry.image("linux/amd64")))
    with pytest.raises(NotFoundError) as caught:
        look("odd:1", platforms=[AMD64, ARMV7])
    assert "has no linux/arm/v7: it has linux/amd64; linux/arm/v7 cannot be used, `sha512:0" in str(caught.value)


def test_the_odd_entry_that_is_missed_is_named_first(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    registry.tag("library/odd", "1", index_with(registry, *ODD[1:8], ODD[0], registry.image("linux/amd64")))
    with pytest.raises(NotFoundError, match=r"it has linux/amd64; linux/arm/v7 cannot be used, `sha512:0"):
        look("odd:1", platforms=[AMD64, ARMV7])


def test_an_annotation_without_a_value_is_nothing_odd(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    image = registry.image("linux/amd64")
    entry = {**image.to_json(), "annotations": {"org.example.a": None, "org.example.b": "text"}}
    index = registry.tag("library/null", "1", index_with(registry, entry))
    assert digests(look("null:1", platforms=[AMD64])) == {index.digest} | below(registry, image)


def test_a_registry_that_fails_is_not_taken_for_an_odd_entry(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    inner = registry.index(registry.image("linux/arm/v7"))
    index = registry.index(registry.image("linux/amd64"), inner)
    registry.tag("library/odd", "1", index)
    registry.fault("GET", f"/manifests/{inner.digest}", status=503, times=-1)
    with pytest.raises(NetworkError, match="503"):
        look("odd:1", platforms=[AMD64])


@pytest.mark.parametrize("layers", [{"layers": None}, {}, {"layers": []}])
@pytest.mark.parametrize("named", [True, False])
def test_an_image_without_layers(
    registry: FakeRegistry, look: Callable[..., Plan], layers: dict[str, Any], named: bool
) -> None:
    config = registry.add(CONFIG["oci"], json.dumps({**AMD64.to_json(), "rootfs": {"diff_ids": []}}).encode())
    value = {"schemaVersion": 2, **({"mediaType": OCI_MANIFEST} if named else {}), "config": config.to_json(), **layers}
    manifest = registry.add(OCI_MANIFEST, json.dumps(value).encode())
    registry.tag("library/empty", "1", manifest)
    if not named:
        registry.fault("GET", "/manifests/1", extra={"Content-Type": "application/json"})
    plan = look("empty:1", platforms=[AMD64])
    assert digests(plan) == {manifest.digest, config.digest}
    assert plan.images[0].platforms[0].content_size == config.size


def test_an_index_of_nothing(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    registry.tag("library/none", "1", registry.add(OCI_INDEX, b'{"schemaVersion": 2, "manifests": null}'))
    with pytest.raises(NotFoundError, match="no platform at all"):
        look("none:1")


@pytest.mark.parametrize(("wanted", "offered"), [("linux/amd64/v3", "linux/amd64"), ("linux/arm64/v9", "linux/arm64")])
def test_a_plain_platform_serves_its_variants(
    registry: FakeRegistry, look: Callable[..., Plan], wanted: str, offered: str
) -> None:
    image = registry.image(offered)
    index = registry.tag("library/plain", "1", registry.index(image, registry.image("linux/s390x")))
    plan = look("plain:1", platforms=[Platform.parse(wanted)])
    assert digests(plan) == {index.digest} | below(registry, image)
    assert plan.notes == (f"plain:1: {wanted} is served by {offered}",)
    # Also where it is the only one, and there is no index.
    registry.tag("library/plain", "2", image)
    plan = look("plain:2", platforms=[Platform.parse(wanted)])
    assert plan.notes == (f"plain:2: {wanted} is served by {offered}",)


# Layers at other addresses

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def with_urls(registry: FakeRegistry, urls: list[str], media_type: str = FOREIGN) -> tuple[Descriptor, Descriptor]:
    """An image in win:1 with a layer that the registry does not have, and that layer."""
    config = registry.add(CONFIG["docker"], json.dumps({**AMD64.to_json(), "rootfs": {"diff_ids": []}}).encode())
    layer = Descriptor.of(media_type, b"not in any registry")
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST["docker"],
        "config": config.to_json(),
        "layers": [{**layer.to_json(), **({"urls": urls} if urls else {})}],
    }
    image = registry.add(MANIFEST["docker"], json.dumps(value).encode())
    registry.tag("library/win", "1", image)
    registry.repository("library/win").blobs.discard(layer.digest)
    return image, layer


def test_a_layer_that_is_in_no_registry_is_refused_while_planning(
    registry: FakeRegistry, look: Callable[..., Plan]
) -> None:
    _, layer = with_urls(registry, ["https://user:word@x/", "https://layers.example/windows?key=word", "ftp://x/"])
    with pytest.raises(ContentError) as caught:
        look("win:1", platforms=[AMD64])
    (problem,) = caught.value.problems
    assert (
        f"the layer {layer.digest} of `win:1` is not in its registry, only at `layers.example:443`" in problem.message
    )
    assert "--foreign-layers" in str(problem.hint)
    assert "word" not in str(caught.value)


def test_a_layer_that_is_nowhere_is_refused_whatever_is_allowed(
    registry: FakeRegistry, look: Callable[..., Plan]
) -> None:
    with_urls(registry, [])
    with pytest.raises(ContentError, match="only at no usable address") as caught:
        look("win:1", platforms=[AMD64], foreign_layers=True)
    assert "--foreign-layers" not in str(caught.value)


def test_a_layer_that_is_in_no_registry_is_planned_with_its_addresses_when_allowed(
    registry: FakeRegistry, fake: Callable[..., FakeRegistry], look: Callable[..., Plan]
) -> None:
    vendor = fake()
    vendor.blob("any", b"not in any registry")
    image, layer = with_urls(registry, [])
    url = f"{vendor.url}/v2/any/blobs/{layer.digest}"
    image, layer = with_urls(registry, [f"{vendor.url}/gone", url, "//["])
    plan = look("win:1", platforms=[AMD64], foreign_layers=True)
    ((planned, _),) = plan.layers
    assert (planned.digest, planned.urls) == (layer.digest, (f"{vendor.url}/gone", url))
    assert plan.images[0].root.digest == image.digest
    (note,) = plan.notes
    assert note == f"win:1: a layer of 19 B comes from `{vendor.host}`, not from a registry"


def test_a_layer_that_is_gone_from_its_addresses_is_refused_while_planning(
    registry: FakeRegistry, fake: Callable[..., FakeRegistry], look: Callable[..., Plan]
) -> None:
    vendor = fake()
    with_urls(registry, [f"{vendor.url}/gone"])
    with pytest.raises(NotFoundError) as caught:
        look("win:1", platforms=[AMD64], foreign_layers=True)
    assert f"from {vendor.url}/gone: GET {vendor.url}/gone: NAME_UNKNOWN" in str(caught.value)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_layer_with_addresses_that_its_registry_has_comes_from_the_registry(
    registry: FakeRegistry, look: Callable[..., Plan], allowed: bool
) -> None:
    _, layer = with_urls(registry, ["https://layers.example/x"], LAYER["docker"])
    registry.blob("library/win", b"not in any registry")
    plan = look("win:1", platforms=[AMD64], foreign_layers=allowed)
    ((planned, _),) = plan.layers
    assert (planned.digest, planned.urls) == (layer.digest, ())
    assert ["--foreign-layers" in note for note in plan.notes] == ([] if allowed else [True])


# The same cause


def test_one_cause_is_said_once(connect: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve_name(host: Any, *args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve_name)
    names = [f"image-{number}:1" for number in range(7)]
    wanted = [ImageRequest(Reference.parse(name), "base", (AMD64,)) for name in (*names, "ghcr.io/other/x:1")]
    source = RegistrySource(connect(attempts=1), {})
    with pytest.raises(NetworkError, match="8 of 8") as caught:
        resolve(Spec("test", (AMD64,), (AMD64,), tuple(wanted), {}, False), source)
    hub, other = caught.value.problems
    assert hub.subject == ", ".join(names)
    assert hub.message == (
        "cannot connect to `registry-1.docker.io:443`: the name does not resolve (name or service not known)"
    )
    assert other.subject == "ghcr.io/other/x:1"
    assert str(caught.value).count("does not resolve") == 2


def test_refused_logins_are_one_line_too(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    registry.auth = "basic"
    with pytest.raises(AuthenticationError) as caught:
        look("a:1", "b:1", "c:1")
    (problem,) = caught.value.problems
    assert problem.subject == "a:1, b:1, c:1"
    assert problem.message == f"`{registry.host}` wants a login"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "`{}` refused access: HTTP status 401"),
        (403, "`{}` refused access: HTTP status 403"),
        (451, "`{}` answers: HTTP status 451"),
    ],
)
def test_whatever_a_registry_says_to_all_is_one_line(
    registry: FakeRegistry, look: Callable[..., Plan], status: int, message: str
) -> None:
    registry.fault("GET", "/manifests/", times=-1, status=status)
    with pytest.raises(NetworkError) as caught:
        look("a:1", "b:1")
    (problem,) = caught.value.problems
    assert (problem.subject, problem.message) == ("a:1, b:1", message.format(registry.host))


def test_a_refusal_of_one_image_alone_says_of_what(registry: FakeRegistry, look: Callable[..., Plan]) -> None:
    registry.fault("GET", "/library/a/", times=-1, status=403)
    with pytest.raises(AuthenticationError) as caught:
        look("a:1")
    (problem,) = caught.value.problems
    assert problem.message == f"cannot get `a:1`: `{registry.host}` refused access to `library/a`: HTTP status 403"
