"""Docker on another machine, asked through ssh: the docker command there, and nothing else that has to be there.

ssh asks nobody, and talks only to a machine whose key is known: who is asked whether to trust one is a person, once.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, Optional

from bundles.errors import HostError, reason
from bundles.oci.platform import Platform
from installer.host.docker.container import Container, Outcome
from installer.host.docker.engine import EngineInfo
from installer.host.sudo import settings_of_invoker

_CONNECT_SECONDS = 10
_OPTIONS = (
    *("-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}"),
    # A machine that goes away in the middle of something is noticed.
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"),
    # Each question has an end: it waits for no connection that stays, and leaves none.
    *("-o", "ControlMaster=no", "-o", "ControlPath=none"),
)
# A Docker that hangs answers no question; what it is told to do may take its time.
_ANSWER_SECONDS = 60
_WORK_SECONDS = 600
# What ssh ends with when it does not get there.
_NOT_THERE = 255
_NO_COMMAND = 127


class UnreachableNodeError(HostError):
    """ssh does not get to a machine, or is not let in."""


class Ssh:
    """The ssh command of this host, with its own configuration and keys.

    Args:
        environment: the variables that it gets.
    """

    def __init__(self, environment: Optional[Mapping[str, str]] = None) -> None:
        self._environment = dict(os.environ if environment is None else environment)

    def obstacle(self) -> Optional[tuple[str, str]]:
        """Return why builds would not reach machines as this program does, and what to do; None when they would."""
        if "BUNDLE_RELAY" in self._environment:
            return (
                "this program runs in a container, where the ssh of this host and its keys are not",
                "install Python 3.9 or later on this host, and run the archive with it",
            )
        if settings_of_invoker(self._environment):
            return (
                "under sudo ssh has root's keys and known hosts, and your builds will have yours",
                "run this without sudo; what needs root here apart from it: sudo ... install before node add, "
                "sudo ... uninstall after node remove",
            )
        return None

    def run(
        self,
        arguments: Sequence[str],
        words: Sequence[str],
        stdin: Iterable[bytes] = (),
        seconds: Optional[float] = None,
    ) -> Outcome:
        """Run a command on another machine to its end, whatever its exit code.

        Args:
            arguments: what tells ssh which machine.
            words: the command.
            stdin: what it reads; what that raises is raised here.
            seconds: how long it may take.

        Raises:
            HostError: there is no ssh command.
            subprocess.TimeoutExpired: it takes longer.
        """
        command = ["ssh", *_OPTIONS, *arguments, shlex.join(words)]
        # Files, since what ssh leaves behind (a ProxyCommand's) may keep a pipe open for ever.
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, env=self._environment
                )
            except OSError as error:
                raise HostError(f"ssh cannot be run: {reason(error)}", hint="install openssh-client") from None
            with process:
                try:
                    _feed(process.stdin, stdin)
                    process.wait(seconds)
                except BaseException:
                    process.kill()
                    raise
            return Outcome(process.returncode, _text(stdout), _text(stderr))

    def known_as(self, arguments: Sequence[str]) -> Optional[str]:
        """Return the name under which ssh knows the key of a machine; None when it does not tell."""
        try:
            settings = self._settings(arguments)
            host, port = settings.get("hostkeyalias") or settings["hostname"], settings["port"]
        except (OSError, KeyError, subprocess.SubprocessError):
            return None
        return host if port == "22" or "hostkeyalias" in settings else f"[{host}]:{port}"

    def fingerprints(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """Return `SHA256:... (TYPE)` of each key that answers where ssh looks for a machine; none when nothing does."""
        try:
            settings = self._settings(arguments)
            host, port = settings["hostname"], settings["port"]
            lines = self._local(["ssh-keyscan", "-T", "5", "-p", port, host]).splitlines()
            fields = [line.split() for line in lines if not line.startswith("#")]
            return tuple(f"{_fingerprint(field[2])} ({field[1]})" for field in fields if len(field) == 3)
        except (OSError, KeyError, ValueError, subprocess.SubprocessError):
            return ()

    def _settings(self, arguments: Sequence[str]) -> dict[str, str]:
        """Return what ssh's configuration comes to for a machine."""
        lines = self._local(["ssh", "-G", *arguments]).splitlines()
        return dict(line.partition(" ")[::2] for line in lines)

    def _local(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env=self._environment,
            timeout=_ANSWER_SECONDS,
        )
        return done.stdout.decode("utf-8", "replace")


