"""The packing list: one HTML page for the people who approve what is carried in, made to be read, printed and signed.

It needs nothing but itself: no script, no picture, no address of anything else. The same archive gives the same page.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Optional

from bundles.archive.manifest import TOOLS, Image, PlatformContent
from bundles.archive.reader import Archive
from bundles.archive.tape.answer import Answer
from bundles.archive.verify import check_image
from bundles.cli.recorded import TapeContent, tapes_of
from bundles.errors import UsageError
from bundles.oci.descriptor import CONFIG_TYPES, Descriptor
from bundles.oci.image import children, parse_json, parse_manifest
from bundles.runtime.progress import Progress
from bundles.runtime.sizes import human_size

_LABELS = "org.opencontainers.image."
# The labels that come first, because they say what a thing is and under which terms; then the others by name.
_FIRST = ("title", "description", "version", "licenses", "vendor", "authors", "source", "url", "revision", "created")
_ROLES = {
    "registry": "serves images on the host",
    "buildkit": "builds images on the host",
    "buildx": "the docker command's part in building",
    "binfmt": "runs programs of other processors",
    "frontend": "reads Dockerfiles",
    "scanner": "lists what is in an image that is built (SBOM)",
    "python": "runs the installer where there is no Python",
    "base": "what Dockerfiles start from",
    "tape": "what a build downloaded",
    "cache": "what a build's steps resulted in",
}
_CHECKSUM = re.compile(r"([0-9a-f]{64}) [ *](.+)", re.ASCII)
_NOT_SHOWN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_CHUNK = 1 << 20
_STYLE = """\
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", "Noto Sans CJK SC", sans-serif;
  color: #1b1f24; background: #fff;
  margin: 2rem auto; max-width: 76rem; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 2px solid #1b1f24; padding-bottom: .2rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; overflow-wrap: anywhere; }
