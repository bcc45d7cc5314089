"""Indexes without what is missing."""

from __future__ import annotations

import json

from bundles.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from bundles.oci.digest import Digest
from installer.registry.sparse_index import rebuild


def test_what_means_nothing_here_is_left_out() -> None:
    kept, gone = (Descriptor.of(OCI_MANIFEST, data) for data in (b"kept", b"gone"))
    odd = [{"mediaType": OCI_MANIFEST, "digest": "sha512:" + "0" * 128, "size": 7}, None, "text", {"digest": 1}]
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*odd, gone.to_json(), kept.to_json()]}
    data = rebuild(json.dumps(value).encode(), lambda digest: digest == Digest.of(b"kept"), {})
    assert json.loads(data) == {**value, "manifests": [kept.to_json()]}


def test_an_index_of_nothing_stays_one() -> None:
    data = rebuild(b'{"schemaVersion": 2, "manifests": null}', lambda digest: True, {})
    assert json.loads(data) == {"schemaVersion": 2, "manifests": []}
