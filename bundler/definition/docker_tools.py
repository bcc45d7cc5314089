"""`docker compose config` and `docker buildx bake --print`: asking them what a file means.

They need no engine. What is asked of Compose is what building needs, not what running does: the variables of containers
stay as they are (docker/compose#10995).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from bundler.definition.build_files import compose_files_told
from bundles.errors import UsageError

_TIMEOUT = 120
# What each says to `version`. docker-compose 1 and what podman has under these names say something else.
_VERSIONS = {
    "buildx": re.compile(r"github\.com/docker/buildx"),
    "compose": re.compile(r"Docker Compose version v?(?P<major>\d+|dev)(?:\.(?P<minor>\d+))?"),
}
# What Compose says of a variable without a value in `${NAME:?}` (compose-go, template.go).
_REQUIRED = re.compile(rb"required variable (\w+) is missing a value")
# The first version of Compose that can leave `env_file` alone by itself (`config --no-env-resolution`).
_WITHOUT_ENVIRONMENT = (2, 35)


class MissingToolError(UsageError):
    """The program that a file is written for is not installed."""


@dataclasses.dataclass(frozen=True)
class Tool:
    """How a plugin of docker is called here, and its version; None when it does not say one."""

    command: tuple[str, ...]
    version: Optional[tuple[int, int]] = None

    @classmethod
    def find(cls, name: str) -> Tool:
        """Find `docker buildx` or `docker compose`, as a plugin of docker or by itself.

        Raises:
            MissingToolError: it is not installed, or what has its name is something else.
        """
        docker = shutil.which("docker")
        alone = shutil.which(f"docker-{name}") or (shutil.which(name) if name == "buildx" else None)
        for command in ([docker, name] if docker else [], [alone] if alone else []):
            if command:
                done = _run([*command, "version"], Path.cwd())
                match = _VERSIONS[name].search(done.stdout.decode(errors="replace"))
                if done.returncode == 0 and match:
                    return cls.of(command, match.groupdict())
        another = f"; `{alone}` is another program, or too old" if alone else ""
        raise MissingToolError(
            f"`docker {name}`, which reads such a file, is not installed here{another}",
            hint="install it, or name the Dockerfiles themselves: --dockerfile PATH",
        )

    @classmethod
    def of(cls, command: Sequence[str], version: Mapping[str, Optional[str]]) -> Tool:
        """Return the tool that says this version; one that was built from a checkout (`dev`) says none."""
        major, minor = version.get("major"), version.get("minor")
        return cls(tuple(command), (int(major), int(minor)) if major and minor else None)


def read_bake(
    tool: Tool, directory: Path, files: Sequence[str], environment: Mapping[str, str], names: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what Bake makes of `files` in `directory`, or without any of those that it takes by itself.

    The targets and groups that are named, else every target that there is, or where buildx is too old to list those,
    the default ones.
    """
    command = [*tool.command, "bake", *_file_options(files), "--print"]
    done = _run([*command, *(names or ["*"])], directory, environment)
    if done.returncode and not names:
        done = _run(command, directory, environment)
    # What it prints is a Bake file again, in which these begin a variable (bake/bake.go, Target.MarshalJSON).
    done.stdout = done.stdout.replace(b"$${", b"${").replace(b"%%{", b"%{")
    return _document(done, directory)


def read_compose(tool: Tool, directory: Path, files: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what Compose makes of `files` in `directory`, or without any of those that it takes by itself.

    A variable that must have a value (`${PASSWORD:?}`) needs none where only running asks for it.
    """
    first = done = _config(tool, directory, files, environment)
    unset: list[str] = []
    while done.returncode and (missing := _REQUIRED.search(done.stderr)) and missing[1].decode() not in unset:
        unset.append(missing[1].decode())
        done = _config(tool, directory, files, {**environment, **dict.fromkeys(unset, "1")})
    if not unset or done.returncode:
        return _plain(first, directory)
    # What is the same for any value has nothing to do with it.
    other = _config(tool, directory, files, {**environment, **dict.fromkeys(unset, "2")})
    document = _plain(done, directory)
    same = _needed_to_build(document) == _needed_to_build(_plain(other, directory))
    return document if same else _plain(first, directory)


def _needed_to_build(document: Mapping[str, Any]) -> list[Any]:
    """Return what of a project is asked for here: what its services build, and which images they are made of."""
    kept: list[Any] = []
    for service in (document.get("services") or {}).values():
        images = [volume for volume in service.get("volumes") or () if volume.get("type") == "image"]
        kept += [images, *(service.get(key) for key in ("build", "image", "platform", "pre_start"))]
    return kept


def _config(
    tool: Tool, directory: Path, files: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Ask Compose, and when it may have missed a file that only running needs, once more without those."""
    start = [*tool.command, *_file_options(files), "--profile", "*"]
    config = ["config", "--format", "json"]
    if tool.version is None or tool.version >= _WITHOUT_ENVIRONMENT:
        config.append("--no-env-resolution")
    done = _run([*start, *config], directory, environment)
    files = files or compose_files_told(directory, environment)
    if done.returncode and files:
        # They are taken back by a file that is read last.
        services = _services(_run([*start, "config", "--format", "json", "--no-interpolate"], directory, environment))
        if services:
            command = [*tool.command, *_file_options([*files, "-"]), "--profile", "*", *config]
            again = _run(command, directory, environment, stdin=_without_run_files(services))
            done = done if again.returncode else again
    return done


def _services(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """Return the names of the services in what Compose printed, none when it failed."""
    try:
        return sorted(json.loads(done.stdout)["services"])
    except (ValueError, KeyError, TypeError):
        return []


def _plain(done: subprocess.CompletedProcess[bytes], directory: Path) -> dict[str, Any]:
    """Return what Compose has printed without the doubling of each `$`, which makes it a Compose file again."""
    done.stdout = done.stdout.replace(b"$$", b"$")
    return _document(done, directory)


def _without_run_files(services: Sequence[str]) -> bytes:
    keys = "env_file: !reset []\n    label_file: !reset []"
    return "\n".join(["services:", *(f"  {json.dumps(name)}:\n    {keys}" for name in services), ""]).encode()


def _file_options(files: Sequence[str]) -> list[str]:
    return [part for name in files for part in ("--file", name)]


def _run(
    command: Sequence[str], directory: Path, environment: Optional[Mapping[str, str]] = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a tool to its end, however it ends.

    Raises:
        UsageError: it does not end, or cannot be run.
    """
    # The shell's PWD would be a place that the tool is not in.
    environment = {**(os.environ if environment is None else environment), "PWD": str(directory.absolute())}
    try:
        return subprocess.run(
            command, cwd=directory, env=environment, input=stdin, capture_output=True, check=False, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"`{' '.join(command)}` does not end within {_TIMEOUT} seconds",
            hint="see what it does by itself, or name the Dockerfiles themselves: --dockerfile PATH",
        ) from None
    except OSError as error:
        raise UsageError(f"`{' '.join(command)}` cannot be run: {error}") from None


def _document(done: subprocess.CompletedProcess[bytes], directory: Path) -> dict[str, Any]:
    """Return the JSON object that a tool has printed.

    Raises:
        UsageError: it failed, with its own words.
    """
    command = " ".join(done.args)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()
        raise UsageError(f"{command} cannot read it, in {directory.absolute()}:\n{words[-2000:]}")
    try:
        document = json.loads(done.stdout)
    except ValueError as error:
        raise UsageError(f"{command} printed no JSON ({error})") from None
    return document if isinstance(document, dict) else {}