h3 small { font-weight: normal; color: #57606a; }
p { margin: .3rem 0; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 .8rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #d0d7de; }
th { font-weight: 600; white-space: nowrap; }
thead th { border-bottom: 1px solid #1b1f24; }
td.size, th.size { text-align: right; padding-right: 1.2rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
code { font: .84em/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 1rem 0; }
dl.facts dt { font-weight: 600; } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.warning { border-left: 4px solid #9a6700; background: #fff8c5; padding: .5rem .8rem; margin: .8rem 0; }
.sign td { height: 2.6rem; border: 1px solid #57606a; padding: .3rem .6rem; width: 33%; color: #57606a; }
@media print {
  @page { margin: 14mm; }
  body { font-size: 9.5pt; margin: 0; max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; } tr { break-inside: avoid; } thead { display: table-header-group; }
}
"""


@dataclasses.dataclass(frozen=True)
class PackedFile:
    """A file to carry: the archive, or one of its parts. `source` says where its SHA-256 is from."""

    name: str
    size: int
    sha256: str
    source: str


def packed_files(archive: Archive, progress: Progress) -> list[PackedFile]:
    """Describe an archive's files; what the .sha256 file beside it does not list is read and hashed.

    Raises:
        ArchiveError: the medium failed.
    """
    known = _checksums(archive)
    found = []
    for path in archive.volume.paths:
        size = path.stat().st_size
        sha256, source = known.get(path.name, ("", ""))
        if not sha256:
            sha256, source = _hash(path, size, progress), "computed from the file"
        found.append(PackedFile(path.name, size, sha256, source))
    return found


def _checksums(archive: Archive) -> dict[str, tuple[str, str]]:
    first = archive.volume.paths[0]
    for name in (f"{first.name}.sha256", f"{first.stem}.sha256"):
        try:
            text = first.with_name(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        matches = filter(None, map(_CHECKSUM.fullmatch, text.splitlines()))
        return {match[2]: (match[1], f"as {name} says") for match in matches}
    return {}


def _hash(path: Path, size: int, progress: Progress) -> str:
    digest = hashlib.sha256()
    with progress.task(f"sha256 {path.name}", size) as task, path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            task.advance(len(chunk))
    return digest.hexdigest()


def packing_list(archive: Archive, files: Sequence[PackedFile]) -> str:
    """Return the page, as HTML.

    Raises:
        DamagedArchiveError: a manifest or config in the archive is damaged.
    """
    manifest = archive.manifest
    for image in manifest.images:
        check_image(archive, image)
    title = f"Packing list: {manifest.name}"
    base = [image for image in manifest.images if image.role not in TOOLS and image.role != "tape"]
    tools = [image for image in manifest.images if image.role in TOOLS]
    body = [
        f"<h1>{_text(title)}</h1>",
        f"<p>Bundle <code>{archive.digest}</code></p>",
        *_facts(archive),
        *_delta(archive),
        "<h2>Files to carry</h2>",
        _table(
            ("File", "Size", "SHA-256", ""),
            [(_text(file.name), _size(file.size), _code(file.sha256), _text(file.source)) for file in files],
        ),
        "<p>To compare on the other side: <code>sha256sum -c</code> with the .sha256 file that travels along.</p>",
        "<h2>Signature</h2>",
        f"<p>{_text(_signature(archive))}</p>",
        "<h2>Images</h2>",
        _table(
            ("Image", "For", "Platforms", "Size", "Digest"),
            [
                (
                    _text(image.reference.familiar),
                    _text(image.role),
                    _text(", ".join(_platform(content) for content in image.platforms)),
                    _size(sum(content.content_size for content in image.platforms)),
                    _code(str(image.root.digest)),
                )
                for image in manifest.images
            ],
        ),
        *[part for tape in tapes_of(archive) for part in _tape(archive, tape)],
        *[part for image in (*base, *tools) for part in _image(archive, image)],
        "<h2>Approval</h2>",
        '<table class="sign"><tbody><tr><td>Checked by</td><td>Date</td><td>Signature</td></tr></tbody></table>',
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _facts(archive: Archive) -> Iterator[str]:
    manifest = archive.manifest
    facts = {
        "Archive": archive.volume.paths[0].name,
        "Size": f"{human_size(archive.layout.size)} ({archive.layout.size} bytes)",
        "Images": f"{len(manifest.images)}, in {len(manifest.blobs)} blobs",
        "Platforms of base images": ", ".join(map(str, manifest.platforms)),
        "Platforms of the host": ", ".join(map(str, manifest.host_platforms)),
        "Made by": f"bundle {manifest.tool_version}",
    }
    yield '<dl class="facts">'
    yield from (f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items())
    yield "</dl>"


def _delta(archive: Archive) -> Iterator[str]:
    manifest = archive.manifest
    if manifest.bases:
        size = human_size(sum(blob.size for blob in manifest.required))
        bases = ", ".join(f"{_text(base.name)} <code>{base.digest}</code>" for base in manifest.bases)
        yield f'<p class="warning">A delta: {len(manifest.required)} layers ({size}) are not inside. They must be on '
        yield f"the host already, from {bases}.</p>"


def _signature(archive: Archive) -> str:
    if archive.signer:
        return f"Signed by {archive.signer}; the signature was checked when this list was made."
    if archive.manifest.signed:
        return "The archive carries a signature. It was not checked when this list was made."
    return "The archive is not signed."


def _image(archive: Archive, image: Image) -> Iterator[str]:
    purpose = _ROLES.get(image.role, "")
    yield f"<h3>{_text(image.reference.familiar)} <small>{_text(image.role)}: {_text(purpose)}</small></h3>"
    notes = [f"<p>{_text(str(image.reference))}<br>{_code(str(image.root.digest))}</p>"]
    if image.sparse:
        notes.append("<p>Only the platforms below are inside; the digest is that of the whole image at its origin.</p>")
    if image.merged:
        names = ", ".join(reference.familiar for reference in image.merged)
        notes.append(f"<p>Put together from {_text(names)}.</p>")
    yield from notes
    labels = _all_labels(archive, image)
    if labels:
        yield _table(("Label", "Value"), [(_text(name), _text(value)) for name, value in labels], "labels")
    for content in image.platforms:
        yield from _content(archive, content)


def _tape(archive: Archive, tape: TapeContent) -> Iterator[str]:
    """Show every URL that a build asked for, and what came."""
    image = tape.image
    yield f"<h3>{_text(image.reference.familiar)} <small>{_text(image.role)}: {_text(_ROLES[image.role])}</small></h3>"
    yield f"<p>{_text(str(image.reference))}<br>{_code(str(image.root.digest))}</p>"
    yield from (f'<p class="warning">{_text(note)}</p>' for note in tape.notes)
    yield _table(
        ("URL", "Type", "Size", "SHA-256"),
        [
            (
                _code(answer.url if answer.method == "GET" else f"{answer.method} {answer.url}"),
                _text(_kind(answer)),
                _size(answer.content.size if answer.content else 0),
                _code(answer.content.digest.hex) + _absent(archive, answer.content) if answer.content else "",
            )
            for answer in tape.tape
        ],
    )


def _kind(answer: Answer) -> str:
    """Say what came: its type, or where the answer leads, or that there was nothing."""
    if "location" in answer.headers:
        return f"{answer.status}: leads to {answer.headers['location']}"
    kind = answer.headers.get("content-type", "")
    return kind if answer.status == 200 and kind else f"{answer.status} {kind}"


def _content(archive: Archive, content: PlatformContent) -> Iterator[str]:
    parsed = parse_manifest(archive.read_document(content.manifest))
    yield f"<p><b>{_text(_platform(content))}</b> {_code(str(content.manifest.digest))}</p>"
    rows = [("config", parsed.config), *((f"layer {number}", layer) for number, layer in enumerate(parsed.layers, 1))]
    yield _table(
        ("", "Size", "Digest", "Type"),
        [
            (_text(name), _size(blob.size), _code(str(blob.digest)) + _absent(archive, blob), _text(blob.media_type))
            for name, blob in rows
        ],
    )


def _absent(archive: Archive, blob: Descriptor) -> str:
    return "" if archive.has(blob.digest) else " not inside"


def _all_labels(archive: Archive, image: Image) -> list[tuple[str, str]]:
    """Collect the org.opencontainers.image labels of configs and annotations of manifests, each value once."""
    found: dict[str, dict[str, None]] = {}
    for labels in _sources(archive, image):
        for name, value in labels.items():
            if isinstance(value, str) and name.startswith(_LABELS) and value:
                found.setdefault(name[len(_LABELS) :], {})[value] = None
    order = sorted(found, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    return [(name, " / ".join(found[name])) for name in order]


def _sources(archive: Archive, image: Image) -> Iterator[Mapping[str, Any]]:
    for document in dict.fromkeys((image.root, *(content.manifest for content in image.platforms))):
        data = archive.read_document(document)
        yield _object(parse_json(data, "the manifest").get("annotations"))
        for child in children(document, data):
            if child.media_type in CONFIG_TYPES and archive.has(child.digest):
                yield _labels_of(archive.read_document(child))


def _labels_of(config: bytes) -> Mapping[str, Any]:
    try:
        return _object(_object(parse_json(config, "the config").get("config")).get("Labels"))
    except UsageError:
        return {}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _platform(content: PlatformContent) -> str:
    return str(content.platform or "for any platform")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: Optional[str] = None) -> str:
    """Return a table of cells that are HTML already; a column that is called Size is set to the right."""
    classes = [' class="size"' if name == "Size" else "" for name in head]
    lines = [f'<table class="{kind}">' if kind else "<table>", "<thead><tr>"]
    lines += [f"<th{style}>{name}</th>" for name, style in zip(head, classes)]
    lines.append("</tr></thead><tbody>")
    for row in rows:
        lines.append("<tr>" + "".join(f"<td{style}>{cell}</td>" for cell, style in zip(row, classes)) + "</tr>")
    return "\n".join([*lines, "</tbody></table>"])


def _text(text: str) -> str:
    """Return text as HTML. What HTML does not allow, or what turns the order of letters, becomes a question mark."""
    return escape(_NOT_SHOWN.sub("?", text))


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _size(count: int) -> str:
    return f'<span title="{count} bytes">{human_size(count)}</span>'
