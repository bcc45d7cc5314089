"""`bundle verify` and `bundle inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

from bundles.archive.manifest import Image
from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
from bundles.cli.archive_argument import ArchiveArgument, archive_argument
from bundles.cli.output import Output, OutputFile, common_options
from bundles.cli.recorded import tapes_of
from bundles.runtime.filesystem import write_whole
from bundles.runtime.sizes import human_size


@click.command()
@archive_argument(signers=True)
@common_options
def verify(archive: ArchiveArgument, output: Output) -> None:
    """Check every byte of ARCHIVE against its digest."""
    with archive.open() as opened:
        verify_archive(opened, output.progress)
        count, size = len(opened.manifest.blobs), opened.layout.size
        document = {
            "archive": str(archive.path),
            "digest": str(opened.digest),
            "size": size,
            "blobs": count,
            "verified": True,
            "signed": opened.manifest.signed,
            "signer": opened.signer,
            "requiredBlobs": len(opened.manifest.required),
        }
        parts = f" in {len(opened.volume.paths)} parts" if len(opened.volume.paths) > 1 else ""
        lines = [f"{archive.path}: {count} blobs, {human_size(size)}{parts}, every byte is right"]
        lines += [f"bundle {opened.digest}", *_signature_lines(opened), *_delta_lines(opened)]
        output.result(document, "\n".join(lines))


@click.command()
@archive_argument(signers=True)
@click.option("--html", type=OutputFile(), metavar="FILE", help="Write a packing list to read, print and approve.")
@common_options
def inspect(archive: ArchiveArgument, html: Optional[Path], output: Output) -> None:
    """Show what is inside ARCHIVE: images, platforms, digests and sizes; with --json every URL that was recorded."""
    with archive.open() as opened:
        if html:
            from bundles.cli.packing_list import packed_files, packing_list

            write_whole(html, [packing_list(opened, packed_files(opened, output.progress)).encode()])
            output.progress.message(f"packing list: {html}")
        tapes = tapes_of(opened)
        document = {
            "archive": str(archive.path),
            "digest": str(opened.digest),
            "size": opened.layout.size,
            "files": [str(path) for path in opened.volume.paths],
            "signed": opened.manifest.signed,
            "signer": opened.signer,
            "html": str(html) if html else None,
            "manifest": opened.manifest.to_json(),
            "recorded": [tape.to_json() for tape in tapes],
        }
        lines = [line for tape in tapes for line in tape.lines()]
        output.result(document, "\n".join([_table(opened), *(["", *lines] if lines else [])]))


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
        *_signature_lines(archive),
        *_delta_lines(archive),
        "",
    ]
    lines += ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]) for row in rows]
    return "\n".join(lines)


def _signature_lines(archive: Archive) -> list[str]:
    if archive.signer:
        return [f"signed by  {archive.signer}"]
    return ["signed     by whom was not asked: --allowed-signers FILE"] if archive.manifest.signed else []


def _delta_lines(archive: Archive) -> list[str]:
    """Say what is not inside."""
    manifest = archive.manifest
    if not manifest.bases:
        return []
    size = human_size(sum(blob.size for blob in manifest.required))
    lines = [f"delta      {len(manifest.required)} layers ({size}) are not inside; the host has to have them from"]
    return lines + [f"           {base.name} {base.digest}" for base in manifest.bases]


def _name(image: Image) -> str:
    if image.merged:
        return f"{image.reference.familiar} (merged from {len(image.merged)})"
    return image.reference.familiar
