"""The testbed is what it claims to be: the origin is like the internet's registries, hosts are cut off and whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import ORIGIN, CommandError, Host, apt, binfmt_clear, binfmt_restore, binfmt_state, debian, qemu, start_origin
from .binfmt import QEMU_ARM64, table
from .commands import run
from .registry import fetch_manifest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def origin() -> str:
    start_origin()
    return ORIGIN


@pytest.fixture(scope="module")
def usb(origin: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a few of the origin's images as `docker load` takes them."""
    folder = tmp_path_factory.mktemp("usb")
    for name, arch in (
        ("library/debian:12", "amd64"),
        ("library/busybox:1.35", "arm64"),
        ("tonistiigi/binfmt", "amd64"),
    ):
        file = folder / f"{Path(name.split(':')[0]).name}-{arch}.tar"
        platform = f"linux/{arch}"
        argv = [str(debian.CRANE.make()), "pull", "--insecure", "--platform", platform, f"{origin}/{name}", str(file)]
        subprocess.run(argv, check=True)
    return folder


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as machine:
        yield machine


def manifest(name: str, reference: str) -> dict[str, Any]:
    _, content = fetch_manifest(5555, name, reference)
    document: dict[str, Any] = json.loads(content)
    return document


def platforms(index: dict[str, Any]) -> list[str]:
    return [f"{entry['platform']['os']}/{entry['platform']['architecture']}" for entry in index["manifests"]]


