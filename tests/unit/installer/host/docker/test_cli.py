"""The docker command: missing, or failing."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.host.docker.cli import CommandError, DockerCLI
from installer.host.docker.engine import EngineEndpoint


def test_without_a_docker_command(tmp_path: Path) -> None:
    cli = DockerCLI({"PATH": str(tmp_path), "DOCKER_HOST": "tcp://far:2375"})
    assert not cli.is_installed
    assert cli.endpoint() == EngineEndpoint("tcp://far:2375")


def test_a_failed_command_shows_itself_and_its_words(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text('#!/bin/sh\necho "no space in $1" >&2\nexit 7\n')
    program.chmod(0o755)
    cli = DockerCLI({"PATH": f"{tmp_path}:/usr/bin:/bin"})
    with pytest.raises(CommandError) as caught:
        cli.run(["two words", "x"])
    assert caught.value.message == "exit code 7 from: docker 'two words' x\nno space in two words"
