"""`bundle export`: images out of an archive, in a file that other tools take."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Optional

import click

from bundles.archive.export import Export, ExportedImage, as_layout, for_docker
from bundles.archive.reader import Archive
from bundles.cli.archive_argument import ArchiveArgument, archive_argument
from bundles.cli.image_argument import find_images
from bundles.cli.output import Output, common_options, show_bytes
from bundles.errors import BundleError, DiskFullError, UsageError, reason
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.runtime.filesystem import (
    check_ending,
    check_name,
    free_space,
    largest_file,
    no_directory,
    partial_of,
    probe,
    write_whole,
)
from bundles.runtime.program import own_command, quote, running_archive
from bundles.runtime.sizes import human_size

_FORMATS = {"docker-archive": for_docker, "oci-archive": as_layout}
_FORM = "docker-archive:FILE|oci-archive:FILE"
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Target:
    """Where images go: the format, and the file; None for stdout."""

    format: str
    path: Optional[Path]

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `FORMAT:FILE`.

        Raises:
            UsageError: it is another format, or none; or a name stands behind the file, as skopeo has it.
        """
        kind, colon, file = text.partition(":")
        if kind not in _FORMATS or not file:
            what = "names no file" if kind in _FORMATS and colon else "is not known"
            meant = kind if kind in _FORMATS else "oci-archive" if kind.startswith("oci") else "docker-archive"
            raise UsageError(
                f"`--to {text}` {what}: expected docker-archive:FILE or oci-archive:FILE, or - for FILE",
                hint=f"--to {meant}:{quote(file or ('' if colon else text) or 'image.tar')}",
            )
        check_ending(file)
        before = _before_name(file)
        if before != file:
            raise UsageError(
                f"`--to {text}` has a name behind the file: images keep the names that they have in the archive",
                hint=f"--to {kind}:{quote(before)}",
            )
        return cls(kind, None if file == "-" else Path(file))


def _before_name(file: str) -> str:
    """Return the file of `debian.tar:debian:12`; all of it where the colon can be meant for the name of the file."""
    drive, rest = os.path.splitdrive(file)
    before, _, name = rest.partition(":")
    try:
        Reference.parse(name)
    except UsageError:
        return file
    if not before or file.endswith(".tar") or ("/" in name and Path(file).parent.is_dir()):
        return file
    return drive + before


@click.command()
@archive_argument(signers=True)
@click.argument("images", metavar="IMAGE...", nargs=-1)
@click.option("--to", "target", metavar=_FORM, required=True, help="The format, and the file to write; - is stdout.")
@click.option("--platform", "platforms", metavar="P,P", multiple=True, help="Only these platforms.")
@common_options
def export(
    *, archive: ArchiveArgument, images: tuple[str, ...], target: str, platforms: tuple[str, ...], output: Output
) -> None:
    """Write IMAGEs of ARCHIVE to a file that other tools take, such as `docker load`.

    \b
    bundle export offline.tar debian:12 --to docker-archive:debian.tar --platform linux/amd64
    bundle export offline.tar debian:12 gcc:12 --to oci-archive:both.tar
    python3 offline.tar export registry:3 --to docker-archive:- | ssh HOST docker load
    """
    archive, names = _images_after(archive, images)
    place, chosen = Target.parse(target), Platform.parse_list(",".join(platforms))
    _check_target(place, as_json=output.json)
    with archive.open() as opened:
        found = find_images(opened.manifest, names, own_command(f"inspect {quote(archive.path)}"))
        what = _FORMATS[place.format](opened, found, chosen)
        written = True
        names_text = ", ".join(image.image.reference.familiar for image in what.images)
        with output.progress.task(f"export {names_text}", what.tar.content_size) as task:
            pieces = what.tar.stream(opened, task.advance)
            if place.path is None:
                for piece in pieces:
                    show_bytes(piece)
            else:
                written = _write(opened, place.path, what.tar.size, pieces)
    document = {
        "archive": str(archive.path),
        "bundle": str(opened.digest),
        "format": place.format,
        "file": str(place.path) if place.path else None,
        "size": what.tar.size,
        "written": written,
        "images": list(map(_to_json, what.images)),
        "notes": list(what.notes),
    }
    text = "\n".join(_lines(place, what, written=written))
    if place.path:
        output.result(document, text)
    else:
        output.progress.message(text)


def _images_after(archive: ArchiveArgument, images: tuple[str, ...]) -> tuple[ArchiveArgument, tuple[str, ...]]:
    """Tell the archive from the images: given to an archive that runs, what is no file is the first of the images.

    Raises:
        UsageError: there is no image.
    """
    running = running_archive()
    if running is not None and archive.path != running and (not images or not archive.path.is_file()):
        images, archive = (str(archive.path), *images), dataclasses.replace(archive, path=running)
    if not images:
        form = f"export {'' if running else 'ARCHIVE '}IMAGE --to docker-archive:FILE"
        raise UsageError("the image is missing", hint=own_command(form))
    return archive, images


