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
import threading
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
)
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
                "run this without sudo; what needs root here, do first: sudo ... install without --node",
            )
        return None

    def run(self, arguments: Sequence[str], words: Sequence[str], stdin: Iterable[bytes] = ()) -> Outcome:
        """Run a command on another machine to its end, whatever its exit code.

        Args:
            arguments: what tells ssh which machine.
            words: the command.
            stdin: what it reads; what that raises is raised here.
        """
        command = ["ssh", *_OPTIONS, *arguments, shlex.join(words)]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment
            )
        except OSError as error:
            raise HostError(f"ssh cannot be run: {reason(error)}", hint="install openssh-client") from None
        with process:
            outputs: list[bytes] = [b"", b""]

            def read(number: int, stream: IO[bytes]) -> None:
                outputs[number] = stream.read()

            pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe]
            readers = [threading.Thread(target=read, args=item, daemon=True) for item in enumerate(pipes)]
            for reader in readers:
                reader.start()
            try:
                _feed(process.stdin, stdin)
                for reader in readers:
                    reader.join()
            except BaseException:
                process.kill()
                raise
        stdout, stderr = (output.decode("utf-8", "replace") for output in outputs)
        return Outcome(process.returncode, stdout, stderr)

    def fingerprints(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """Return `SHA256:... (TYPE)` of each key that answers where ssh looks for a machine; none when nothing does."""
        try:
            known = self._local(["ssh", "-G", *arguments])
            settings = dict(line.partition(" ")[::2] for line in known.splitlines())
            host, port = settings["hostname"], settings["port"]
            lines = self._local(["ssh-keyscan", "-T", "5", "-p", port, host]).splitlines()
            fields = [line.split() for line in lines if not line.startswith("#")]
            return tuple(f"{_fingerprint(field[2])} ({field[1]})" for field in fields if len(field) == 3)
        except (OSError, KeyError, ValueError):
            return ()

    def _local(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=self._environment
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
        value = json.loads(self._docker("info", "--format", "{{json .}}"))
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
        done = self._run(["docker", "load", "--quiet"], stream)
        if done.code != 0:
            raise HostError(f"Docker refused to load an image there: {done.stderr.strip()[-500:]}")

    def start_container(self, name: str) -> None:
        self._docker("start", name)

    def remove_container(self, name: str) -> None:
        """Remove a container; nothing happens when there is none."""
        if self.container(name) is not None:
            self._docker("rm", "--force", name)

    def remove_volume(self, name: str) -> None:
        """Remove a volume; nothing happens when there is none."""
        if self._inspect("volume", name):
            self._docker("volume", "rm", name)

    def remove_image(self, name: str) -> None:
        """Remove a name of an image, and the image with its last name, when nothing needs it."""
        self._run(["docker", "rmi", name])

    def _inspect(self, kind: str, name: str) -> dict[str, Any]:
        """Return what Docker knows of something; nothing when it is not there."""
        done = self._run(["docker", kind, "inspect", name])
        try:
            found = json.loads(done.stdout)
        except ValueError:
            raise HostError(f"`docker {kind} inspect` there: {done.stderr.strip()[-500:]}") from None
        return dict(found[0]) if found else {}

    def _docker(self, *words: str) -> str:
        done = self._run(["docker", *words])
        if done.code != 0:
            message = done.stderr.strip()[-500:]
            if done.code == _NO_COMMAND:
                raise HostError(f"there is no docker command: {message}", hint="install Docker Engine there")
            raise HostError(f"`docker {words[0]}` failed there: {message}", hint=self._in_group())
        return done.stdout

    def _in_group(self) -> str:
        return f"{self._typed} docker info; who logs in there has to be in the group docker: sudo usermod -aG docker"

    def _run(self, words: Sequence[str], stdin: Iterable[bytes] = ()) -> Outcome:
        done = self._ssh.run(self._arguments, words, stdin)
        if done.code != _NOT_THERE:
            return done
        raise self._refused(done.stderr)

    def _refused(self, said: str) -> UnreachableNodeError:
        """Explain what ssh says. It has one exit code for everything; its words only choose between next steps."""
        last = said.strip().splitlines()[-1] if said.strip() else "it says nothing"
        if "IDENTIFICATION HAS CHANGED" in said:
            return UnreachableNodeError(
                "it shows another host key than the one that is known: another machine may answer there",
                hint=f"find out why; only then: ssh-keygen -R, and {self._typed} to agree to the new one",
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
