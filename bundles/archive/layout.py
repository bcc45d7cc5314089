"""Where every byte of an archive stands. The layout follows from the manifest alone, before any content is there.

The archive is a tar (POSIX.1-1988 headers, GNU base-256 sizes from 8 GiB) whose entries have a fixed order and whose
headers hold nothing that could differ between two runs:

    oci-layout          the OCI image layout marker
    bundle.json.sha256  the digest of bundle.json, in the format of `sha256sum -c`
    bundle.json         the manifest of the bundle
    bundle.json.sig     in a signed bundle, the signature of bundle.json, filled up to 8 KiB
    index.json ...      the small files that bundle.json lists
    blobs/sha256/...    the blobs in the order of bundle.json: manifests and configs, then layers, each by digest
    (two zero blocks)   end of archive; tar readers stop here
    (zip)               the program, for `python3 offline.tar`; Python looks for it from the end of the file

See docs/format.md.
"""

from __future__ import annotations

import dataclasses
import tarfile
from collections.abc import Iterable

from bundles.oci.digest import Digest

BLOCK = 512
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
OCI_LAYOUT_NAME = "oci-layout"
CHECKSUM_NAME = "bundle.json.sha256"
MANIFEST_NAME = "bundle.json"
SIGNATURE_NAME = "bundle.json.sig"
# Its size has to be known before it is made. That of an RSA key of 16,384 bits has 6 KB.
SIGNATURE_SIZE = 8192
END_OF_TAR = bytes(2 * BLOCK)


def header(name: str, size: int) -> bytes:
    """Return the 512-byte tar header of a regular file: mode 0644, ids, times and owner names zero or empty."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def padding(size: int) -> int:
    """Return how many zero bytes follow content of `size` bytes, up to the next block."""
    return -size % BLOCK


def checksum_line(digest: Digest) -> bytes:
    """Return the content of bundle.json.sha256."""
    return f"{digest.hex}  {MANIFEST_NAME}\n".encode()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tar entry: `offset` is that of its header, in bytes from the start of the archive."""

    name: str
    size: int
    offset: int

    @property
    def data_offset(self) -> int:
        return self.offset + BLOCK

    @property
    def end(self) -> int:
        """Return where the next header begins."""
        return self.data_offset + self.size + padding(self.size)


class Layout:
    """The place of every entry, in order.

    Args:
        contents: name and size in bytes of each entry, in archive order.
        program_size: the size in bytes of the zip behind the tar.
    """

    def __init__(self, contents: Iterable[tuple[str, int]], program_size: int) -> None:
        entries = []
        offset = 0
        for name, size in contents:
            entry = Entry(name, size, offset)
            entries.append(entry)
            offset = entry.end
        self.entries = tuple(entries)
        self.end_of_entries = offset
        self.program_offset = offset + len(END_OF_TAR)
        self.program_size = program_size
        self.size = self.program_offset + program_size
        self._by_name = {entry.name: entry for entry in entries}

    def entry(self, name: str) -> Entry:
        """Return the entry of that name.

        Raises:
            KeyError: there is none.
        """
        return self._by_name[name]

    def blob(self, digest: Digest) -> Entry:
        """Return the entry of that blob.

        Raises:
            KeyError: it is not in the archive.
        """
        return self._by_name[digest.blob_path]

    def holds(self, digest: Digest) -> bool:
        """Tell whether that blob is in the archive."""
        return digest.blob_path in self._by_name
