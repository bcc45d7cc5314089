"""`bundle verify` and `bundle inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from bundles.cli import Output, archive_argument, common_options
from bundles.manifest import Image
from bundles.progress import human_size
from bundles.reader import Archive


@click.command()
@archive_argument
@common_options
def verify(archive: Path, output: Output) -> None:
    """Check every byte of ARCHIVE against its digest."""
    with Archive(archive) as opened:
        opened.verify(output.progress)
        count, size = len(opened.manifest.blobs), opened.layout.size
        output.result(
            {"archive": str(archive), "digest": str(opened.digest), "size": size, "blobs": count, "verified": True},
            f"{archive}: {count} blobs, {human_size(size)}, every byte is right\nbundle {opened.digest}",
        )


@click.command()
@archive_argument
@common_options
def inspect(archive: Path, output: Output) -> None:
    """Show what is inside ARCHIVE: images, platforms, digests and sizes."""
    with Archive(archive) as opened:
        document = {
            "archive": str(archive),
            "digest": str(opened.digest),
            "size": opened.layout.size,
            "manifest": opened.manifest.to_json(),
        }
        output.result(document, _table(opened))


def _table(archive: Archive) -> str:
    manifest = archive.manifest
    rows = [("ROLE", "IMAGE", "PLATFORMS", "SIZE", "DIGEST")]
    for image in manifest.images:
        platforms = ", ".join(str(content.platform or "any") for content in image.platforms)
        note = " (sparse)" if image.sparse else ""
        size = human_size(sum(content.content_size for content in image.platforms))
        rows.append((image.role, _name(image), platforms + note, size, str(image.root.digest)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"bundle     {manifest.name}",
        f"digest     {archive.digest}",
        f"archive    {archive.path}, {human_size(archive.layout.size)}, {len(manifest.blobs)} blobs",
        f"platforms  {', '.join(map(str, manifest.platforms))}",
        f"hosts      {', '.join(map(str, manifest.host_platforms))}",
        f"made by    bundle {manifest.tool_version}",
        "",
    ]
    lines += ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]) for row in rows]
    return "\n".join(lines)


def _name(image: Image) -> str:
    if image.merged:
        return f"{image.reference.familiar} (merged from {len(image.merged)})"
    return image.reference.familiar
