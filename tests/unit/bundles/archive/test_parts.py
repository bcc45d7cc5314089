"""An archive in parts: the same bytes, cut; and every way in which parts can be wrong is named."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bundler.create import Options, create, plan
from bundler.writing.contents import Contents
from bundler.writing.writer import ArchiveWriter
from bundles.archive.layout import Layout
from bundles.archive.manifest import File
from bundles.archive.parts import cut
from bundles.archive.reader import Archive
from bundles.archive.verify import verify_archive
from bundles.cli.app import run
from bundles.errors import ArchiveError, BundleError, DamagedArchiveError, IncompleteArchiveError, UsageError
from bundles.oci.digest import Digest
from bundles.runtime.progress import Silent
from tests.support.archives import PROGRAM, Made, example, image, made

SPLIT = 30_000


@pytest.fixture(scope="module")
def sample() -> Made:
    return example()


def with_program(contents: Contents, program: bytes) -> Contents:
    described = File("program.zip", Digest.of(program), len(program))
    return dataclasses.replace(
        contents, program=program, manifest=dataclasses.replace(contents.manifest, program=described)
    )


def write(sample: Made, path: Path, split: int = SPLIT) -> list[Path]:
    return [file.path for file in sample.write(path, split=split).files]


@pytest.fixture
def parts(sample: Made, tmp_path: Path) -> list[Path]:
    (tmp_path / "usb").mkdir()
    return write(sample, tmp_path / "usb" / "offline.tar")


@pytest.mark.parametrize("split", [20_000, SPLIT, 49_152, 100_000, 10_000_000])
def test_the_parts_in_a_row_are_the_whole(sample: Made, tmp_path: Path, split: int) -> None:
    whole = sample.write(tmp_path / "whole.tar").path.read_bytes()
    parts = write(sample, tmp_path / "offline.tar", split)
    assert b"".join(part.read_bytes() for part in parts) == whole
    assert [part.name for part in parts] == [f"offline.tar.{number:03}" for number in range(1, len(parts) + 1)]
    assert all(part.stat().st_size <= split for part in parts)
    assert all(part.stat().st_size % 512 == 0 for part in parts[:-1])
    with Archive(parts[0]) as opened, Archive(tmp_path / "whole.tar") as other:
        assert opened.digest == other.digest


def test_the_checksum_file_lists_each_part_and_nothing_else(parts: list[Path]) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "offline.tar.sha256"], cwd=parts[0].parent, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [f"{part.name}: OK" for part in parts]
    assert sorted(file.name for file in parts[0].parent.iterdir()) == [
        *(part.name for part in parts),
        "offline.tar.sha256",
    ]


def test_the_reported_digests_are_those_of_the_parts(sample: Made, tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "offline.tar", sample.contents(), SPLIT) as writer:
        written = sample.fill(writer)
    assert len(written.files) > 3
    for file in written.files:
        assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
        assert file.size == file.path.stat().st_size


def test_any_part_opens_the_archive_and_so_does_the_name_of_the_whole(sample: Made, parts: list[Path]) -> None:
    for path in (*parts, parts[0].with_name("offline.tar")):
        with Archive(path) as opened:
            verify_archive(opened)
            assert opened.manifest == sample.contents().manifest


def test_parts_are_read_from_several_directories_and_left_alone(parts: list[Path], tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("b", "c")]
    for number, part in enumerate(parts[1:]):
        other = others[number % 2]
        other.mkdir(exist_ok=True)
        part.rename(other / part.name)
        (other / part.name).chmod(0o444)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.0*")}
    for path in before:
        with Archive(path, [parts[0].parent, *others]) as opened:
            verify_archive(opened)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.0*")} == before


def test_the_last_part_holds_the_whole_program_and_runs(sample: Made, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__main__.py", "print('it runs')\n" + "#" * 5000)
    contents = with_program(sample.contents(), buffer.getvalue())
    layout = contents.manifest.layout(len(contents.manifest.to_bytes()))
    # A cut in the middle of the program, if it were not moved.
    with ArchiveWriter(tmp_path / "offline.tar", contents, layout.program_offset // 2 + 1000) as writer:
        written = sample.fill(writer)
    assert [file.size for file in written.files][-1] == len(buffer.getvalue())
    done = subprocess.run([sys.executable, written.files[-1].path], capture_output=True, text=True, check=True)
    assert done.stdout == "it runs\n"
    with Archive(written.files[-1].path) as opened:
        verify_archive(opened)


@pytest.mark.parametrize("position", [0, 1, -2, -1])
def test_a_missing_part_is_named(parts: list[Path], position: int) -> None:
    gone = parts[position]
    gone.unlink()
    left = next(part for part in parts if part != gone)
    with pytest.raises(IncompleteArchiveError, match=gone.name):
        Archive(left)


@pytest.mark.parametrize("position", [0, 1, -2, -1])
@pytest.mark.parametrize("lost", [1, 512, 15_000])
def test_a_truncated_part_is_named(parts: list[Path], position: int, lost: int) -> None:
    part = parts[position]
    os.truncate(part, max(part.stat().st_size - lost, 0))
    with pytest.raises(IncompleteArchiveError) as caught:
        Archive(parts[0])
    named = {problem.subject for problem in caught.value.problems}
    # What is left of the last part can be less than anything that tells it from the one before.
    assert part.name in named
    assert len(named) == 1 or position == -2


def test_of_two_parts_the_truncated_one_is_named(sample: Made, tmp_path: Path) -> None:
    for position in (0, 1):
        parts = write(sample, tmp_path / "offline.tar", 100_000)
        assert len(parts) == 2
        os.truncate(parts[position], parts[position].stat().st_size - 700)
        with pytest.raises(IncompleteArchiveError) as caught:
            Archive(parts[0])
        assert [problem.subject for problem in caught.value.problems] == [parts[position].name]
        parts = [part.unlink() or part for part in parts]  # type: ignore[func-returns-value]


def test_swapped_parts_are_named(parts: list[Path]) -> None:
    second, third = parts[1], parts[2]
    data = second.read_bytes()
    second.write_bytes(third.read_bytes())
    third.write_bytes(data)
    with pytest.raises(DamagedArchiveError) as caught:
        Archive(parts[0])
    assert {problem.subject: problem.message for problem in caught.value.problems} == {
        second.name: f"holds what belongs into `{third.name}`",
        third.name: f"holds what belongs into `{second.name}`",
    }


def test_a_foreign_part_is_named(parts: list[Path], tmp_path: Path) -> None:
    other = write(made(image("debian:12", seeds=(5, 6, 7))), tmp_path / "other.tar")
    parts[1].write_bytes(other[1].read_bytes())
    with pytest.raises(DamagedArchiveError, match=parts[1].name) as caught:
        Archive(parts[0])
    assert [problem.subject for problem in caught.value.problems] == [parts[1].name]


def test_a_foreign_part_within_one_blob_is_named_by_verify(tmp_path: Path) -> None:
    big = made(image("debian:12", seeds=(1,)))
    parts = write(big, tmp_path / "offline.tar", 5000)
    with Archive(parts[0]) as opened:
        blob = opened.manifest.blobs[-1]
        index = opened.volume.locate(opened.layout.blob(blob.digest).data_offset + 7000)[0]
    parts[index].write_bytes(bytes(parts[index].stat().st_size))
    with Archive(parts[0]) as opened, pytest.raises(DamagedArchiveError, match=parts[index].name):
        verify_archive(opened)


def test_a_part_too_many_is_named(parts: list[Path]) -> None:
    extra = parts[0].with_name(f"offline.tar.{len(parts) + 1:03}")
    extra.write_bytes(b"left over")
    with pytest.raises(DamagedArchiveError, match=extra.name):
        Archive(parts[0])


def test_every_flipped_byte_is_found(parts: list[Path]) -> None:
    for part in parts:
        data = bytearray(part.read_bytes())
        for offset in range(0, len(data), 3511):
            data[offset] ^= 1
            part.write_bytes(data)
            with pytest.raises(ArchiveError), Archive(parts[0]) as opened:
                verify_archive(opened)
            data[offset] ^= 1
        part.write_bytes(data)


def test_an_interrupted_split_archive_goes_on(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    with ArchiveWriter(path, sample.contents(), SPLIT) as writer:
        for layer in writer.layers[:2]:
            sink = writer.sink(layer)
            sink.write(memoryview(sample.layers[layer.digest]))
            assert sink.finish()
    assert not [file for file in tmp_path.iterdir() if not file.name.endswith((".partial", ".journal"))]
    with ArchiveWriter(path, sample.contents(), SPLIT) as writer:
        assert [writer.sink(layer).position for layer in writer.layers[:2]] == [
            layer.size for layer in writer.layers[:2]
        ]
    parts = write(sample, path)
    assert b"".join(part.read_bytes() for part in parts) == sample.write(tmp_path / "w.tar").path.read_bytes()


def test_a_run_that_ended_between_two_final_names_goes_on(
    sample: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "offline.tar"
    real = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == "offline.tar.003.partial":
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            write(sample, path)
    assert (tmp_path / "offline.tar.002").exists()
    with ArchiveWriter(path, sample.contents(), SPLIT) as writer:
        assert all(writer.sink(layer).position == layer.size for layer in writer.layers)
    parts = write(sample, path)
    with Archive(parts[0]) as opened:
        verify_archive(opened)


def test_another_cut_begins_anew_and_leaves_nothing_behind(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    with ArchiveWriter(path, sample.contents(), SPLIT):
        pass
    sample.write(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["offline.tar", "offline.tar.sha256"]


def test_a_smaller_bundle_of_that_name_removes_the_parts_it_has_not(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    many = write(sample, path)
    few = write(made(image("debian:12", seeds=(5,), platforms=())), path)
    assert len(few) < len(many)
    assert sorted(file.name for file in tmp_path.glob("offline.tar.0*")) == [part.name for part in few]


def test_parts_and_a_whole_of_one_name_do_not_meet(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    write(sample, path)
    with pytest.raises(UsageError, match=r"offline\.tar\.001` is there"):
        sample.write(path)
    sample.write(tmp_path / "whole.tar")
    with pytest.raises(UsageError, match=r"whole\.tar` is there"):
        write(sample, tmp_path / "whole.tar")


def test_a_file_that_is_no_part_is_not_replaced(sample: Made, tmp_path: Path) -> None:
    thesis = tmp_path / "offline.tar.001"
    thesis.write_bytes(b"years of work")
    with pytest.raises(UsageError, match="is not replaced"):
        write(sample, tmp_path / "offline.tar")
    assert list(tmp_path.iterdir()) == [thesis]


def test_two_writers_of_one_name_however_they_cut(sample: Made, tmp_path: Path) -> None:
    path = tmp_path / "offline.tar"
    with ArchiveWriter(path, sample.contents(), SPLIT):
        for split in (None, SPLIT, 50_000):
            with pytest.raises(BundleError, match="is being written by another"):
                ArchiveWriter(path, sample.contents(), split)


def test_a_whole_archive_may_have_the_name_of_a_part(sample: Made, tmp_path: Path) -> None:
    for name in ("debian.012", "ubuntu.001"):
        with Archive(sample.write(tmp_path / name).path) as opened:
            verify_archive(opened)


def test_cuts_of_large_archives() -> None:
    limit = 4000 << 20
    layout = Layout([("a", 10 << 30)], 4 << 20)
    sizes = cut(layout, limit)
    assert sum(sizes) == layout.size
    assert max(sizes) == limit == sizes[0]
    # The zip begins 1 MiB before the second cut.
    layout = Layout([("a", 2 * limit - (1 << 20))], 4 << 20)
    assert cut(layout, limit) == (limit, layout.program_offset - limit, 4 << 20)
    with pytest.raises(UsageError, match="are too small: the last one holds the program"):
        cut(layout, 1 << 20)
    with pytest.raises(UsageError, match="expected at most 999"):
        cut(layout, 5 << 20)


def test_fat_is_refused_before_anything_is_written(
    sample: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bundler.writing.writer.largest_file", lambda directory: 50_000)
    for function in (create, plan):
        with pytest.raises(UsageError, match="is a FAT file system") as caught:
            function(sample.spec, tmp_path / "offline.tar", sample.source, Options(program=PROGRAM), Silent())
        assert caught.value.hint == "--split 4000MiB"
    assert list(tmp_path.iterdir()) == []
    assert len(write(sample, tmp_path / "offline.tar", 50_000)) > 1


def test_the_command_line(parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "second stick"
    other.mkdir()
    parts[1].rename(other / parts[1].name)
    assert run(["verify", str(parts[-1])]) == 3
    said = capsys.readouterr().err
    assert "`offline.tar.002` is missing" in said
    assert "--parts DIR" in said
    assert run(["verify", str(parts[-1]), "--parts", str(other)]) == 0
    assert f"in {len(parts)} parts, every byte is right" in capsys.readouterr().out
    assert run(["inspect", str(parts[0].with_name("offline.tar")), "--parts", str(other), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files == [str(part) if part != parts[1] else str(other / part.name) for part in parts]
