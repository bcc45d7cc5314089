"""Telling the Docker daemon that the registry at a LAN address speaks plain HTTP.

daemon.json is merged, never overwritten: other settings, their order and the indentation stay, and a copy of what was
there is kept. The daemon reads this setting again on SIGHUP, so it is never restarted and no container stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from bundles.errors import HostError, Problem, reason
from bundles.runtime.program import quote
from installer.host.docker.daemon import engine_process, only_dockerd, sees_the_same
from installer.host.docker.daemon_json import SETTING, free_name, is_insecure, merged, without
from installer.host.files import is_writable, read_optional, write_atomically
from installer.host.host import Host
from installer.model.job import DesiredState
from installer.model.step import Change, Step
from installer.receipt.receipt import Receipt

_RELOAD_SECONDS = 15.0
_AS_ROOT = "run this with sudo"
# What may be said of daemon.json. Other settings may have passwords in them.
_HARMLESS = frozenset(
    {
        *("bip", "cgroup-parent", "data-root", "debug", "dns", "exec-root", "experimental", "features", "fixed-cidr"),
        *("group", "hosts", "icc", SETTING, "ip", "ip-forward", "iptables", "ip6tables", "ipv6", "live-restore"),
        *("log-driver", "log-level", "mtu", "pidfile", "selinux-enabled", "storage-driver", "userland-proxy"),
        "userns-remap",
    }
)


class InsecureRegistry(Step):
    """Adds the registry to `insecure-registries` of daemon.json and has the daemon read it again."""

    name = "daemon"

    def __init__(self, job: DesiredState, host: Host) -> None:
        self._job, self._host = job, host
        self._address = str(job.address)

    def _is_needed(self) -> bool:
        return not self._job.access.tls and self._is_refused()

    def _is_refused(self) -> bool:
        """Tell whether Docker speaks nothing but verified TLS with the registry."""
        if self._job.address.is_loopback:
            return False
        try:
            ip = self._job.address.listen_ip()
        except OSError:
            return False
        return not is_insecure(self._host.engine.info(), self._address, ip)

    def _pid(self) -> Optional[int]:
        """Find the process of the daemon; None when it is not proven which one it is: no other is told anything."""
        return engine_process(self._host.engine.endpoint.socket_path, self._host.places.proc)

    def _arguments(self) -> list[str]:
        """Return the words that the daemon was started with; those of the host's only one where none is proven."""
        pid = self._pid() or only_dockerd(self._host.places.proc)
        if pid is None:
            return []
        try:
            return (self._host.places.proc / str(pid) / "cmdline").read_text(errors="replace").split("\0")
        except OSError:
            return []

    def _path(self) -> Path:
        """Return the daemon's configuration file itself: where a link leads, so that the link stays one."""
        return Path(os.path.realpath(self._configured()))

    def _configured(self) -> Path:
        """Find out where the daemon was told to look, else the default."""
        arguments = self._arguments()
        for flag, following in zip(arguments, [*arguments[1:], ""]):
            name, equals, value = flag.partition("=")
            if name == "--config-file":
                return Path(value if equals else following)
        return self._host.places.daemon_json

    def _text(self) -> str:
        try:
            data = read_optional(self._path())
        except HostError as error:
            if isinstance(error.__context__, PermissionError):
                raise HostError(error.message, hint=_AS_ROOT) from None
            raise
        return (data or b"").decode("utf-8", errors="replace")

    def _unreachable(self) -> Optional[Problem]:
        """Find out whether the file that the daemon reads is another one than the one that would be written here.

        The daemon may be in a container. This program may be in one, too: there only the directory of the default can
        be written to (see install.sh).
        """
        places, path, pid = self._host.places, self._path(), self._pid()
        if pid is not None and not sees_the_same(pid, path.parent, places.proc, places.root):
            hint = f'add "{SETTING}": ["{self._address}"] to its settings there; sudo kill -HUP {pid}'
            return Problem(str(path), f"the engine, process {pid}, has another file there: it is in a container", hint)
        if places.root == Path("/"):
            return None
        directory = Path(os.path.realpath(places.daemon_json.parent))
        if directory not in path.parents:
            hint = f'run this with a python3 of the host, or add "{SETTING}": ["{self._address}"] there by hand'
            return Problem(str(self._configured()), f"`{path}` cannot be reached from the container", hint)
        if not places.seen(places.daemon_json.parent).is_dir():
            hint = f"sudo mkdir -p {quote(places.daemon_json.parent)}, then run this again"
            return Problem(str(path), "its directory is missing, and cannot be made from the container", hint)
        return None

    def problems(self) -> Sequence[Problem]:
        problem = self._problem()
        return [problem] if problem else []

    def _problem(self) -> Optional[Problem]:  # noqa: PLR0911  one return for each thing that can be wrong
        if self._job.address.is_loopback or self._job.access.tls:
            return None
        silent: Optional[HostError] = None
        try:
            if not self._is_needed():
                return None
            if self._host.engine.info().is_rootless:
                entry = f'"{SETTING}": ["{self._address}"]'
                hint = f"add {entry} to ~/.config/docker/daemon.json; systemctl --user reload docker"
                return Problem("rootless Docker", f"its settings must allow plain HTTP to {self._address}", hint)
        except HostError as error:
            # The file may be why Docker is not running.
            silent = error
        path, pid = self._path(), self._pid()
        subject = str(path)
        unreachable = self._unreachable()
        if unreachable:
            return unreachable
        try:
            new = merged(self._text(), self._address)
        except HostError as error:
            return Problem(subject, error.message, error.hint or f"python3 -m json.tool {quote(path)}")
        if silent:
            raise silent
        if any(argument.partition("=")[0] == "--insecure-registry" for argument in self._arguments()):
            # The same setting as a flag and in the file: the daemon refuses to reload, and to start the next time.
            hint = f"add --insecure-registry={self._address} to the flags of dockerd and restart it when that suits"
            return Problem(subject, "dockerd has the flag --insecure-registry, which rules out the setting here", hint)
        if not is_writable(path) or not _may_signal(pid):
            what = "cannot be written" if not is_writable(path) else "can be written, and dockerd cannot be told"
            tell = _reload(pid)
            # What is written over has been read above, or is known to be absent.
            file, directory = quote(path), quote(path.parent)
            first = f"sudo cp {file} {quote(free_name(path))} && " if path.exists() else ""
            first += "" if path.parent.exists() else f"sudo mkdir -p {directory} && "
            value = json.loads(new)
            text = shlex.quote(json.dumps(value))
            commands = f"{first}printf '%s\\n' {text} | sudo tee {file} && {tell}"
            if not value.keys() <= _HARMLESS:
                # Proxies, options of log drivers, addresses of mirrors may have passwords, and hints go into logs.
                commands = f"{_AS_ROOT}; or add it to `{SETTING}` there, then: {tell}"
            return Problem(subject, f"it must allow plain HTTP to {self._address}, and it {what}", commands)
        return None

    def question(self) -> Optional[str]:
        if not self._is_needed():
            return None
        path = self._path()
        if self._is_written():
            return f"have Docker read {path} again, without a restart"
        return (
            f"add {self._address} to `{SETTING}` in {path} (a copy is kept) "
            "and have Docker read it again, without a restart"
        )

    def _is_written(self) -> bool:
        """Tell whether the file says it already, and only the daemon does not know yet."""
        text = self._text()
        return merged(text, self._address) == text

    def look(self) -> Sequence[Change]:
        if not self._is_needed():
            return []
        path = self._path()
        if self._is_written():
            # Somebody wrote it, and uninstalling leaves it there.
            return [Change("reload", "daemon settings", self._address, f"it is in {path}; SIGHUP to dockerd")]
        copy = [Change("copy", "file", str(free_name(path)), f"what {path} was")] if path.exists() else []
        return [*copy, Change("allow", "insecure registry", self._address, f"in {path}, then SIGHUP to dockerd")]

    def explain(self, change: Change) -> str:
        return f"Docker does not allow plain HTTP to {self._address}: its setting `{SETTING}` was changed"

    def apply(self, changes: Sequence[Change]) -> None:
        path, pid = self._path(), self._pid()
        old = read_optional(path)
        try:
            new = merged(self._text(), self._address).encode()
        except HostError as error:
            raise HostError(f"`{path}`: {error.message}", hint=error.hint) from None
        if new != old:
            if old is not None:
                write_atomically(free_name(path), [old], path.stat().st_mode & 0o777)
            mode = path.stat().st_mode & 0o777 if old is not None else 0o644
            write_atomically(path, [new], mode)
        self._tell(path, pid)
        if not self._comes_true(lambda: not self._is_needed()):
            raise HostError(
                f"dockerd has been told to read `{path}` again, and does not allow plain HTTP to {self._address}",
                hint="journalctl -u docker | tail shows why",
            )

    def _tell(self, path: Path, pid: Optional[int]) -> None:
        """Have dockerd read its settings again."""
        if pid is None:
            raise HostError(
                f"`{path}` is written, and it cannot be seen which process Docker's engine is", hint=_reload(None)
            )
        try:
            os.kill(pid, signal.SIGHUP)
        except OSError as error:
            raise HostError(
                f"`{path}` is written, and dockerd (process {pid}) cannot be told: {reason(error)}",
                hint=_reload(pid),
            ) from None

    def _comes_true(self, state: Callable[[], bool]) -> bool:
        """Wait until dockerd has read them."""
        deadline = time.monotonic() + _RELOAD_SECONDS
        while not state():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


