"""What the kernel runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bundles.oci.platform import Platform
from installer.host import kernel


@pytest.mark.parametrize(
    "architecture", ["amd64", "386", "arm64", "arm", "riscv64", "ppc64le", "s390x", "mips64le", "loong64"]
)
def test_the_probe_is_a_program_of_that_platform(architecture: str, tmp_path: Path) -> None:
    names = {"amd64": "x86_64", "386": "i386", "arm64": "aarch64", "mips64le": "mips64el", "loong64": "loongarch64"}
    emulator = shutil.which(f"qemu-{names.get(architecture, architecture)}-static")
    if emulator is None:
        pytest.skip("qemu-user-static is not installed")
    program = tmp_path / "probe"
    program.write_bytes(kernel.exit_program(architecture))
    program.chmod(0o755)
    assert subprocess.run([emulator, str(program)], check=False).returncode == 0


def test_this_machine_runs_its_own_programs_and_no_unknown_ones() -> None:
    assert kernel.runs(Platform("linux", os.uname().machine))
    assert not kernel.runs(Platform("linux", "m68k"))
    assert not kernel.runs(Platform("windows", "amd64"))
