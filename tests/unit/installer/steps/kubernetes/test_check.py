"""What is asked before anything is made in a cluster; that a real one answers so is in tests/e2e/test_kubernetes.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from installer.model.cluster import Cluster
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.address import Address
from installer.steps.kubernetes.check import ClusterCheck
from tests.support.fake_kubectl import FakeBuildx, FakeHost, refused, reviews, state_with
from tests.support.tools import tool

SITE = Cluster("site", "team")
ARCHIVE = Path("/media/my stick/offline.tar")
NODE = {
    "metadata": {"labels": {"kubernetes.io/arch": "amd64"}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}


def answers(**others: Any) -> dict[str, Any]:
    nodes = {"kind": "List", "items": [NODE]}
    return {**others, "config view": {}, "nodes": nodes, "create": reviews()}


def problems(host: Any, cluster: Cluster = SITE, **options: Any) -> dict[str, tuple[str, str]]:
    before = options.pop("before", None)
    found = ClusterCheck(state_with(cluster, **options), host, ARCHIVE, before).problems()
    return {problem.subject: (problem.message, problem.hint or "") for problem in found}


def test_a_cluster_that_allows_everything_is_no_problem_and_nothing_is_made(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, answers())
    assert problems(host) == {}
    writing = [call for call, _ in host.kubectl.calls if "create" in call]
    assert [call for call in writing if "--dry-run=server" in call] == writing[1:]
    assert '"SelfSubjectAccessReview"' in host.kubectl.calls[2][1]


def test_everything_of_this_host_is_said_at_once(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, answers(), cli=FakeBuildx("v0.29.1+ds1"))
    host.kubectl._installed = False
    cluster = Cluster("site", "team", rootless=True, volume="1Gi")
    found = problems(
        host, cluster, address=Address.parse("localhost:5000"), before=state_with(Cluster("other", "team"))
    )
    assert sorted(found) == ["--cache-volume", "--kubernetes", "--rootless", "kubectl"]
    assert host.kubectl.calls == []
    # The same option twice: both problems were there.
    both = ClusterCheck(
        state_with(cluster, address=Address.parse("localhost:5000")),
        host,
        ARCHIVE,
        state_with(Cluster("other", "team")),
    ).problems()
    said = [problem.message for problem in both if problem.subject == "--kubernetes"]
    assert "namespace team of other" in said[0] and "localhost:5000" in said[1]


def test_another_name_does_not_leave_the_builder_behind(tmp_path: Path) -> None:
    before = dataclasses.replace(state_with(SITE), builder="mine")
    host = FakeHost.at(tmp_path, answers())
    message, hint = problems(host, before=before)["--kubernetes"]
    assert message == "the builder that is there is `mine-kubernetes` in namespace team of site, and would be left"
    kept, _, first = hint.partition(", or first: ")
    assert kept == "keep it with --builder mine"
    assert first.endswith("install '/media/my stick/offline.tar' --builder mine --no-kubernetes")
    assert problems(host, before=state_with(SITE)) == {}
    assert problems(host, before=dataclasses.replace(before, cluster=None)) == {}


def test_a_rootless_buildkit_of_the_archive_will_do(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, answers())
    rootless = {"buildkit-rootless": tool("moby/buildkit:buildx-stable-1-rootless")}
    assert problems(host, Cluster("site", "team", rootless=True), **rootless) == {}
    pod = host.kubectl.calls[-2][1]
    assert "buildx-stable-1-rootless" not in pod and "sha256:" in pod
    assert "privileged" not in pod and "Unconfined" in pod


def test_an_api_server_that_does_not_answer_is_asked_no_more(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, {"/version": refused("dial tcp 10.0.0.1:6443: i/o timeout"), **answers()})
    ((subject, (message, hint)),) = problems(host).items()
    assert (subject, message) == ("the API server of `site`", "dial tcp 10.0.0.1:6443: i/o timeout")
    assert hint.endswith("install '/media/my stick/offline.tar' --no-kubernetes")
    assert len(host.kubectl.calls) == 2


def test_what_may_not_be_done_is_named_and_for_whom(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, {"create": reviews("ada", ("create deployments", "create pods/exec")), **answers()})
    host.kubectl.answers["create"] = reviews("ada", ("create deployments", "create pods/exec"))
    message, hint = problems(host)["namespace `team`"]
    assert message == "ada may not create deployments, create pods/exec"
    assert hint.endswith("kubectl --namespace team create rolebinding bundle-builder --clusterrole=edit --user=ada")


def test_secrets_are_asked_for_only_where_there_is_a_login(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, answers())
    host.kubectl.answers["create"] = reviews("ada", ("create secrets",))
    assert problems(host) == {}
    login = Access(tls=True, password=str(tmp_path / "password"))
    assert problems(host, access=login)["namespace `team`"][0] == "ada may not create secrets"
    assert PLAIN.password is None


def test_a_policy_that_refuses_the_pod_says_so_itself(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, {"--dry-run=server": refused('violates PodSecurity "baseline:latest"'), **answers()})
    message, hint = problems(host)["namespace `team`"]
    assert message == 'violates PodSecurity "baseline:latest"'
    assert hint.endswith("label --overwrite namespace team pod-security.kubernetes.io/enforce=privileged")


def test_nodes_that_may_not_be_seen_are_passed_over_and_others_have_to_fit(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, {"nodes": refused("forbidden"), **answers()})
    host.kubectl.answers["nodes"] = refused("nodes is forbidden")
    assert problems(host) == {}
    host.kubectl.answers["nodes"] = {"kind": "List", "items": [NODE]}
    assert "disk=ssd" in problems(host, Cluster("site", "team", selector=("disk=ssd",)))["the nodes of `site`"][0]


def test_a_name_that_only_this_host_knows_is_said(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, answers())
    state = state_with(SITE, address=Address.parse("registry.example:5000"))
    assert ClusterCheck(state, host, ARCHIVE).notes() == []
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("192.168.10.10 registry.example\n")
    (note,) = ClusterCheck(state, host, ARCHIVE).notes()
    assert note.startswith("`registry.example` is in this host's /etc/hosts, which pods do not read")
