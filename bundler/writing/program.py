"""The program that travels behind the tar: a zip of this tool and what it needs, for `python3 offline.tar install`.

Only pure Python goes in, uncompressed, in a fixed order with fixed times: the same tool gives the same bytes with every
version of Python and zlib. `bundler` stays out: what runs at the air-gapped host cannot read from a registry.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from bundles.errors import BundleError

_PACKAGES = (
    "bundles",
    "installer",
    "certifi",
    "charset_normalizer",
    "click",
    "docker",
    "idna",
    "packaging",
    "requests",
    "tqdm",
    "urllib3",
)
_OWN = ("bundles", "installer")
_DATA = frozenset({"cacert.pem"})
_LICENCES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS")
_EPOCH = (1980, 1, 1, 0, 0, 0)

# Runs on any Python from 2.7, to say in one line that it is too old.
_MAIN = b"""\
import sys

if sys.version_info < (3, 9):
    archive = sys.argv[0]
    if archive[-4:-3] == "." and archive[-3:].isdigit():
        archive = archive[:-3] + "001"
    sys.exit(
        "error: this program needs python 3.9 or later, and this is python %d.%d\\n"
        "  next: run it with a later python3, or without one: tar -xOf %s install.sh | sh -s -- %s install"
        % (sys.version_info[0], sys.version_info[1], archive, archive)
    )

from bundles.cli.start import main

main()
"""


def program() -> bytes:
    """Make the zip, as bytes: some 4 MB.

    Raises:
        BundleError: a package that must travel is not installed.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "__main__.py", _MAIN)
        for name in _PACKAGES:
            for path, data in sorted(_files(name)):
                _add(archive, path, data)
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def _files(name: str) -> Iterator[tuple[str, bytes]]:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise BundleError(f"the package `{name}`, which must travel in the archive, is not installed")
    root = Path(next(iter(spec.submodule_search_locations)))
    for path in root.rglob("*"):
        if path.suffix == ".py" or path.name in _DATA or (name in _OWN and path.suffix == ".sh"):
            yield f"{name}/{path.relative_to(root).as_posix()}", _text(path)
    if name not in _OWN:
        yield from _licences(name)


def _licences(name: str) -> Iterator[tuple[str, bytes]]:
    for file in metadata.files(name.replace("_", "-")) or ():
        if ".dist-info/" in str(file) and file.name.upper().startswith(_LICENCES):
            yield f"licences/{name}/{file.name}", _text(Path(str(file.locate())))


def _text(path: Path) -> bytes:
    """Read a text; a wheel for Windows may have other ends of lines, and an archive of there has the same bytes."""
    return path.read_bytes().replace(b"\r\n", b"\n")
