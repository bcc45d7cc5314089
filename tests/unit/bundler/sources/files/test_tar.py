"""Headers of tars that others made, some of whom meant harm."""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.sources.files import tar as tar_module
from bundler.sources.files.contents import Tar, follow
from bundler.sources.files.tar import Member, members
from bundles.errors import ArchiveError, DamagedArchiveError, IncompleteArchiveError
from tests.support.image_files import tar

LONG = "/".join(["a" * 60] * 5) + "/index.json"


class Stream:
    def __init__(self, data: bytes) -> None:
        self._data, self.position = data, 0

    def read(self, size: int) -> bytes:
        piece = self._data[self.position : self.position + size]
        self.position += len(piece)
        return piece

    def skip(self, size: int) -> None:
        self.position += size


def read(data: bytes) -> list[Member]:
    return list(members(Stream(data), "x.tar"))


def header(name: str = "x", size: int = 0, kind: bytes = b"0", link: str = "", form: int = tarfile.GNU_FORMAT) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(form)


def pax(records: bytes, name: str = "x", size: int = 0) -> bytes:
    extension = header("pax", len(records), b"x", form=tarfile.USTAR_FORMAT)
    return extension + records + bytes(-len(records) % 512) + header(name, size)


def record(key: str, value: bytes) -> bytes:
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body) + 2
    return str(length if length < 100 else length + 1).encode() + body


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_reads_as_tarfile_reads_it(form: int) -> None:
    names = ["./index.json", "blobs/sha256/abc", "empty", "p" * 90 + "/" + "n" * 90]
    names += [LONG, "ünïcode"] if form != tarfile.USTAR_FORMAT else []
    data = tar(
        {name: name.encode() * 300 if name != "empty" else b"" for name in names}, {"b/link": "../index.json"}, form
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(each.name, each.offset_data, each.size) for each in archive if each.isreg()]
    found = read(data)
    assert [(each.name, each.offset, each.size) for each in found if not each.target] == [
        (name[2:] if name.startswith("./") else name, offset, size) for name, offset, size in expected
    ]
    assert [(each.name, each.target) for each in found if each.target] == [("b/link", "index.json")]


def test_a_size_of_more_than_8_gib_in_both_forms() -> None:
    size = 9 << 30
    for data in (header(size=size), pax(record("size", str(size).encode()))):
        assert [each.size for each in read(data)] == [size]


def test_directories_are_passed_over_and_the_end_ends() -> None:
    data = header("d/", kind=b"5") + header("old/", kind=b"\0") + header("a") + bytes(1024) + header("b")
    assert [each.name for each in read(data)] == ["a"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("../x"), "`../x` leads out of it"),
        (header("a/../../x"), "leads out of it"),
        (header("/etc/passwd"), "`/etc/passwd` leads out of it"),
        (header("../d", kind=b"5"), "leads out of it"),
        (header("a/../x", kind=b"2", link="y"), "leads out of it"),
        (pax(record("path", b"../x")), "`../x` leads out of it"),
        (header("L", 5, b"L") + b"../x\0".ljust(512, b"\0") + header(), "`../x` leads out of it"),
        (header("a") + header("./a"), "two entries are called `a`"),
        (header("a") + header("a", kind=b"2", link="b"), "two entries are called `a`"),
        (header(kind=b"3"), "is no file, directory or link"),
        (header(kind=b"4"), "is no file, directory or link"),
        (header(kind=b"6"), "is no file, directory or link"),
        (header(kind=b"S"), "is no file, directory or link"),
        (header(kind=b"M"), "is no file, directory or link"),
        (pax(record("GNU.sparse.major", b"1")), "sparse files: write it without --sparse"),
        (pax(record("GNU.sparse.realsize", b"99999999999")), "sparse files"),
        (pax(record("size", b"-1")), "a size is `-1`"),
        (pax(record("size", b"9" * 30)), "a size is"),
        (pax(b"garbage\n"), "a pax header is damaged"),
        (pax(b"99 path=x\n"), "a pax header is damaged"),
        (header("L", 1 << 30, b"L"), "an entry has 1073741824 bytes of names: expected at most 65536"),
        (header("x", 1 << 30, b"x"), "an entry has 1073741824 bytes of names"),
        (pax(record("a", b"x" * 90) * 700), "an entry has 67200 bytes of names"),
        (header("L", 5000, b"L") + b"x".ljust(5120, b"x") + header(), "a name has 5000 bytes: expected at most 4096"),
        (header("K", 5000, b"K") + b"x".ljust(5120, b"x") + header(kind=b"2"), "a name has 5000 bytes"),
        (pax(b"5000 path=" + b"x" * 4989 + b"\n"), "a name has 4989 bytes"),
        (header(size=1 << 64), "an impossible size"),
        (header()[:-1] + b"x", "a tar header is damaged"),
        (b"\x89PNG" + bytes(600), "or it is no tar"),
        (b"x" * 512, "or it is no tar"),
    ],
)
def test_what_image_tools_never_write_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DamagedArchiveError) as caught:
        read(data)
    assert message in caught.value.message
    assert caught.value.message.startswith("`x.tar` cannot be used: ")


