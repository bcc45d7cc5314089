"""The packing list in a real browser: it renders, fits its window, and prints on pages."""

from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from bundles.archive.reader import Archive
from bundles.cli.packing_list import packed_files, packing_list
from bundles.runtime.progress import Silent
from tests.support.archives import example

pytestmark = pytest.mark.e2e

WIDTH, HEIGHT = 1200, 1400


@pytest.fixture(scope="module")
def chromium() -> str:
    from tests.testbed import apt

    apt.install(("chromium", "fonts-dejavu-core"))
    return "/usr/bin/chromium"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("page")
    with Archive(example().write(directory / "offline.tar").path) as archive:
        (directory / "list.html").write_text(packing_list(archive, packed_files(archive, Silent())))
    return directory / "list.html"


def browse(chromium: str, page: Path, *options: str) -> None:
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += [
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [chromium, "--headless", *quiet, profile, *options, page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def pixels(path: Path) -> list[list[int]]:
    """The brightness of each pixel of a PNG (8 bit RGB or RGBA, not interlaced), row by row."""
    data = path.read_bytes()
    position, body = 8, b""
    width = height = channels = 0
    while position < len(data):
        size, kind = struct.unpack(">I4s", data[position : position + 8])
        chunk = data[position + 8 : position + 8 + size]
        position += size + 12
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunk)
            assert (depth, interlaced) == (8, 0)
            channels = {2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            body += chunk
    raw = zlib.decompress(body)
    stride = width * channels
    before = bytearray(stride)
    rows = []
    for number in range(height):
        start = number * (stride + 1)
        row = unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + stride]), before, channels)
        rows.append([sum(row[index : index + 3]) // 3 for index in range(0, stride, channels)])
        before = row
    return rows


def unfiltered(kind: int, row: bytearray, above: bytearray, channels: int) -> bytearray:
    """One row of a PNG (PNG specification, "Filtering")."""
    for index in range(len(row) if kind else 0):
        left = row[index - channels] if index >= channels else 0
        corner = above[index - channels] if index >= channels else 0
        up = above[index]
        guess = left + up - corner
        nearest = min((left, up, corner), key=lambda value: abs(guess - value))
        row[index] = (row[index] + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
    return row


def test_it_renders(chromium: str, page: Path) -> None:
    picture = page.with_name("picture.png")
    browse(chromium, page, f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}")
    rows = pixels(picture)
    assert (len(rows[0]), len(rows)) == (WIDTH, HEIGHT)
    dark = sum(value < 128 for row in rows for value in row)
    assert 0.01 < dark / (WIDTH * HEIGHT) < 0.2  # text on white
    # The lines under the headings: the style is applied, and nothing is wider than the window.
    lines = [number for number, row in enumerate(rows) if sum(value < 64 for value in row) > 0.8 * WIDTH]
    assert len(lines) >= 6
    assert all(value > 240 for row in rows for value in (*row[:8], *row[-8:]))


def test_it_fits_a_narrow_window(chromium: str, page: Path) -> None:
    picture = page.with_name("narrow.png")
    browse(chromium, page, f"--window-size=700,{HEIGHT}", f"--screenshot={picture}")
    assert all(value > 240 for row in pixels(picture) for value in (*row[:8], *row[-8:]))


def test_it_prints(chromium: str, page: Path) -> None:
    paper = page.with_name("list.pdf")
    browse(chromium, page, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    data = paper.read_bytes()
    assert data.startswith(b"%PDF")
    assert data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") >= 2
