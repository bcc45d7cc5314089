"""An air-gapped host: a Debian of its own with a Docker engine and no way to any network.

    with Host() as host:
        host.mount_in(Path("/tmp/usb"), "/usb", readonly=True)
        done = host.run("docker", "version", "--format", "{{.Server.Version}}")

A host lives in its own mount, network, pid, host name and ipc namespaces. Its root is an overlay on a cached tree, so
that it starts pristine, and everything it mounts is mounted in there only. When the Python process that started it
ends, in whatever way, the host ends too.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from . import debian, moby, runc
from .cache import cache_dir, only_root
from .errors import CommandError, SetupError

_HERE = Path(__file__).parent
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOGS_KEPT = 40
_ASKS_FOR_ALL_CAPABILITIES = ("bookworm",)
SUITES = (*debian.ENGINE_SUITES, moby.SUITE)


class Host:
    """One host, air-gapped unless `online`. Use it as a context manager, or call `start()` and `stop()`.

    `suite` chooses the engine: `docker29`, or a Debian: `sid` has 28, `trixie` 26, `bookworm` 20.10. `daemon_config` is
    /etc/docker/daemon.json. With `engine=False` the engine is installed but not started. `binfmt_misc=True` mounts
    binfmt_misc as systemd does on a real machine; without it a registration ends with the container that made it.
    An `online` host has this machine's network: give its engine a configuration that leaves rules and bridges alone.
    """

    def __init__(
        self,
        suite: str = "sid",
        name: str = "airgap",
        address: str = "192.168.10.10",
        daemon_config: Mapping[str, Any] | None = None,
        *,
        engine: bool = True,
        binfmt_misc: bool = True,
        online: bool = False,
    ) -> None:
        if suite not in SUITES:
            raise SetupError(f"no engine for `{suite}`; there are {', '.join(SUITES)}")
        self.suite = suite
        self.name = name
        self.address = address
        self.daemon_config = daemon_config
        self.with_engine = engine
        self.binfmt_misc = binfmt_misc
        self.online = online
        self._instance: Path | None = None
        self._lock: IO[str] | None = None
        self._unshare: subprocess.Popen[str] | None = None
        self._init_pid = 0
        self._dockerd: subprocess.Popen[str] | None = None

    # life

    def start(self) -> Host:
        """Start the host and its engine; when this returns the engine answers."""
        only_root()
        if self._instance is not None:
            raise SetupError(f"host `{self.name}` is already started")
        product = moby.ENGINE_ROOT if self.suite == moby.SUITE else debian.engine_root(self.suite)
        root = product.make() / "root"
        self._make_instance(root)
        try:
            self._boot()
            if self.daemon_config is not None:
                self.path("/etc/docker/daemon.json").write_text(json.dumps(self.daemon_config, indent=2) + "\n")
            if self.with_engine:
                self.start_docker()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End everything that runs in the host and remove its files; does nothing when it is not started."""
        instance, self._instance = self._instance, None
        if instance is None:
            return
        try:
            self._halt()
            _remove_cgroups(instance)
            _keep_logs(instance)
            _remove(instance)
        finally:
            if self._lock is not None:
                self._lock.close()

    def reboot(self) -> None:
        """End everything that runs in the host and start it again on the same files, and its engine with it.

        What `mount_in` put there is gone, and so is what was registered with binfmt_misc, unless another host or the
        machine has binfmt_misc mounted too.
        """
        if self._instance is None:
            raise SetupError(f"host `{self.name}` is not started")
        self.stop_docker()
        self._halt()
        self._boot()
        if self.with_engine:
            self.start_docker()

    def connect(self, *others: Host) -> None:
        """Lay cables from this host to others: they reach one another. Best before an engine starts."""
        here = str(self.init_pid)
        for host in (self, *others):
            # The cable that it was born with leads nowhere.
            _in_network(str(host.init_pid), "ip", "link", "delete", "eth0")
        _in_network(here, "ip", "link", "add", "eth0", "type", "bridge")
        for number, other in enumerate(others):
            port, there = f"port{number}", str(other.init_pid)
            _in_network(here, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", there)
            _in_network(here, "ip", "link", "set", port, "master", "eth0", "up")
        for host in (self, *others):
            pid = str(host.init_pid)
            _in_network(pid, "ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            _in_network(pid, "ip", "link", "set", "eth0", "up")

    def __enter__(self) -> Host:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def init_pid(self) -> int:
        """The pid, as the machine sees it, of the host's first process."""
        if self._instance is None:
            raise SetupError(f"host `{self.name}` is not started")
        return self._init_pid

    # commands

    def run(
        self,
        *argv: str,
        check: bool = True,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
        user: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the host, with a clean environment plus `env`, as `user` (root when not given).

        Gives the exit code, stdout and stderr. Raises CommandError when it ends with another status than 0 and `check`
        is true, or when it does not end in time.
        """
        process = self.popen(
            *argv, env=env, user=user,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with process:
            try:
                stdout, stderr = process.communicate(input, timeout)
            except subprocess.TimeoutExpired as error:
                process.kill()
                stdout, stderr = process.communicate()
                raise CommandError(argv, f"on host {self.name} did not end within {timeout:.0f} s", stderr) from error
            except BaseException:
                process.kill()
                raise
        if check and process.returncode != 0:
            raise CommandError(argv, f"on host {self.name} ended with status {process.returncode}", stderr or stdout)
        return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)

    def popen(
        self, *argv: str, env: Mapping[str, str] | None = None, user: str | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start `argv` in the host and return it as it runs; `options` are those of subprocess.Popen.

        Signals sent to it (`send_signal`, `terminate`) reach the command; killing it kills the command.
        """
        user = user or "root"
        environment = {"PATH": _PATH, "HOME": self._home(user), "USER": user, "LANG": "C.UTF-8", **(env or {})}
        helper = [sys.executable, "-I", "-S", str(_HERE / "enter.py"), "run", str(self.init_pid), user, "--"]
        return subprocess.Popen([*helper, *argv], env=environment, text=True, errors="replace", **options)

    def add_user(self, name: str, groups: tuple[str, ...] = ()) -> None:
        """Make a user with a home directory and the supplementary `groups`."""
        extra = ("--groups", ",".join(groups)) if groups else ()
        self.run("useradd", "--create-home", "--shell", "/bin/bash", *extra, name)

    # files

    def path(self, inside: str | Path) -> Path:
        """Where the machine sees the host's file `inside`. A link in it to an absolute path would leave the host."""
        return Path(f"/proc/{self.init_pid}/root/{str(inside).lstrip('/')}")

    def copy_in(self, source: Path, inside: str) -> None:
        """Copy a file or a directory of the machine to the host's path `inside`."""
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)

    def mount_in(self, source: Path, inside: str, readonly: bool = True) -> None:
        """Show a file or a directory of the machine at the host's path `inside`, as a USB drive is put in."""
        argv = [
            sys.executable, "-I", "-S", str(_HERE / "enter.py"), "mount", str(self.init_pid), str(source.absolute()),
            inside, "ro" if readonly else "rw",
        ]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CommandError(argv, f"ended with status {done.returncode}", done.stderr)

    def unmount(self, inside: str) -> None:
        """Take away what `mount_in` put at `inside`."""
        self.run("umount", inside)

    # the engine

    @property
    def engine_log(self) -> Path:
        """The file with what dockerd says. After `stop()` a copy is in <cache>/logs."""
        if self._instance is None:
            raise SetupError(f"host `{self.name}` is not started")
        return self._instance / "dockerd.log"

    @property
    def engine_pid(self) -> int:
        """The pid of dockerd as the machine sees it; in the host it is in /var/run/docker.pid."""
        if self._dockerd is None or self._dockerd.poll() is not None:
            raise SetupError(f"no engine runs on host `{self.name}`")
        (child,) = _children(self._dockerd.pid)
        return child

    def start_docker(self) -> None:
        """Start dockerd with the host's /etc/docker/daemon.json and wait until it answers."""
        with self.engine_log.open("a") as log:
            self._dockerd = self.popen(
                "dockerd", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.wait_ready()

    def stop_docker(self) -> None:
        """End dockerd; containers end with it, the data stays."""
        process, self._dockerd = self._dockerd, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def restart_docker(self) -> None:
        """End dockerd and start it again, as a reboot does; containers with a restart policy come back."""
        self.stop_docker()
        self.start_docker()

    def wait_ready(self, patience: float = 60) -> None:
        """Return when the engine answers; raises CommandError with the end of its log when it does not."""
        deadline = time.monotonic() + patience
        socket = self.path("/run/docker.sock")
        while True:
            ended = self._dockerd is None or self._dockerd.poll() is not None
            if not ended and socket.exists() and self.run("docker", "version", check=False).returncode == 0:
                return
            if ended or time.monotonic() > deadline:
                outcome = "ended at once" if ended else f"does not answer after {patience:.0f} s"
                raise CommandError(["dockerd"], f"on host {self.name} {outcome}", self.engine_log.read_text())
            time.sleep(0.05)

    # inner parts

    def _make_instance(self, root: Path) -> None:
        hosts = cache_dir() / "hosts"
        hosts.mkdir(exist_ok=True)
        _sweep(hosts)
        self._instance = instance = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=hosts))
        self._lock = (instance / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        instance.chmod(0o755)
        for folder in ("upper", "work", "merged", "docker", "containerd"):
            (instance / folder).mkdir()
        (instance / "lower").symlink_to(root)
        etc = instance / "upper" / "etc"
        etc.mkdir()
        (etc / "hostname").write_text(f"{self.name}\n")
        if self.suite in _ASKS_FOR_ALL_CAPABILITIES and not runc.complete():
            bin_ = instance / "upper/usr/local/sbin"
            bin_.mkdir(parents=True)
            shutil.copy2(_HERE / "runc.py", bin_ / "runc")
            (bin_ / "runc").chmod(0o755)
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{self.address} {self.name}\n")

    def _boot(self) -> None:
        assert self._instance is not None
        argv = [
            "unshare", "--mount", *([] if self.online else ["--net"]), "--pid", "--uts", "--ipc", "--fork",
            "--kill-child", "sh", str(_HERE / "init.sh"), str(self._instance / "merged"), self.name,
            "" if self.online else self.address, str(self._instance),
            "yes" if self.binfmt_misc else "no",
        ]  # fmt: skip
        with (self._instance / "boot.log").open("a") as log:
            self._unshare = process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, start_new_session=True
            )
        deadline = time.monotonic() + 20
        while True:
            children = _children(process.pid)
            if children and Path(f"/proc/{children[0]}/root/run/host-is-up").exists():
                self._init_pid = children[0]
                return
            if process.poll() is not None or time.monotonic() > deadline:
                raise CommandError(argv, "did not bring the host up", (self._instance / "boot.log").read_text())
            time.sleep(0.01)

    def _halt(self) -> None:
        """End the host's first process and with it, by the kernel, all the others."""
        process, self._unshare = self._unshare, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.kill(self._init_pid, signal.SIGKILL)
                process.wait(10)
        dockerd, self._dockerd = self._dockerd, None
        if dockerd is not None:
            dockerd.wait(10)

    def _home(self, user: str) -> str:
        for line in self.path("/etc/passwd").read_text().splitlines():
            fields = line.split(":")
            if fields[0] == user:
                return fields[5]
        raise SetupError(f"host `{self.name}` has no user `{user}`; make it with add_user()")


def _in_network(pid: str, *argv: str) -> None:
    done = subprocess.run(["nsenter", "--target", pid, "--net", *argv], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise CommandError(argv, f"in the network of {pid} ended with status {done.returncode}", done.stderr)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _sweep(hosts: Path) -> None:
    """Remove what hosts left whose owner was killed: nobody holds their lock any more."""
    for instance in hosts.iterdir():
        try:
            with (instance / "lock").open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_cgroups(instance)
                _keep_logs(instance)
                _remove(instance)
        except (BlockingIOError, FileNotFoundError, NotADirectoryError):
            continue


def _remove_cgroups(instance: Path) -> None:
    """Remove the empty control groups of this host's containers."""
    containers = instance / "docker" / "containers"
    names = {path.name for path in containers.iterdir()} if containers.is_dir() else set()
    for tree in Path("/sys/fs/cgroup").glob("*/docker") if names else ():
        for folder, _, _ in os.walk(tree, topdown=False):
            if not names.isdisjoint(Path(folder).parts):
                with suppress(OSError):
                    Path(folder).rmdir()


def _keep_logs(instance: Path) -> None:
    logs = cache_dir() / "logs"
    logs.mkdir(exist_ok=True)
    for name in ("boot.log", "dockerd.log"):
        if (instance / name).is_file() and (instance / name).stat().st_size:
            shutil.copy2(instance / name, logs / f"{instance.name}-{name}")
    oldest_first = sorted(logs.iterdir(), key=lambda path: path.stat().st_mtime)
    for old in oldest_first[:-_LOGS_KEPT]:
        old.unlink(missing_ok=True)


def _remove(instance: Path) -> None:
    """Remove an instance's directory; the kernel may take a moment to let go of its mounts."""
    for attempt in range(50):
        try:
            shutil.rmtree(instance)
            return
        except FileNotFoundError:
            return
        except OSError:
            if attempt == 49:
                raise
            time.sleep(0.1)
