"""The headers of a tar that somebody else made: POSIX.1-1988, pax and GNU's long names; nothing is extracted.

Whoever made it may have meant harm. What image tools never write is refused with the whole file: names that lead out of
it, devices, sparse files, and two files of one name, of which nobody could say which counts.
"""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Iterator, Mapping
from typing import Optional, Protocol

from bundles.errors import DamagedArchiveError, IncompleteArchiveError

BLOCK = 512
# Names have some hundred bytes; hostile ones could fill the memory, and a compressed tar costs next to nothing.
_MAX_NAME = 4096
_MAX_EXTENSIONS = 64 << 10  # of one entry
_MAX_NAMES = 64 << 20  # all of them, with all extensions
_MAX_HEADERS = 1 << 20
_LINKS = {b"1": "", b"2": "symbolic"}
_SIZE_LIMIT = 1 << 63


class TarStream(Protocol):
    """What a tar is read from, from its beginning on."""

    position: int

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than `size` only at the end."""

    def skip(self, size: int) -> None:
        """Pass over bytes; there may be fewer."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in a tar, or a link: `target` is the name that it leads to, empty for a file."""

    name: str
    offset: int
    size: int
    target: str = ""


def members(stream: TarStream, where: str) -> Iterator[Member]:
    """Go through the files and links of a tar; the content of a file may be read before the next is asked for.

    Args:
        stream: stands at the tar's beginning.
        where: the file, for messages.

    Raises:
        IncompleteArchiveError: it ends within a header. Who reads content sees whether that is whole.
        DamagedArchiveError: it is no tar, or has what no image tool writes.
    """
    reader = _Headers(stream, where)
    seen: set[str] = set()
    while True:
        member = reader.next()
        if member is None:
            return
        if member.name in seen:
            raise reader.refuse(f"two entries are called `{member.name[:100]}`")
        seen.add(member.name)
        yield member
        reader.end_of(member)


