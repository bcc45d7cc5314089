"""The program that an archive is."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bundler.writing.program import _MAIN, program


@pytest.mark.parametrize(
    ("version", "name", "first"),
    [
        ("(2, 7, 18)", "usb/offline.tar", "usb/offline.tar"),
        ("(3, 6, 8)", "usb/offline.tar", "usb/offline.tar"),
        ("(3, 7, 4)", "offline.tar.003", "offline.tar.001"),
        ("(3, 8, 20)", "offline.v03", "offline.v03"),
    ],
)
def test_an_old_python_gets_a_line_that_names_the_other_way(version: str, name: str, first: str) -> None:
    code = f"import sys; sys.version_info = {version}; sys.argv = [{name!r}, 'install']\n{_MAIN.decode()}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    short = ".".join(version.strip("()").split(", ")[:2])
    assert done.returncode == 1
    assert done.stderr == (
        f"error: this program needs python 3.9 or later, and this is python {short}\n"
        "  next: run it with a later python3, or without one: "
        f"tar -xOf {first} install.sh | sh -s -- {first} install\n"
    )


def test_a_package_with_the_lines_of_windows_travels_as_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "travels").mkdir()
    (tmp_path / "travels" / "__init__.py").write_bytes(b"one = 1\r\ntwo = 2\r\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("bundler.writing.program._PACKAGES", ("travels",))
    monkeypatch.setattr("bundler.writing.program._OWN", ("travels",))
    with zipfile.ZipFile(io.BytesIO(program())) as archive:
        assert archive.read("travels/__init__.py") == b"one = 1\ntwo = 2\n"


def test_what_is_for_the_machine_with_internet_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "program.zip").write_bytes(program())
    for name in ("create", "lock", "record"):
        command = [sys.executable, "-I", "-S", "program.zip", name, "debian:12", "-o", "new.tar"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (
            2,
            f"error: `{name}` is not in an archive: it is for the machine with internet\n"
            f"  next: there: bundle {name} --help\n",
        )
