"""`bundle diff`: what changes from one bundle to another, and what that costs to carry."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, Optional

import click

from bundles.archive.manifest import BundleManifest, Image
from bundles.archive.reader import Archive, read_json_start, read_manifest
from bundles.cli.output import Output, common_options
from bundles.cli.recorded import tapes_of
from bundles.runtime.sizes import human_size

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("old", type=_PATH, metavar="A")
@click.argument("new", type=_PATH, metavar="B")
@common_options
def diff(old: Path, new: Path, output: Output) -> None:
    """Show what changes from bundle A to bundle B: images added, removed and moved, and the bytes each way.

    A and B are archives, or the bundle.json of archives (tar -xOf ARCHIVE bundle.json). Of two archives the URLs that
    were recorded are compared, too.
    """
    (old_digest, before), (new_digest, after) = read_manifest(old), read_manifest(new)
    document = {"from": str(old_digest), "to": str(new_digest), **difference(before, after), "urls": _urls(old, new)}
    output.result(document, _text(document, str(old), str(new)))


def difference(before: BundleManifest, after: BundleManifest) -> dict[str, Any]:
    """Compare images: `added`, `removed`, `moved` to another digest, with other `platforms`; and `bytes`.

    Bytes count manifests, configs and layers, each once, those too that a delta leaves to its base: `added` are what a
    delta from the first to the second carries, `removed` what only the first needs, `common` what both do.
    """
    old = {str(image.reference): image for image in before.images}
    new = {str(image.reference): image for image in after.images}
    both = [(old[name], new[name]) for name in new if name in old]
    sizes_before, sizes_after = _sizes(before), _sizes(after)
    return {
        "added": [_entry(image) for name, image in new.items() if name not in old],
        "removed": [_entry(image) for name, image in old.items() if name not in new],
        "moved": [
            {**_entry(second), "old": str(first.root.digest)}
            for first, second in both
            if first.root.digest != second.root.digest
        ],
        "platforms": [
            {
                "reference": second.reference.familiar,
                "added": [name for name in _platforms(second) if name not in _platforms(first)],
                "removed": [name for name in _platforms(first) if name not in _platforms(second)],
            }
            for first, second in both
            if set(_platforms(first)) != set(_platforms(second))
        ],
        "bytes": {
            "added": sum(size for digest, size in sizes_after.items() if digest not in sizes_before),
            "removed": sum(size for digest, size in sizes_before.items() if digest not in sizes_after),
            "common": sum(size for digest, size in sizes_after.items() if digest in sizes_before),
        },
    }


def _urls(old: Path, new: Path) -> Optional[dict[str, list[str]]]:
    """Compare what builds downloaded: URLs `added`, `removed`, and `changed`; None unless both are archives."""
    before, after = _contents(old), _contents(new)
    if before is None or after is None:
        return None
    return {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(url for url in before.keys() & after.keys() if before[url] != after[url]),
    }


def _contents(path: Path) -> Optional[dict[str, frozenset[tuple[object, ...]]]]:
    """Read what is behind each URL, redirects and what is not there too; one may have several answers.

    None when this is no archive.
    """
    if read_json_start(path) is not None:
        return None
    found: defaultdict[str, set[tuple[object, ...]]] = defaultdict(set)
    with Archive(path) as archive:
        for answer in (answer for tape in tapes_of(archive) for answer in tape.tape):
            digest = answer.content.digest if answer.content else None
            found[answer.url].add((answer.method, answer.status, answer.headers.get("location"), digest))
    return {url: frozenset(answers) for url, answers in found.items()}


def _sizes(manifest: BundleManifest) -> dict[str, int]:
    return {str(blob.digest): blob.size for blob in (*manifest.blobs, *manifest.required)}


def _platforms(image: Image) -> list[str]:
    return [str(content.platform or "any") for content in image.platforms]


def _entry(image: Image) -> dict[str, Any]:
    return {
        "reference": image.reference.familiar,
        "role": image.role,
        "digest": str(image.root.digest),
        "platforms": _platforms(image),
        "size": sum(content.content_size for content in image.platforms),
    }


def _text(document: dict[str, Any], old: str, new: str) -> str:
    lines = [f"from  {old}  {document['from']}", f"to    {new}  {document['to']}", ""]
    for what in ("added", "removed"):
        lines += [
            f"{what:<9}  {entry['reference']}  {', '.join(entry['platforms'])}  {human_size(entry['size'])}"
            for entry in document[what]
        ]
    for entry in document["moved"]:
        lines.append(f"moved      {entry['reference']}  {entry['old']} -> {entry['digest']}")
    for entry in document["platforms"]:
        changes = [f"+{name}" for name in entry["added"]] + [f"-{name}" for name in entry["removed"]]
        lines.append(f"platforms  {entry['reference']}  {' '.join(changes)}")
    for what, urls in (document["urls"] or {}).items():
        lines += [f"url {what:<7} {url}" for url in urls]
    if len(lines) == 3:
        lines.append("the same images")
    size = document["bytes"]
    return "\n".join(
        [
            *lines,
            "",
            f"{human_size(size['added'])} only in the second, {human_size(size['removed'])} only in the first, "
            f"{human_size(size['common'])} in both",
        ]
    )