class Endless:
    """Headers without an end, made as they are read: what a few KB of zstd unpack to."""

    def __init__(self, entry: bytes) -> None:
        self._entry, self.position = entry, 0

    def read(self, size: int) -> bytes:
        start = self.position % len(self._entry)
        self.position += size
        return (self._entry * 2)[start : start + size]

    def skip(self, size: int) -> None:
        self.position += size


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (header("d/", kind=b"5"), "more than 2000 entries"),
        (header("g", 0, b"g"), "more than 2000 entries"),
        (header("L", 4001, b"L") + bytes(4096) + header("d/", kind=b"5"), "its names have more than 100000 bytes"),
        (pax(record("a", b"x" * 90) * 600).replace(header(), header("d/", kind=b"5")), "its names have more than"),
    ],
)
def test_what_unpacks_without_an_end_is_refused(entry: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_module, "_MAX_HEADERS", 2000)
    monkeypatch.setattr(tar_module, "_MAX_NAMES", 100_000)
    with pytest.raises(DamagedArchiveError) as caught:
        list(members(Endless(entry), "x.tar"))
    assert message in caught.value.message


def test_many_short_records_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_module, "_MAX_EXTENSIONS", 1 << 20)
    started = time.process_time()
    assert [each.name for each in read(pax(b"5 a=\n" * 200_000))] == ["x"]
    assert time.process_time() - started < 4


def test_chains_of_links_have_an_end() -> None:
    links = {f"l{number}": f"l{number + 1}" for number in range(1000)}
    assert follow("l960", links) == "l1000"
    assert follow("l0", links) == "l41"


def test_a_link_that_leads_out_leads_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar({}, {"index.json": "../../etc/passwd", "b": "/etc/passwd"}))
    with Tar(tmp_path / "x.tar") as found:
        assert found.size("index.json") is None
        assert found.place("b") == "/etc/passwd"
        assert found.size(found.place("b")) is None


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar({}, {"a": "b", "b": "a"}))
    with Tar(tmp_path / "x.tar") as found:
        assert found.size(found.place("a")) is None


@pytest.mark.parametrize("cut", [lambda data: data[:700], lambda data: data[:200]])
def test_a_header_that_is_cut_off(cut: Callable[[bytes], bytes]) -> None:
    data = header("L", 600, b"L") + bytes(1024)
    with pytest.raises(IncompleteArchiveError):
        read(cut(data))


def test_content_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar({"a": b"x" * 3000})[:2000])
    with pytest.raises(IncompleteArchiveError) as caught:
        Tar(path)
    assert "is cut short: 2000 bytes are there, and `a` ends at byte 3512" in caught.value.message


def test_no_bit_that_flips_in_a_header_goes_unnoticed_or_crashes() -> None:
    data = bytearray(tar({"a": b"x" * 600, "b": b"y"}))
    whole = read(bytes(data))
    for position in range(512):
        for bit in range(8):
            data[position] ^= 1 << bit
            with contextlib.suppress(ArchiveError):
                assert read(bytes(data)) == whole
            data[position] ^= 1 << bit
