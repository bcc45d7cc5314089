"""The kubectl command, with one that says what it was told to."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bundles.errors import HostError
from installer.host.docker.container import Outcome
from installer.host.kubectl import Kubectl, KubectlError, Namespace


def kubectl(directory: Path, script: str) -> Kubectl:
    program = directory / "kubectl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Kubectl({"PATH": f"{directory}:/usr/bin:/bin"})


def test_without_one_it_says_what_to_install(tmp_path: Path) -> None:
    command = Kubectl({"PATH": str(tmp_path)})
    assert command.is_installed is False
    # What is run is looked for where this program's own PATH leads.
    program = kubectl(tmp_path, "exit 0")
    assert program.is_installed is True


def test_what_it_writes_to_stderr_is_the_error_and_the_hint_can_be_typed(tmp_path: Path) -> None:
    command = kubectl(tmp_path, "echo 'error: context \"x y\" does not exist' >&2; exit 1")
    with pytest.raises(KubectlError) as caught:
        Namespace(command, ["--context", "x y"], "team").run("get", "pods")
    assert isinstance(caught.value, HostError)
    assert caught.value.message == 'error: context "x y" does not exist'
    assert caught.value.hint == "kubectl --context 'x y' --namespace team get pods"


def test_no_hint_shows_a_secret_or_waits(tmp_path: Path) -> None:
    command = kubectl(tmp_path, "echo refused >&2; exit 1")
    with pytest.raises(KubectlError) as caught:
        command.context("site")
    assert caught.value.hint == "kubectl config get-contexts"
    with pytest.raises(KubectlError) as caught:
        Namespace(command, ["--context", "site"], "team").create({"kind": "A"})
    assert caught.value.hint == "kubectl --context site --namespace team get pods"


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    command = kubectl(tmp_path, "exec sleep 60")
    began = time.monotonic()
    with pytest.raises(KubectlError, match=r"kubectl has not ended within 0 s"):
        Namespace(command, [], "team").run("get", "pods", seconds=0.2)
    assert time.monotonic() - began < 20
    # Whatever is asked has a limit.
    limits: list[Any] = []

    class Watched(Kubectl):
        def _run(self, arguments: Sequence[str], stdin: str, seconds: float) -> Outcome:
            limits.append(seconds)
            return Outcome(0, '{"kind": "A"}', "")

    watched = Watched({"PATH": str(tmp_path)})
    here = Namespace(watched, [], "team")
    for ask in (lambda: watched.context("x"), here.ask, lambda: here.get("pods"), here.create, here.apply):
        ask()
    assert limits == [60.0] * 5


def test_documents_one_after_the_other_and_lists_are_read(tmp_path: Path) -> None:
    two = json.dumps({"kind": "A"}, indent=4) + "\n" + json.dumps({"kind": "B"}) + "\n"
    command = kubectl(tmp_path, f"cat >{tmp_path}/stdin; cat <<'EOF'\n{two}EOF")
    here = Namespace(command, [], "team")
    assert [each["kind"] for each in here.create({"kind": "A"}, {"kind": "B"})] == ["A", "B"]
    assert json.loads((tmp_path / "stdin").read_text())["items"] == [{"kind": "A"}, {"kind": "B"}]
    found = json.dumps({"kind": "List", "items": [{"kind": "A"}]})
    assert Namespace(kubectl(tmp_path, f"echo '{found}'"), [], "team").get("a,b", "x") == [{"kind": "A"}]
    assert Namespace(kubectl(tmp_path, "true"), [], "team").get("a", "x") == []
