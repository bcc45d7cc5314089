"""Coverage-guided fuzzing of everything that reads an archive, with atheris (which is not among the project's needs).

    pip install atheris && python3 -m tests.campaign.fuzz -max_total_time=600

Whatever the bytes are: only errors of our own tree may come out, nothing is written, and nothing takes long.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["bundles", "installer.model.selection"]):
    from bundler.writing.journal import _read
    from bundles.archive.layout import OCI_LAYOUT, checksum_line, header, padding
    from bundles.archive.manifest import BundleManifest
    from bundles.archive.reader import Archive
    from bundles.archive.signature import is_well_formed
    from bundles.archive.verify import check_documents, verify_archive
    from bundles.errors import BundleError
    from bundles.oci.descriptor import Descriptor
    from bundles.oci.digest import Digest
    from bundles.oci.image import config_platform, media_type_of, parse_index, parse_json, parse_manifest
    from bundles.oci.platform import Platform
    from bundles.oci.reference import Reference
    from installer.model.registry.address import Address
    from installer.model.registry.destination import Destination
    from installer.model.selection import select

from tests.support.archives import example

_DIRECTORY = Path(tempfile.mkdtemp(prefix="fuzz-"))
_SAMPLE = example().write(_DIRECTORY / "sample.tar").path.read_bytes()
with Archive(_DIRECTORY / "sample.tar") as _opened:
    _MANIFEST = json.loads(json.dumps(_opened.manifest.to_json()))


def archive(manifest: bytes, rest: bytes) -> bytes:
    """An archive whose first entries are right, with any bundle.json, and anything behind it."""
    line = checksum_line(Digest.of(manifest))
    return (
        header("oci-layout", len(OCI_LAYOUT))
        + OCI_LAYOUT.ljust(512, b"\0")
        + header("bundle.json.sha256", len(line))
        + line.ljust(512, b"\0")
        + header("bundle.json", len(manifest))
        + manifest
        + bytes(padding(len(manifest)))
        + rest
    )


def read(data: bytes) -> None:
    path = _DIRECTORY / "offline.tar"
    path.write_bytes(data)
    with Archive(path) as opened:
        try:
            check_documents(opened)
            select(opened, Destination.of(Address.parse("localhost:5000")), ())
        finally:
            verify_archive(opened)


def edited(provider: atheris.FuzzedDataProvider) -> bytes:
    """The sample's bundle.json with a few values replaced, and its contents behind it."""
    value = json.loads(json.dumps(_MANIFEST))
    for _ in range(provider.ConsumeIntInRange(1, 3)):
        place = value
        for _ in range(6):
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = keys[provider.ConsumeIntInRange(0, len(keys) - 1)]
            if isinstance(place[key], (dict, list)) and provider.ConsumeBool():
                place = place[key]
                continue
            place[key] = provider.PickValueInList(
                [None, -1, 0, 1 << 70, True, "", "x", [], {}, [[]], "sha256:" + "0" * 64, "a/b/c/d", 1.5,
                 provider.ConsumeUnicodeNoSurrogates(20)]
            )  # fmt: skip
            break
    manifest = (json.dumps(value, indent=1) + "\n").encode()
    start = 2560 + int(_SAMPLE[2048 + 124 : 2048 + 135], 8)
    start += -start % 512
    return archive(manifest, _SAMPLE[start:])


def one_input(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    kind = provider.ConsumeIntInRange(0, 6)
    try:
        if kind == 0:
            read(edited(provider))
        elif kind == 1:
            read(archive(provider.ConsumeBytes(2000), provider.ConsumeBytes(1 << 16)))
        elif kind == 2:
            changed = bytearray(_SAMPLE[: provider.ConsumeIntInRange(0, len(_SAMPLE))])
            for _ in range(provider.ConsumeIntInRange(0, 4)):
                if changed:
                    changed[provider.ConsumeIntInRange(0, min(len(changed), 12_000) - 1)] = provider.ConsumeIntInRange(
                        0, 255
                    )
            read(bytes(changed))
        elif kind == 3:
            BundleManifest.parse(provider.ConsumeBytes(1 << 16))
        elif kind == 4:
            text = provider.ConsumeUnicode(200)
            for parse in (Reference.parse, Platform.parse, Platform.parse_list, Digest, Address.parse):
                try:
                    parse(text)
                except BundleError:
                    continue
        elif kind == 5:
            raw = provider.ConsumeBytes(1 << 16)
            is_well_formed(raw)
            _read(raw, "bundle x whole", "boot")
            for parse_bytes in (parse_index, parse_manifest, config_platform, lambda each: media_type_of(each, "")):
                try:
                    parse_bytes(raw)
                except BundleError:
                    continue
        else:
            Descriptor.from_json(parse_json(provider.ConsumeBytes(1 << 12), "it"))
    except BundleError:
        pass


def main() -> None:
    assert hashlib.sha256(_SAMPLE).digest()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
