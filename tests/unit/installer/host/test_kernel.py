"""What the kernel runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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


@pytest.mark.parametrize(("setting", "expected"), [(1, "[True, False, False]"), (2, "[None, None, False]")])
def test_where_programs_must_not_be_started_from_memory(setting: int, expected: str) -> None:
    """1 forbids it to those who do not say that they mean to, 2 to everybody: then nothing is known. Of a real kernel,
    in a table of processes of its own, whose setting nobody else has."""
    file = Path("/proc/sys/vm/memfd_noexec")
    if os.geteuid() != 0 or not file.exists():
        pytest.skip("needs root and Linux 6.3")
    program = (
        "import os\nfrom installer.host import kernel\nfrom bundles.oci.platform import Platform\n"
        "print([kernel.runs(Platform('linux', name)) for name in (os.uname().machine, 'loong64', 'm68k')])"
    )
    words = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", f'echo {setting} >{file} && exec "$@"', "sh"]
    done = subprocess.run([*words, sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr


def test_the_kernels_table_is_read_by_the_machine_of_its_entries(tmp_path: Path) -> None:
    big, little = ("7f454c4602" + order + "01" + 11 * "00" for order in ("02", "01"))
    texts = {
        "register": "",
        "status": "enabled\n",
        "mine": f"enabled\ninterpreter /usr/bin/qemu-s390x\nflags: OCF\noffset 0\nmagic {big}0016\nmask ff\n",
        # The same bytes, of a machine of the other byte order.
        "other": f"enabled\ninterpreter /x\nflags: \noffset 0\nmagic {little}0016\n",
        "jar": "enabled\ninterpreter /usr/bin/jexec\nflags: \noffset 0\nmagic 504b0304\n",
        "extension": "enabled\ninterpreter /usr/bin/wine\nflags: \nextension .exe\n",
    }
    s390x = Platform("linux", "s390x")
    assert kernel.emulators(tmp_path, s390x) is None
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    found = kernel.emulators(tmp_path, s390x)
    assert found is not None
    assert [(entry.name, entry.interpreter) for entry in found] == [("mine", "/usr/bin/qemu-s390x")]
    assert kernel.emulators(tmp_path, Platform("linux", "m68k")) == []