class _Headers:
    def __init__(self, stream: TarStream, where: str) -> None:
        self._stream, self._where = stream, where
        self._headers = self._names = 0

    def next(self) -> Optional[Member]:
        """Return the next file or link; None at the end."""
        extensions: dict[str, bytes] = {}
        extended = 0
        while True:
            block = self._stream.read(BLOCK)
            # Some writers leave the end mark out; what is missing is found when it is asked for.
            if not block or block == bytes(BLOCK):
                return None
            if len(block) < BLOCK:
                what = "is cut short" if self._headers else "is no tar, or cut short"
                raise IncompleteArchiveError(f"`{self._where}` {what}: it ends within a tar header")
            if not _sum_is_right(block):
                raise self.refuse("a tar header is damaged, or it is no tar")
            self._headers += 1
            if self._headers > _MAX_HEADERS:
                raise self.refuse(f"it has more than {_MAX_HEADERS} entries")
            kind, size = block[156:157], self._number(block[124:136])
            if kind in (b"L", b"K", b"x", b"g"):
                extended += size
                if extended > _MAX_EXTENSIONS:
                    raise self.refuse(f"an entry has {extended} bytes of names: expected at most {_MAX_EXTENSIONS}")
            if kind in (b"L", b"K"):
                extensions["path" if kind == b"L" else "linkpath"] = self._extension(size).split(b"\0")[0]
            elif kind in (b"x", b"g"):
                found = self._pax(self._extension(size))
                # A global one would change every entry; the tools that write one (git) say nothing in it but a comment.
                extensions.update(found if kind == b"x" else {})
            else:
                member = self._member(block, kind, size, extensions)
                if member is not None:
                    return member
                extensions, extended = {}, 0

    def end_of(self, member: Member) -> None:
        """Go to where the next header begins."""
        end = member.offset + member.size + -member.size % BLOCK
        self._stream.skip(end - self._stream.position)

    def refuse(self, why: str) -> DamagedArchiveError:
        return DamagedArchiveError(f"`{self._where}` cannot be used: {why} (before byte {self._stream.position})")

    def _member(self, block: bytes, kind: bytes, size: int, extensions: Mapping[str, bytes]) -> Optional[Member]:
        """Read an entry; None for a directory."""
        if "size" in extensions:
            digits = extensions["size"]
            if not digits.isdigit() or len(digits) > 19:
                raise self.refuse(f"a size is `{digits[:40].decode('ascii', 'replace')}`")
            size = int(digits)
        raw = extensions.get("path") or _name(block)
        if kind == b"5" or (kind in (b"0", b"\0") and raw.endswith(b"/")):
            self._path(raw)
            self._stream.skip(size + -size % BLOCK if kind != b"5" else 0)
            return None
        name = self._path(raw)
        if kind in _LINKS:
            target = (extensions.get("linkpath") or block[157:257].split(b"\0")[0]).decode("utf-8", "surrogateescape")
            self._count(len(target))
            start = posixpath.dirname(name) if _LINKS[kind] else ""
            return Member(name, self._stream.position, 0, posixpath.normpath(posixpath.join(start, target)))
        if kind not in (b"0", b"\0", b"7"):
            raise self.refuse(f"`{name[:100]}` is no file, directory or link")
        if size >= _SIZE_LIMIT:
            raise self.refuse(f"`{name[:100]}` has an impossible size")
        return Member(name, self._stream.position, size)

    def _path(self, raw: bytes) -> str:
        self._count(len(raw))
        name = raw.decode("utf-8", "surrogateescape")
        if name.startswith("/") or ".." in name.split("/"):
            raise self.refuse(f"the name `{name[:100]}` leads out of it")
        return posixpath.normpath(name)

    def _count(self, size: int) -> None:
        if size > _MAX_NAME:
            raise self.refuse(f"a name has {size} bytes: expected at most {_MAX_NAME}")
        self._add(size)

    def _add(self, size: int) -> None:
        self._names += size
        if self._names > _MAX_NAMES:
            raise self.refuse(f"its names have more than {_MAX_NAMES} bytes")

    def _extension(self, size: int) -> bytes:
        self._add(size)
        data = self._stream.read(size)
        if len(data) < size:
            raise IncompleteArchiveError(f"`{self._where}` is cut short: it ends within a tar header")
        self._stream.skip(-size % BLOCK)
        return data

    def _pax(self, data: bytes) -> dict[str, bytes]:
        """Read pax records, `LENGTH KEY=VALUE` and a newline each."""
        found = {}
        offset = 0
        while offset < len(data):
            digits, _, _ = data[offset : offset + 20].partition(b" ")
            end = offset + (int(digits) if digits.isdigit() else 0)
            key, equals, value = data[offset + len(digits) + 1 : end].partition(b"=")
            if not equals or not value.endswith(b"\n") or end > len(data):
                raise self.refuse("a pax header is damaged")
            if key.startswith(b"GNU.sparse"):
                raise self.refuse("it has sparse files: write it without --sparse")
            found[key.decode("utf-8", "replace")] = value[:-1]
            offset = end
        return found

    def _number(self, field: bytes) -> int:
        if field[0] & 0x80:
            value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        else:
            digits = field.replace(b"\0", b" ").strip()
            value = int(digits, 8) if digits and not digits.strip(b"01234567") else 0 if not digits else _SIZE_LIMIT
        if value >= _SIZE_LIMIT:
            raise self.refuse("a tar header has an impossible size")
        return value


def _name(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    return prefix + b"/" + name if block[257:263] == b"ustar\0" and prefix else name


def _sum_is_right(block: bytes) -> bool:
    digits = block[148:156].replace(b"\0", b" ").strip()
    if not digits or digits.strip(b"01234567"):
        return False
    return int(digits, 8) == sum(block[:148]) + 8 * 32 + sum(block[156:])
