"""The packing list: everything is in it, everything is escaped, and it needs nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import html.parser
import json
import re
from pathlib import Path

import pytest

from bundles.archive.reader import Archive
from bundles.cli.packing_list import packed_files, packing_list
from bundles.oci.digest import Digest
from bundles.runtime.progress import Silent
from tests.support.archives import AMD64, ARM64, ContentSource, Made, example, image, made
from tests.support.images import Content, layer
from tests.support.program import bundle

HOSTILE = "<script>alert('x')</script>&\"\x00\x1b[31m\u202e"


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside of the style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def page(path: Path) -> str:
    with Archive(path) as archive:
        return packing_list(archive, packed_files(archive, Silent()))


def test_everything_is_in_it(tmp_path: Path) -> None:
    path = example().write(tmp_path / "offline.tar").path
    parsed = Page(page(path))
    assert parsed.open == []
    with Archive(path) as archive:
        digests = {str(archive.digest), *(str(item.root.digest) for item in archive.manifest.images)}
        digests |= {str(blob.digest) for blob in archive.manifest.blobs}
        names = {item.reference.familiar for item in archive.manifest.images}
    for word in (*digests, *names, hashlib.sha256(path.read_bytes()).hexdigest(), "linux/arm64", "not signed"):
        assert word in parsed.text
    assert "as offline.tar.sha256 says" in parsed.text
    assert "Only the platforms below are inside" in parsed.text


def test_it_needs_nothing_else(tmp_path: Path) -> None:
    text = page(example().write(tmp_path / "offline.tar").path)
    tags = Page(text).tags
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "img", "iframe", "object", "a"})
    assert not any(name in ("src", "href") or name.startswith("on") for _, each in tags for name in each)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text


def test_the_same_archive_gives_the_same_page(tmp_path: Path) -> None:
    path = example().write(tmp_path / "offline.tar").path
    assert page(path) == page(path)


def test_without_a_checksum_file_the_sum_is_computed(tmp_path: Path) -> None:
    path = example().write(tmp_path / "offline.tar").path
    (tmp_path / "offline.tar.sha256").unlink()
    text = Page(page(path)).text
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert "computed from the file" in text


def with_labels(labels: dict[str, object], annotations: dict[str, object]) -> Made:
    content = Content()
    data = layer("x")
    base = content.image(AMD64, [data])
    manifest = json.loads(content.data(base))
    config = json.loads(content.content[Digest(manifest["config"]["digest"])])
    config["config"]["Labels"] = labels
    described = content.add(manifest["config"]["mediaType"], json.dumps(config).encode())
    manifest["config"] = described.to_json()
    manifest["annotations"] = annotations
    root = content.add(base.media_type, json.dumps(manifest).encode(), AMD64)
    sample = made(image("x:1", platforms=(AMD64,)))
    from bundler.definition.spec import ImageRequest, Spec
    from bundler.planning.resolve import resolve
    from bundles.oci.reference import Reference

    source = ContentSource(content, {"x:1": content.index(root)})
    wanted = (ImageRequest(Reference.parse("x:1"), "base", (AMD64,)),)
    plan = resolve(Spec("test", (AMD64, ARM64), (AMD64,), wanted, {}, False), source)
    layers = {descriptor.digest: content.data(descriptor) for descriptor, _ in plan.layers}
    return dataclasses.replace(sample, plan=plan, layers=layers, source=source)


def test_labels_and_annotations_are_shown_and_escaped(tmp_path: Path) -> None:
    prefix = "org.opencontainers.image."
    contents = with_labels(
        {f"{prefix}licenses": "GPL-2.0-only", f"{prefix}title": HOSTILE, "other": "hidden", f"{prefix}odd": 5},
        {f"{prefix}version": "12.4", f"{prefix}<b>": "x"},
    )
    text = page(contents.write(tmp_path / "offline.tar").path)
    parsed = Page(text)
    assert "GPL-2.0-only" in parsed.text
    assert "12.4" in parsed.text
    assert "<script>alert('x')</script>" in parsed.text  # as text
    assert {"script", "b"} & {tag for tag, _ in parsed.tags} <= {"b"}
    assert "<script" not in text
    assert "<b>x" not in text
    assert "\x00" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "hidden" not in parsed.text
    assert text.index("title") < text.index("version") < text.index("licenses")


@pytest.mark.parametrize("labels", [None, [], "x", {"a": None}])
def test_strange_labels_are_no_traceback(tmp_path: Path, labels: object) -> None:
    contents = with_labels({}, {})
    contents = with_labels(labels, labels)  # type: ignore[arg-type]
    assert "x:1" in page(contents.write(tmp_path / "offline.tar").path)


def test_the_command_writes_it(tmp_path: Path) -> None:
    path = example().write(tmp_path / "offline.tar").path
    done = bundle("inspect", path, "--html", "list.html", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["html"]) == (0, "list.html")
    assert (tmp_path / "list.html").read_text() == page(path)
    done = bundle("inspect", path, "--html", "missing/list.html", cwd=tmp_path)
    assert (done.returncode, "directory `missing` does not exist\n  next: mkdir -p missing" in done.stderr) == (2, True)


def test_parts_are_listed_each(tmp_path: Path) -> None:
    written = example().write(tmp_path / "offline.tar", split=100 * 1024)
    text = Page(page(tmp_path / "offline.tar.001")).text
    assert len(written.files) > 1
    for file in written.files:
        assert file.path.name in text
        assert hashlib.sha256(file.path.read_bytes()).hexdigest() in text