def insecure_registry(job: DesiredState, host: Host, receipt: Receipt) -> InsecureRegistry:
    """Return the step that lets Docker speak plain HTTP; with TLS the reverse, where an earlier run has allowed it."""
    if job.access.tls and str(job.address) in receipt.names_made("insecure registry"):
        return ForbidInsecureRegistry(job, host, copies_of_settings(receipt))
    return InsecureRegistry(job, host)


def copies_of_settings(receipt: Receipt) -> list[Path]:
    """Return what installing kept of daemon.json."""
    return [Path(name) for name in receipt.names_made("file") if ".before-bundle" in Path(name).name]


class ForbidInsecureRegistry(InsecureRegistry):
    """The reverse: takes our entry out of daemon.json again.

    The file becomes what it was, to the byte, where nothing else in it was changed since; else only the entry goes.

    Args:
        copies: what `InsecureRegistry` kept of the file before it changed it.
    """

    def __init__(self, job: DesiredState, host: Host, copies: Sequence[Path]) -> None:
        super().__init__(job, host)
        self._copies = copies

    def question(self) -> Optional[str]:
        return None

    def problems(self) -> Sequence[Problem]:
        path, pid = self._path(), self._pid()
        hidden = self._unreachable()
        try:
            self._text()
        except HostError as error:
            hidden = hidden or Problem(str(path), error.message, error.hint)
        if hidden:
            # What cannot be seen matters only as long as the daemon goes by it.
            return [] if self._is_refused() else [hidden]
        if not self.look() or (is_writable(path) and _may_signal(pid)):
            return []
        return [Problem(str(path), "it cannot be written, or dockerd cannot be told", _AS_ROOT)]

    def look(self) -> Sequence[Change]:
        path = self._path()
        try:
            if self._rest() == self._text():
                return []
        except HostError:
            # What cannot be read is nothing to be fixed here.
            return []
        detail = "the file goes" if self._before() is None else f"from {path}"
        return [Change("remove", "insecure registry", self._address, f"{detail}, then SIGHUP to dockerd")]

    def explain(self, change: Change) -> str:
        return f"Docker may speak plain HTTP with {self._address}, which has TLS: it is still in `{SETTING}`"

    def _rest(self) -> str:
        """Return the file without our entry, and without the empty list that an interrupted `apply` has left.

        Raises:
            HostError: the text is not a JSON object.
        """
        text = self._text()
        rest = without(text, self._address)
        value: Any = json.loads(text) if text.strip() else None
        if rest != text or not isinstance(value, dict) or value.get(SETTING) != [] or self._was(value):
            return rest
        # With an entry in it the list is taken out as for everybody.
        return without(json.dumps({**value, SETTING: [self._address]}, indent=2, ensure_ascii=False), self._address)

    def _was(self, value: Any) -> bool:
        """Tell whether the file said just that before we changed it."""
        for copy in filter(None, map(read_optional, self._copies)):
            with contextlib.suppress(ValueError):
                if json.loads(copy) == value:
                    return True
        return False

    def _before(self) -> Optional[bytes]:
        """Return what the file is to be: its old bytes where they say the same; None when there was no file."""
        text = self._rest()
        copies = [copy for copy in map(read_optional, self._copies) if copy is not None]
        for copy in copies:
            with contextlib.suppress(ValueError):
                if json.loads(copy or b"{}") == json.loads(text):
                    return copy
        # With a copy, also one that has gone since, there was a file.
        return text.encode() if self._copies or json.loads(text) else None

    def apply(self, changes: Sequence[Change]) -> None:
        path, pid = self._path(), self._pid()
        mode = path.stat().st_mode & 0o777
        final = self._before()
        value = json.loads(self._rest())
        # dockerd keeps a setting that is not in the file any more, until it is restarted: so it is first told of none.
        told = {**value, SETTING: value.get(SETTING, [])}
        write_atomically(path, [json.dumps(told, indent=2).encode()], mode)
        self._tell(path, pid)
        self._comes_true(self._is_refused)
        if final is None:
            path.unlink()
        else:
            write_atomically(path, [final], mode)


def _reload(pid: Optional[int]) -> str:
    """Return the command that has the daemon read its settings again."""
    return "sudo systemctl reload docker" if pid is None else f"sudo kill -HUP {pid}"


def _may_signal(pid: Optional[int]) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
