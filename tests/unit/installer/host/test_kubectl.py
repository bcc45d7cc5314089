"""The kubectl command, with one that says what it was told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundles.errors import HostError
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


def test_documents_one_after_the_other_and_lists_are_read(tmp_path: Path) -> None:
    two = json.dumps({"kind": "A"}, indent=4) + "\n" + json.dumps({"kind": "B"}) + "\n"
    command = kubectl(tmp_path, f"cat >{tmp_path}/stdin; cat <<'EOF'\n{two}EOF")
    here = Namespace(command, [], "team")
    assert [each["kind"] for each in here.create({"kind": "A"}, {"kind": "B"})] == ["A", "B"]
    assert json.loads((tmp_path / "stdin").read_text())["items"] == [{"kind": "A"}, {"kind": "B"}]
    found = json.dumps({"kind": "List", "items": [{"kind": "A"}]})
    assert Namespace(kubectl(tmp_path, f"echo '{found}'"), [], "team").get("a,b", "x") == [{"kind": "A"}]
    assert Namespace(kubectl(tmp_path, "true"), [], "team").get("a", "x") == []