def _check_target(target: Target, *, as_json: bool) -> None:
    path = target.path
    if path is None:
        if as_json:
            raise UsageError(
                "the image and --json cannot both go to stdout: expected the name of a file",
                hint=f"name a file: --to {target.format}:FILE",
            )
        # Python has none where its parent has closed it.
        if not sys.stdout:
            raise UsageError("stdout is closed", hint=f"name a file: --to {target.format}:FILE, or leave stdout open")
        if sys.stdout.isatty():
            raise UsageError(
                "stdout is a terminal, and what is written is not for reading",
                hint=f"name a file: --to {target.format}:FILE, or pass it on: | docker load",
            )
        return
    check_name(path, "name another file after --to")
    try:
        if path.is_dir():
            hint = f"name a file: --to {target.format}:{quote(path / 'image.tar')}"
            raise UsageError(f"`{path}` is a directory", hint=hint)
        # The longest of the names that it has.
        probe(partial_of(path))
    except OSError as error:
        shown = path if len(path.name) < 100 else f"{path.name[:40]}..."
        raise UsageError(f"`{shown}` cannot be written: {reason(error)}", hint="name another file after --to") from None
    if path.exists() and not path.is_file():
        raise UsageError(f"`{path}` is a device, a pipe or a socket", hint=f"for a pipe: --to {target.format}:-")
    if not path.parent.is_dir():
        raise no_directory(path.parent)


def _write(archive: Archive, path: Path, size: int, pieces: Iterator[bytes]) -> bool:
    """Write the file whole, or leave nothing; False when it is there already, every byte of it right.

    Raises:
        UsageError: another file is there, or it cannot be written.
        BundleError: another process writes it.
        DiskFullError: there is no room for it.
    """
    if path.exists():
        if any(path.samefile(part) for part in archive.volume.paths):
            raise UsageError(f"`{path}` is the archive itself", hint="name another file after --to")
        if path.stat().st_size == size and _has_content(path, pieces):
            return False
        raise UsageError(
            f"`{path}` exists and is not what would be written, so it is not replaced",
            hint=f"name another file after --to, or rm {quote(path)}",
        )
    limit, free = largest_file(path.parent), free_space(path.parent)
    if limit is not None and size > limit:
        raise UsageError(
            f"`{path.parent}` is a FAT file system, where a file has at most {limit} bytes: this one has {size}",
            hint="name a file on another file system after --to",
        )
    if free < size:
        raise _no_room(path, size, f"{human_size(free)} are free")
    try:
        write_whole(path, _if_absent(path, pieces))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(path, size, "no space is left") from None
        raise
    return True


def _if_absent(path: Path, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pass them on, unless the file is there by now: the first is asked for when no other process can write it."""
    if path.exists():
        raise BundleError(
            f"`{path}` has been written by another process meanwhile",
            hint="run the same command again: it says whether that is what was to be written",
        )
    yield from pieces


def _no_room(path: Path, size: int, what: str) -> DiskFullError:
    return DiskFullError(
        f"`{path}` needs {human_size(size)}, and {what}", hint="make room there, or name a file elsewhere after --to"
    )


def _has_content(path: Path, pieces: Iterable[bytes]) -> bool:
    with path.open("rb") as file:
        return all(file.read(len(piece)) == piece for piece in pieces)


def _to_json(image: ExportedImage) -> dict[str, Any]:
    return {
        "reference": str(image.image.reference),
        "role": image.image.role,
        "name": str(image.name) if image.name else None,
        "digest": str(image.root.digest),
        "platforms": [str(content.platform) if content.platform else None for content in image.contents],
        **({"id": str(image.config.digest)} if image.config else {}),
    }


def _lines(target: Target, what: Export, *, written: bool) -> list[str]:
    lines = [f"{target.path or 'stdout'}: {human_size(what.tar.size)}, {target.format}"]
    if not written:
        lines.append("it was there already, every byte of it right: nothing was written")
    for image in what.images:
        platforms = ", ".join(str(content.platform or "any") for content in image.contents)
        identity = f"  id {image.config.digest}" if image.config else ""
        name = image.name.familiar if image.name else image.image.reference.familiar
        lines.append(f"  {name}  {platforms}  {image.root.digest}{identity}")
    lines += [f"note: {note}" for note in what.notes]
    if target.format == "docker-archive" and target.path:
        lines.append(f"next: docker load -i {quote(target.path)}")
    return lines