@pytest.mark.e2e
def test_origin_has_an_index_with_both_platforms_and_their_attestations(origin: str) -> None:
    index = manifest("library/debian", "12")
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert platforms(index) == ["linux/amd64", "linux/arm64", "unknown/unknown", "unknown/unknown"]
    for image, attestation in zip(index["manifests"][:2], index["manifests"][2:]):
        assert attestation["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
        assert attestation["annotations"]["vnd.docker.reference.digest"] == image["digest"]


@pytest.mark.e2e
def test_bigger_images_share_the_layer_of_their_base(origin: str) -> None:
    for name, tag, architecture in (("gcc", "12", 0), ("gcc", "12", 1), ("python", "3-slim", 0)):
        base = manifest("library/debian", manifest("library/debian", "12")["manifests"][architecture]["digest"])
        index = manifest(f"library/{name}", tag)
        image = manifest(f"library/{name}", index["manifests"][architecture]["digest"])
        assert image["layers"][0]["digest"] == base["layers"][0]["digest"]
        # The Python image has a trust file, too.
        assert len(image["layers"]) == (3 if name == "python" else 2)


@pytest.mark.e2e
def test_one_image_has_docker_media_types_and_no_attestations(origin: str) -> None:
    index = manifest("library/busybox-docker", "1.35")
    assert index["mediaType"] == "application/vnd.docker.distribution.manifest.list.v2+json"
    assert platforms(index) == ["linux/amd64", "linux/arm64"]
    image = manifest("library/busybox-docker", index["manifests"][1]["digest"])
    assert image["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert {layer["mediaType"] for layer in image["layers"]} == {"application/vnd.docker.image.rootfs.diff.tar.gzip"}


@pytest.mark.e2e
def test_repositories_of_one_architecture_have_a_bare_manifest(origin: str) -> None:
    for architecture in ("amd64", "arm64"):
        image = manifest(f"library/busybox-{architecture}", "1.35")
        assert image["mediaType"] == "application/vnd.oci.image.manifest.v1+json"


@pytest.mark.e2e
def test_host_is_cut_off(origin: str, host: Host) -> None:
    routes = host.run("ip", "route").stdout
    assert "default" not in routes
    assert "192.168.10.0/24 dev eth0" in routes
    assert "192.168.10.10/24" in host.run("ip", "address", "show", "eth0").stdout
    attempt = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)"
    for address, port, error in (
        ("127.0.0.1", "5555", "ConnectionRefusedError"),
        ("203.0.113.1", "443", "Network is unreachable"),
        ("registry.example", "443", "gaierror"),
    ):
        done = host.run("python3", "-c", attempt, address, port, check=False)
        assert done.returncode == 1
        assert error in done.stderr


@pytest.mark.e2e
def test_engine_runs_an_image_from_the_usb_drive(host: Host, usb: Path) -> None:
    host.mount_in(usb, "/usb")
    try:
        host.run("docker", "load", "--input", "/usb/debian-amd64.tar")
        done = host.run("docker", "run", "--rm", f"{ORIGIN}/library/debian:12", "cat", "/etc/os-release")
        assert "Debian GNU/Linux 12" in done.stdout
        assert host.run("touch", "/usb/file", check=False).stderr.strip().endswith("Read-only file system")
    finally:
        host.unmount("/usb")
    assert host.run("ls", "/usb").stdout == ""


@pytest.mark.e2e
@pytest.mark.parametrize(("suite", "version"), [("bookworm", "20.10."), ("trixie", "26."), ("sid", "28.")])
def test_binfmt_image_lets_each_engine_run_arm64_programs(suite: str, version: str, usb: Path) -> None:
    before = binfmt_state()
    binfmt_clear("arm64")
    try:
        with Host(suite) as host:
            assert host.run("docker", "version", "-f", "{{.Server.Version}}").stdout.startswith(version)
            host.mount_in(usb, "/usb")
            for image in ("binfmt-amd64", "busybox-arm64"):
                host.run("docker", "load", "--input", f"/usb/{image}.tar")
            uname = (
                "docker",
                "run",
                "--rm",
                "--platform",
                "linux/arm64",
                f"{ORIGIN}/library/busybox:1.35",
                "uname",
                "-m",
            )
            assert "exec format error" in host.run(*uname, check=False).stderr

            binfmt = ("docker", "run", "--rm", "--privileged", f"{ORIGIN}/tonistiigi/binfmt:latest")
            assert json.loads(host.run(*binfmt).stdout)["emulators"] is None
            done = host.run(*binfmt, "--install", "arm64")
            assert "linux/arm64" in json.loads(done.stdout)["supported"]
            assert "installing: arm64 OK" in done.stderr
            assert host.run(*uname).stdout == "aarch64\n"
            assert binfmt_state()["qemu-aarch64"].flags == "OCF"  # the kernel adds O to C

            done = host.run(*binfmt, "--uninstall", "qemu-aarch64")
            assert "linux/arm64" not in json.loads(done.stdout)["supported"]
            assert "exec format error" in host.run(*uname, check=False).stderr
    finally:
        binfmt_restore(before)
    assert binfmt_state() == before


@pytest.mark.e2e
def test_the_emulator_of_buildkit_leaves_the_addresses_of_a_program_to_it() -> None:
    """One that has them itself moves the program, now and then over its own heap."""
    emulator, busybox = qemu.BUILDKIT_QEMU.make(), debian.BUSYBOX.make()
    program = (str(busybox / "busybox-arm64"), "uname", "-m")
    argv = (str(emulator / "buildkit-qemu-aarch64"), "-d", "page", *program)
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "aarch64\n"
    assert "Locating guest address space @ 0x0\n" in done.stderr


@pytest.fixture
def formats() -> Iterator[Path]:
    """The kernel's table, mounted so that it stays; in the end it is as it was."""
    with table() as directory:
        before = binfmt_state()
        yield directory
        binfmt_restore(before)
        assert binfmt_state() == before


def register_in_a_container(formats: Path, name: str, interpreter: str) -> None:
    """Register a copy of `interpreter` for arm64 as a container does: with flag F and a path that is only in there."""
    script = """
        mount --make-rprivate / && mount -t tmpfs tmpfs /mnt
        cp "$(command -v "$1")" /mnt/emulator
        printf '%s' "$2" > "$3/register"
    """
    line = QEMU_ARM64.read_text().strip().split(":")
    line[1], line[6], line[7] = name, "/mnt/emulator", "OCF"
    run("unshare", "--mount", "sh", "-ec", script, "sh", interpreter, ":".join(line), str(formats))


def starting_arm64(directory: Path) -> str:
    """What comes of starting a program for arm64 here: the interpreter gets its path."""
    program = directory / "program"
    program.write_bytes(bytes.fromhex("7f454c46020101000000000000000000") + bytes.fromhex("0200b700") + bytes(300))
    program.chmod(0o755)
    try:
        return subprocess.run([program], capture_output=True, text=True, check=True).stdout.strip()
    except OSError as error:
        return str(error.strerror)


@pytest.mark.e2e
def test_a_format_of_a_container_is_put_back(formats: Path, tmp_path: Path) -> None:
    """The path of its interpreter means nothing here, and meanwhile another format takes its name."""
    binfmt_clear("arm64")
    register_in_a_container(formats, "qemu-aarch64", "dirname")
    register_in_a_container(formats, "another", "basename")
    before = binfmt_state()
    assert not Path(before["qemu-aarch64"].interpreter).exists()
    assert starting_arm64(tmp_path) == "program"  # the kernel tries the newest first

    assert sorted(binfmt_clear("arm64")) == ["another", "qemu-aarch64"]
    assert starting_arm64(tmp_path) == "Exec format error"
    register_in_a_container(formats, "qemu-aarch64", "ls")
    assert starting_arm64(tmp_path) == f"{tmp_path}/program"

    binfmt_restore(before)
    assert [*binfmt_state().values()] == [*before.values()]
    assert starting_arm64(tmp_path) == "program"
    (formats / "another").write_text("0")
    assert starting_arm64(tmp_path) == str(tmp_path)
    binfmt_restore(before)
    assert starting_arm64(tmp_path) == "program"


@pytest.mark.e2e
def test_formats_that_were_put_aside_twice_are_put_back_twice(formats: Path, tmp_path: Path) -> None:
    """All of them look the same, and each has another program."""
    binfmt_clear("arm64")
    states = []
    for program in ("dirname", "basename", "ls"):
        register_in_a_container(formats, "qemu-aarch64", program)
        states.append(binfmt_state())
        binfmt_clear("arm64")
    found = []
    for state in reversed(states):
        binfmt_restore(state)
        found.append(starting_arm64(tmp_path))
    assert found == [f"{tmp_path}/program", "program", str(tmp_path)]


@pytest.mark.e2e
def test_commands_have_a_clean_environment_and_the_right_user(host: Host) -> None:
    os.environ["ONLY_ON_THE_MACHINE"] = "1"
    try:
        names = host.run("env").stdout
    finally:
        del os.environ["ONLY_ON_THE_MACHINE"]
    assert "ONLY_ON_THE_MACHINE" not in names
    assert "HOME=/root\n" in names
    host.add_user("ann", ("docker",))
    assert host.run(
        "sh", "-c", "id -un; pwd; echo $GREETING; cat", user="ann", env={"GREETING": "hi"}, input="in"
    ).stdout == ("ann\n/home/ann\nhi\nin")
    assert "docker" in host.run("id", "-Gn", user="ann").stdout.split()
    assert host.run("docker", "info", "-f", "{{.Name}}", user="ann").stdout == "airgap\n"


@pytest.mark.e2e
def test_commands_end_as_they_end(host: Host) -> None:
    assert host.run("sh", "-c", "exit 7", check=False).returncode == 7
    assert host.run("no-such-command", check=False).returncode == 127
    with pytest.raises(CommandError, match="`sh -c 'echo why >&2; exit 3'` on host airgap ended with status 3:\nwhy"):
        host.run("sh", "-c", "echo why >&2; exit 3")
    with pytest.raises(CommandError, match="did not end within 1 s"):
        host.run("sleep", "4711", timeout=1)
    time.sleep(0.2)
    assert host.run("pgrep", "-f", "^sleep 4711", check=False).stdout == ""


@pytest.mark.e2e
def test_signals_reach_the_command(host: Host) -> None:
    script = "trap 'echo interrupted; exit 130' INT; echo ready; while :; do sleep 0.1; done"
    with host.popen("sh", "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted\n"
    assert process.returncode == 130


@pytest.mark.e2e
def test_files_go_in_and_out(host: Host, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("content")
    host.copy_in(tmp_path / "folder", "/root/copy")
    assert host.run("cat", "/root/copy/file").stdout == "content"
    host.mount_in(tmp_path / "folder", "/media/stick", readonly=False)
    host.run("sh", "-c", "echo more > /media/stick/other")
    assert (tmp_path / "folder/other").read_text() == "more\n"
    host.unmount("/media/stick")
    assert host.path("/etc/hostname").read_text() == "airgap\n"


@pytest.mark.e2e
def test_engine_reloads_and_restarts_and_the_host_reboots(usb: Path) -> None:
    registries = ("docker", "info", "-f", "{{json .RegistryConfig.IndexConfigs}}")
    with Host(daemon_config={"debug": True}) as host:
        assert host.run("docker", "info", "-f", "{{.Debug}}").stdout == "true\n"
        config = host.path("/etc/docker/daemon.json")
        config.write_text('{"insecure-registries": ["192.168.10.10:5000"]}')
        pid = host.engine_pid
        host.run("sh", "-c", "kill -HUP $(cat /var/run/docker.pid)")
        deadline = time.monotonic() + 10
        while "192.168.10.10:5000" not in host.run(*registries).stdout and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "192.168.10.10:5000" in host.run(*registries).stdout
        assert host.engine_pid == pid

        host.mount_in(usb, "/usb")
        host.run("docker", "load", "--input", "/usb/debian-amd64.tar")
        forever = (
            "--restart",
            "always",
            "--stop-timeout",
            "1",
            "--name",
            "forever",
            f"{ORIGIN}/library/debian:12",
            "sleep",
            "inf",
        )
        host.run("docker", "run", "--detach", *forever)
        running = ("docker", "inspect", "-f", "{{.State.Running}}", "forever")
        host.restart_docker()
        assert host.engine_pid != pid
        assert host.run(*running).stdout == "true\n"

        init = host.init_pid
        host.reboot()
        assert host.init_pid != init
        assert host.run(*running).stdout == "true\n"
        assert host.run("ls", "/usb").stdout == ""


@pytest.mark.e2e
def test_hosts_do_not_meet_and_leave_nothing_behind() -> None:
    def traces() -> list[str]:
        mounts = [line.split(" ", 3)[3] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        links = [path.name for path in Path("/sys/class/net").iterdir()]
        return sorted([*mounts, *links])

    before = traces()
    with Host(name="one") as one, Host("bookworm", name="two") as two:
        assert traces() == before
        one.run("touch", "/root/of-one")
        assert two.run("ls", "/root").stdout == ""
        assert [host.run("hostname").stdout for host in (one, two)] == ["one\n", "two\n"]
        pids = [one.init_pid, one.engine_pid, two.init_pid, two.engine_pid]
        instances = [host.engine_log.parent for host in (one, two)]
    assert traces() == before
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not any(instance.exists() for instance in instances)


@pytest.mark.e2e
def test_a_cable_leads_from_one_host_to_the_other_and_nowhere_else() -> None:
    serve = (
        "import socket; s = socket.create_server(('192.168.10.10', 8000)); print('ready', flush=True); "
        "c, a = s.accept(); c.sendall(a[0].encode())"
    )
    ask = "import socket; print(socket.create_connection(('192.168.10.10', 8000), 5).recv(99).decode())"
    with Host(engine=False) as one, Host(name="two", address="192.168.10.20", engine=False) as two:
        one.connect(two)
        with one.popen("python3", "-c", serve, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None and server.stdout.readline() == "ready\n"
            assert two.run("python3", "-c", ask).stdout == "192.168.10.20\n"
        for host in (one, two):
            assert "default" not in host.run("ip", "route").stdout


@pytest.mark.e2e
def test_host_ends_with_its_owner() -> None:
    script = (
        "import time; from tests.testbed import Host; host = Host(); host.start();"
        "print(host.init_pid, host.engine_pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = owner.stdout.readline().split()
        assert len(pids) == 2
        owner.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_mirror_is_the_one_of_the_apt_sources(tmp_path: Path) -> None:
    lists = tmp_path / "etc/apt/sources.list.d"
    lists.mkdir(parents=True)
    (lists / "a.sources").write_text(
        "Types: deb\n# a remark\nURIs: http://security.example/debian-security\nSuites: bookworm-security\n\n"
        "Types: deb\nURIs:\n http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
    )
    assert apt.mirror(tmp_path) == "http://mirror.example/debian"
    (lists / "a.sources").unlink()
    (tmp_path / "etc/apt/sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb http://security.example/debian-security bookworm-security main\n"
        "deb [signed-by=/a/key arch=amd64] http://other.example/debian bookworm main\n"
    )
    assert apt.mirror(tmp_path) == "http://other.example/debian"
