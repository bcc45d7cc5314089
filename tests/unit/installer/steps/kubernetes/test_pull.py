"""The pod of moments that says whether a node can pull."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bundles.errors import HostError
from installer.model.cluster import Cluster
from installer.model.registry.access import Access
from installer.steps.kubernetes.place import Place
from installer.steps.kubernetes.pull import trouble_of, try_pull
from tests.support.fake_kubectl import FakeHost, state_with

SITE = Cluster("site", "team")


def pod(reason: str = "", message: str = "", phase: str = "Pending") -> dict[str, Any]:
    waiting = {"state": {"waiting": {"reason": reason, "message": message}}}
    statuses = [waiting] if reason else []
    return {"kind": "Pod", "spec": {"nodeName": "n1"}, "status": {"phase": phase, "containerStatuses": statuses}}


def place(tmp_path: Path, *pods: Any, **options: Any) -> tuple[Place, Any]:
    host = FakeHost.at(tmp_path, {"delete": "", "create": "{}", "get": list(pods)})
    return Place.of(state_with(SITE, **options), host), host.kubectl


def test_a_pod_that_ends_well_is_removed(tmp_path: Path) -> None:
    here, kubectl = place(tmp_path, pod("ContainerCreating"), pod("ContainerCreating"), pod(phase="Succeeded"))
    waits: list[float] = []
    try_pull(here, waits.append)
    assert len(waits) == 2
    assert [call[-2:] for call in kubectl.commands("delete")] == [
        ["--ignore-not-found", "--wait"],
        ["--ignore-not-found", "--wait=false"],
    ]


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_a_node_that_cannot_pull_is_told_what_it_has_to_have(tmp_path: Path, reason: str) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n")
    access = Access(tls=True, authority=str(authority))
    here, kubectl = place(tmp_path, pod(reason, "x509: unknown authority"), access=access)
    with pytest.raises(HostError) as caught:
        try_pull(here, lambda _: None)
    message = caught.value.message
    assert message.startswith(f"the node `n1` cannot pull `{here.tool.pinned}`: x509: unknown authority\n")
    assert '/etc/containerd/certs.d/192.168.10.10_5000_/hosts.toml:\nserver = "https://192.168.10.10:5000"' in message
    assert "/etc/rancher/k3s/registries.yaml:\nmirrors:" in message
    assert message.count("BEGIN CERTIFICATE") == 2
    assert "--wait=false" in kubectl.calls[-1][0]


def test_what_no_node_takes_is_waited_for_a_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pod()
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: taint"}
    nobody["status"]["conditions"] = [condition]
    here, _ = place(tmp_path, nobody)
    clock = [0.0]
    monkeypatch.setattr("installer.steps.kubernetes.pull.time.monotonic", lambda: clock[0])
    with pytest.raises(
        HostError, match="no pod of BuildKit starts in namespace team of site: Unschedulable: 0/1 nodes"
    ):
        try_pull(here, lambda seconds: clock.__setitem__(0, clock[0] + 5))
    assert clock[0] == 25


def test_an_image_that_does_not_start_is_no_question_of_pulling(tmp_path: Path) -> None:
    ended = {"state": {"terminated": {"reason": "StartError", "message": "exec: no such file"}}}
    broken = {"kind": "Pod", "spec": {}, "status": {"phase": "Failed", "containerStatuses": [ended]}}
    assert trouble_of(broken) == ("StartError", "exec: no such file")
    here, _ = place(tmp_path, broken)
    with pytest.raises(HostError, match="StartError: exec: no such file"):
        try_pull(here, lambda _: None)


def test_the_image_is_for_one_architecture_and_so_are_the_nodes(tmp_path: Path) -> None:
    here, kubectl = place(tmp_path, pod(phase="Succeeded"))
    try_pull(here, lambda _: None)
    (made,) = [stdin for call, stdin in kubectl.calls if "create" in call]
    assert '"nodeSelector": {"kubernetes.io/arch": "amd64"}' in made
    assert f'"image": "{here.tool.pinned}"' in made and '"privileged": true' in made