def _feed(pipe: Optional[IO[bytes]], pieces: Iterable[bytes]) -> None:
    """Write to a pipe and close it. Who reads it may have ended, and says why elsewhere."""
    if pipe is None:
        return
    try:
        with contextlib.suppress(BrokenPipeError):
            for piece in pieces:
                pipe.write(piece)
    finally:
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _fingerprint(key: str) -> str:
    digest = hashlib.sha256(base64.b64decode(key, validate=True)).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


class RemoteDocker:
    """The Docker of one machine.

    Every method may raise UnreachableNodeError when ssh does not get there, HostError when Docker refuses.

    Args:
        ssh: the way.
        arguments: what tells ssh which machine.
        typed: what a person types to get there.
    """

    def __init__(self, ssh: Ssh, arguments: Sequence[str], typed: str) -> None:
        self._ssh, self._arguments, self._typed = ssh, arguments, typed

    def info(self) -> tuple[EngineInfo, str]:
        """Return what the engine says of itself, and what tells it from others."""
        said = self._docker("info", "--format", "{{json .}}")
        try:
            value = json.loads(said)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise self._talks(said)
        errors = value.get("ServerErrors")
        if errors:
            raise HostError(f"Docker does not answer there: {'; '.join(map(str, errors))}", hint=self._in_group())
        info = EngineInfo(
            version=str(value.get("ServerVersion", "")),
            platform=Platform(value.get("OSType") or "linux", value.get("Architecture") or "unknown"),
            root=str(value.get("DockerRootDir") or ""),
            security=tuple(value.get("SecurityOptions") or ()),
            insecure_registries=(),
        )
        # Machines that were cloned from one disk may have one ID.
        return info, f"{value.get('ID')} {value.get('Name')}"

    def free_space(self, path: str) -> Optional[int]:
        """Return the bytes that are free for a directory there; None when that is not told."""
        with contextlib.suppress(IndexError, ValueError):
            return int(self._run(["df", "-Pk", path]).stdout.splitlines()[-1].split()[-3]) << 10
        return None

    def image_id(self, name: str) -> Optional[str]:
        """Return the id of an image, None when it is not there."""
        found = self._inspect("image", name)
        return str(found["Id"]) if found else None

    def image_names(self, image_id: str) -> tuple[str, ...]:
        """Return the names of an image; none when it is not there."""
        return tuple(self._inspect("image", image_id).get("RepoTags") or ())

    def container_names(self) -> tuple[str, ...]:
        """Return the names of all containers, running or not."""
        return tuple(self._docker("container", "ls", "--all", "--format", "{{.Names}}").split())

    def container(self, name: str) -> Optional[Container]:
        """Return the container of that name, running or not, or None."""
        value = self._inspect("container", name)
        if not value:
            return None
        config = value.get("Config") or {}
        return Container(
            id=value["Id"],
            name=value["Name"].lstrip("/"),
            image_id=value["Image"],
            state=value["State"]["Status"],
            labels=config.get("Labels") or {},
            environment=dict(entry.partition("=")[::2] for entry in config.get("Env") or ()),
        )

    def load(self, stream: Iterator[bytes]) -> None:
        """Load a Docker archive from its bytes; whatever `stream` raises is raised here."""
        done = self._run(["docker", "load", "--quiet"], stream, seconds=None)
        if done.code != 0:
            raise HostError(f"Docker refused to load an image there: {done.stderr.strip()[-500:]}")

    def start_container(self, name: str) -> None:
        self._docker("start", name, seconds=_WORK_SECONDS)

    def remove_container(self, name: str) -> None:
        """Remove a container; nothing happens when there is none."""
        if self.container(name) is not None:
            self._docker("rm", "--force", name, seconds=_WORK_SECONDS)

    def remove_volume(self, name: str) -> None:
        """Remove a volume; nothing happens when there is none."""
        if self._inspect("volume", name):
            self._docker("volume", "rm", name, seconds=_WORK_SECONDS)

    def remove_image(self, name: str) -> None:
        """Remove a name of an image, and the image with its last name, when nothing needs it."""
        self._run(["docker", "rmi", name], seconds=_WORK_SECONDS)

    def _inspect(self, kind: str, name: str) -> dict[str, Any]:
        """Return what Docker knows of something; nothing when it is not there."""
        done = self._run(["docker", kind, "inspect", name])
        try:
            found = json.loads(done.stdout)
        except ValueError:
            if done.stdout.strip():
                raise self._talks(done.stdout) from None
            raise HostError(f"`docker {kind} inspect` there: {done.stderr.strip()[-500:]}") from None
        return dict(found[0]) if found else {}

    def _docker(self, *words: str, seconds: float = _ANSWER_SECONDS) -> str:
        done = self._run(["docker", *words], seconds=seconds)
        if done.code != 0:
            message = done.stderr.strip()[-500:]
            if done.code == _NO_COMMAND:
                raise HostError(f"there is no docker command: {message}", hint="install Docker Engine there")
            raise HostError(f"`docker {words[0]}` failed there: {message}", hint=self._in_group())
        return done.stdout

    def _in_group(self) -> str:
        return f"{self._typed} docker info; who logs in there has to be in the group docker: sudo usermod -aG docker"

    def _talks(self, said: str) -> HostError:
        """Explain an answer that is not Docker's alone: the shell there runs what its user has written for it."""
        first = said.strip().partition("\n")[0][:100]
        return HostError(
            f"the login shell there prints something of its own: `{first}`, where Docker's answer was expected",
            hint=f"{self._typed} true has to print nothing; see ~/.bashrc, ~/.zshenv and the like there",
        )

    def _run(
        self, words: Sequence[str], stdin: Iterable[bytes] = (), seconds: Optional[float] = _ANSWER_SECONDS
    ) -> Outcome:
        try:
            done = self._ssh.run(self._arguments, words, stdin, seconds)
        except subprocess.TimeoutExpired:
            raise HostError(
                f"`{shlex.join(words[:2])}` there has not ended within {seconds} s",
                hint=f"{self._typed} docker container ls",
            ) from None
        if done.code != _NOT_THERE:
            return done
        raise self._refused(done.stderr)

    def _refused(self, said: str) -> UnreachableNodeError:
        """Explain what ssh says. It has one exit code for everything; its words only choose between next steps."""
        last = said.strip().splitlines()[-1] if said.strip() else "it says nothing"
        if "IDENTIFICATION HAS CHANGED" in said:
            known_as = self._ssh.known_as(self._arguments)
            name = shlex.quote(known_as) if known_as else "HOST"
            return UnreachableNodeError(
                "it shows another host key than the one that is known: another machine may answer there",
                hint=f"find out why; only then: ssh-keygen -R {name}, and {self._typed} to agree to the new one",
            )
        if "Host key verification failed" in said:
            shown = self._ssh.fingerprints(self._arguments)
            keys = f"; what answers shows {', '.join(shown)}" if shown else ""
            return UnreachableNodeError(
                f"its host key is not known here{keys}",
                hint="compare with what the machine itself says: for f in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen "
                f"-lf $f; done; then agree to it once: {self._typed}",
            )
        if "Permission denied" in said:
            return UnreachableNodeError(
                f"it does not let in: {last}",
                hint=f"a key that needs no question (an agent, or no passphrase): ssh-copy-id{self._typed[3:]}",
            )
        return UnreachableNodeError(f"ssh does not get there: {last}", hint=f"{self._typed} docker info")
