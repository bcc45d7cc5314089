"""The first process of emulation's container: it starts another one and stays."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from installer.host import kernel
from installer.steps import emulation_init
from installer.steps.emulation_init import init_program


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that every user may read: those of `tmp_path` are closed to others."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_the_first_process_of_emulation_starts_its_program_and_stays(architecture: str, shared: Path) -> None:
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[architecture]
    found = shutil.which(f"qemu-{machine}-static")
    if platform.machine() != machine and found is None:
        pytest.skip("qemu-user-static is not installed")
    emulator = [] if platform.machine() == machine else [str(found)]
    program = init_program(architecture)
    assert program is not None
    assert len(program) < 400
    path = shared / "init"
    path.write_bytes(program)
    path.chmod(0o755)
    # As nobody the mount that it tries is refused, and nothing outside is touched.
    user: dict[str, Any] = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
    command = [*emulator, str(path), "/bin/sh", "-c", 'echo "$0 $HOME"', "two words"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"HOME": "/home/x"}, **user)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "two words /home/x\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_the_first_process_of_emulation_is_what_its_source_says(architecture: str, tmp_path: Path) -> None:
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[architecture]
    tools = "" if platform.machine() == machine else f"{machine}-linux-gnu-"
    if shutil.which(f"{tools}as") is None:
        pytest.skip(f"{tools}as (package binutils) is not installed")
    source = Path(emulation_init.__file__).with_name(f"emulation_init.{architecture}.s")
    object_file, code = tmp_path / "init.o", tmp_path / "init"
    subprocess.run([f"{tools}as", "-o", object_file, source], check=True)
    subprocess.run([f"{tools}objcopy", "-O", "binary", "-j", ".text", object_file, code], check=True)
    assert init_program(architecture) == kernel.program(architecture, code.read_bytes())


def test_hosts_where_nothing_registers_emulators() -> None:
    assert init_program("s390x") is None
