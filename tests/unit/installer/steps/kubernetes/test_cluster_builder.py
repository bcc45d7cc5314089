"""The builder on Kubernetes: what buildx is told, and what of it is seen to be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bundles.errors import HostError
from installer.model.cluster import Cluster
from installer.model.registry.access import Access
from installer.receipt.ledger import LedgerEntry
from installer.receipt.receipt import BundleName, Receipt
from installer.steps.builder.instance import read_instance
from installer.steps.kubernetes.access import ClusterAccess
from installer.steps.kubernetes.builder import ClusterBuilder, RemoveCluster, ready_pods
from installer.steps.kubernetes.place import Place, wanted
from tests.support.fake_kubectl import LAN, FakeHost, refused, state_with
from tests.support.states import desired

SITE = Cluster("site", "team")
NAME = "cross-builder-kubernetes"
READY_POD = {"kind": "Pod", "status": {"phase": "Succeeded"}}


def with_key(host: Any, key: str = "secret") -> None:
    """Have the host the key that installing makes up."""
    host.places.cluster_key.parent.mkdir(parents=True, exist_ok=True)
    host.places.cluster_key.write_text(key)


def on_record(host: Any, mark: str, driver: str = "kubernetes") -> None:
    """Have buildx know the builder."""
    place = host.places.buildx_config / "instances" / NAME
    place.parent.mkdir(parents=True, exist_ok=True)
    options = {"annotations": f"offline-bundle.wanted={mark}", "namespace": "team"} if mark else {}
    place.write_text(
        json.dumps({"Name": NAME, "Driver": driver, "Nodes": [{"Name": f"{NAME}0", "DriverOpts": options}]})
    )


def workload(mark: str, ready: int = 1, kind: str = "Deployment", mounted: bool = True) -> dict[str, Any]:
    mounts = [{"name": "config", "mountPath": "/etc/buildkit"}] if mounted else []
    spec = {
        "volumes": [{"name": "config", "configMap": {}}, {"name": "config-1", "configMap": {}}],
        "containers": [{"name": "buildkitd", "volumeMounts": [*mounts, {"name": "config-1"}] if mounted else []}],
    }
    return {
        "kind": kind,
        "metadata": {"name": f"{NAME}0", "annotations": wanted(mark)},
        "spec": {"template": {"spec": spec}},
        "status": {"readyReplicas": ready},
    }


def actions(step: ClusterBuilder) -> list[str]:
    return [change.action for change in step.look()]


def test_buildx_is_told_everything_and_selects_nothing(tmp_path: Path) -> None:
    cluster = Cluster("site", "team", replicas=2, volume="5Gi", selector=("disk=ssd",))
    host = FakeHost.at(tmp_path, {"pod": READY_POD})
    step = ClusterBuilder(state_with(cluster), host)
    assert actions(step) == ["create"]
    step.apply(step.look())
    create, inspect = host.cli.calls
    options = [create[number + 1] for number, word in enumerate(create) if word == "--driver-opt"]
    assert options == [
        f'"image={step._place.tool.pinned}"',
        '"namespace=team"',
        '"replicas=2"',
        '"nodeselector=kubernetes.io/arch=amd64,disk=ssd"',
        '"persistent-volume-claim.requests.storage=5Gi"',
        f'"annotations=offline-bundle.wanted={step.mark}"',
    ]
    assert "--use" not in create and create[create.index("--node") + 1] == f"{NAME}0"
    assert create[create.index("--platform") + 1] == "linux/amd64,linux/arm64"
    assert create[create.index("--buildkitd-flags") + 1] == "--config=/etc/buildkit/buildkitd.toml"
    assert inspect == ["buildx", "inspect", "--bootstrap", NAME]
    assert host.cli.variables == {"KUBECONFIG": str(host.places.kubeconfig(NAME))}


def test_what_is_as_it_was_made_is_left_alone(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, {})
    step = ClusterBuilder(state_with(SITE), host)
    on_record(host, step.mark)
    instance = read_instance(host, NAME)
    assert instance is not None and (instance.driver, instance.mark) == ("kubernetes", step.mark)
    host.kubectl.answers = {"deployment": workload(step.mark)}
    assert actions(step) == [] and step.problems() == []
    assert ready_pods(state_with(SITE), host) == 1
    host.kubectl.answers = {"deployment": workload(step.mark, ready=0)}
    assert actions(step) == ["start"]
    host.kubectl.answers = {"deployment": ""}
    assert actions(step) == ["start"]
    host.kubectl.answers = {"deployment": workload("other")}
    assert actions(step) == ["recreate"]
    # Whatever of it is another: more pods, another mirror.
    host.kubectl.answers = {"deployment": workload(step.mark)}
    assert actions(ClusterBuilder(state_with(Cluster("site", "team", replicas=3)), host)) == ["recreate"]


def test_what_another_made_is_a_problem(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, {"deployment": workload("other")})
    step = ClusterBuilder(state_with(SITE), host)
    (problem,) = step.problems()
    assert problem.subject == f"deployment `{NAME}0` in namespace team of site"
    assert problem.hint and problem.hint.endswith(f"kubectl --context site --namespace team delete deployment {NAME}0")
    on_record(host, "", driver="remote")
    (problem,) = step.problems()
    assert problem.message == "it is not one that this program made (driver remote)"


def test_two_hosts_that_want_the_same_leave_each_others_alone(tmp_path: Path) -> None:
    hosts = [FakeHost.at(tmp_path / name, {}) for name in ("one", "two")]
    for number, host in enumerate(hosts):
        with_key(host, f"key {number}")
    one, two = (ClusterBuilder(state_with(SITE), host) for host in hosts)
    hosts[0].kubectl.answers = hosts[1].kubectl.answers = {"deployment": workload(one.mark)}
    assert one.problems() == []
    assert [problem.subject for problem in two.problems()] == [f"deployment `{NAME}0` in namespace team of site"]
    # A host that has made nothing yet has no key.
    hosts[1].places.cluster_key.unlink()
    assert len(two.problems()) == 1
    with_key(hosts[1], "key 1")
    # Also where the second one had it, and lost it to the first.
    on_record(hosts[1], two.mark)
    assert len(two.problems()) == 1
    gone = RemoveCluster(Receipt(BundleName("x", "sha256:1", "/x.tar"), state_with(SITE)), hosts[1], data=False)
    hosts[1].kubectl.answers = {"deployment,configmap,pod": workload(one.mark)}
    assert [(change.kind, change.name) for change in gone.look()] == [("kubernetes builder", NAME)]
    gone.apply(gone.look())
    assert hosts[1].cli.calls == [["buildx", "rm", "--force", "--keep-daemon", NAME]]
    assert hosts[1].kubectl.commands("delete") == []
    # A host that has lost its key knows its own by buildx's record.
    on_record(hosts[0], one.mark)
    hosts[0].places.cluster_key.unlink()
    assert one.problems() == [] and actions(one) == ["recreate"]


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_configuration_that_buildx_has_forgotten_is_given_to_the_pods(tmp_path: Path, quote: str) -> None:
    cluster = Cluster("site", "team", volume="5Gi")
    toml = f"x = 1\n  ca = [{quote}/etc/buildkit/certs/192.168.10.10_5000/ca.pem{quote}]\n"
    host = FakeHost.at(tmp_path, {"configmap": {"kind": "ConfigMap", "data": {"buildkitd.toml": toml}}})
    step = ClusterBuilder(state_with(cluster), host)
    on_record(host, step.mark)
    host.kubectl.answers["statefulset"] = workload(step.mark, kind="StatefulSet", mounted=False)
    assert actions(step) == ["configure"]
    step.apply(step.look())
    (patch,) = host.kubectl.commands("patch")
    (container,) = json.loads(patch[-1])["spec"]["template"]["spec"]["containers"]
    assert container == {
        "name": "buildkitd",
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/buildkit"},
            {"name": "config-1", "mountPath": "/etc/buildkit/certs/192.168.10.10_5000"},
        ],
    }
    assert host.kubectl.commands("rollout")


def test_a_configuration_that_is_gone_from_the_cluster_is_said(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, {"configmap": ""})
    step = ClusterBuilder(state_with(Cluster("site", "team", volume="5Gi")), host)
    on_record(host, step.mark)
    host.kubectl.answers["statefulset"] = workload(step.mark, kind="StatefulSet", mounted=False)
    with pytest.raises(HostError, match=f"the configmap `{NAME}0-config` in namespace team of site is gone") as caught:
        step.look()
    remove = f"kubectl --context site --namespace team delete statefulset {NAME}0; then "
    assert caught.value.hint and caught.value.hint.startswith(remove)


def test_what_keeps_pods_from_coming_up_is_said(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, {})
    step = ClusterBuilder(state_with(SITE), host)
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off"}
    pod = {
        "metadata": {"name": "p"}, "spec": {"nodeName": "n2"},
        "status": {"containerStatuses": [{"state": {"waiting": waiting}}]},
    }  # fmt: skip
    host.kubectl.answers = {f"--selector=app={NAME}0": {"kind": "List", "items": [pod]}}
    error = step._explained("expected 1 replicas to be ready, got 0")
    assert "p on n2: CrashLoopBackOff: back-off" in error.message
    assert error.hint and f"logs --selector app={NAME}0" in error.hint


def test_the_login_goes_to_the_cluster_in_what_is_read_and_not_on_the_command_line(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    state = state_with(SITE, access=Access(tls=True, password=str(password)))
    host = FakeHost.at(tmp_path, {"view": {"current-context": "site"}, "get": ""})
    step = ClusterAccess(state, host)
    assert [(change.kind, change.action) for change in step.look()] == [
        ("file", "write"),
        ("file", "write"),
        ("pull secret", "create"),
    ]
    step.apply(step.look())
    key = host.places.cluster_key
    assert len(key.read_text()) == 64 and key.stat().st_mode & 0o777 == 0o600
    file = host.places.kubeconfig(NAME)
    assert json.loads(file.read_text()) == {"current-context": "site"} and file.stat().st_mode & 0o777 == 0o600
    applied = json.loads(next(stdin for call, stdin in host.kubectl.calls if "apply" in call))["items"]
    assert [item["kind"] for item in applied] == ["Secret", "ServiceAccount"]
    assert applied[1]["imagePullSecrets"] == [{"name": applied[0]["metadata"]["name"]}]
    assert not [call for call, _ in host.kubectl.calls if any("hunter2" in word for word in call)]
    host.kubectl.answers["get"] = {"kind": "List", "items": applied}
    assert step.look() == []
    # Everybody may read an annotation: without the key nothing is tried against it.
    marks = {item["metadata"]["annotations"]["offline-bundle.wanted"] for item in applied}
    known = key.read_text()
    key.write_text("another")
    step.apply(step.look())
    others = json.loads([stdin for call, stdin in host.kubectl.calls if "apply" in call][-1])["items"]
    assert not marks & {item["metadata"]["annotations"]["offline-bundle.wanted"] for item in others}
    key.write_text(known)
    # Another password makes another secret.
    password.write_text("hunter3\n")
    assert [change.kind for change in step.look()] == ["pull secret"]


def test_a_context_that_is_gone_leaves_what_was_taken_from_it(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, {"view": refused("error: context was not found")})
    step = ClusterAccess(state_with(SITE), host)
    with_key(host)
    with pytest.raises(HostError, match="context was not found"):
        step.look()
    file = host.places.kubeconfig(NAME)
    file.write_text("{}")
    assert step.look() == []


def test_what_was_made_in_a_cluster_that_is_gone_is_named_and_the_rest_goes(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, {"get": refused("dial tcp: i/o timeout")})
    state = state_with(SITE)
    on_record(host, "any")
    host.places.kubeconfig(NAME).parent.mkdir(parents=True)
    host.places.kubeconfig(NAME).write_text("{}")
    step = RemoveCluster(Receipt(BundleName("x", "sha256:1", "/x.tar"), state), host, data=True, files=True)
    assert [(change.kind, change.name) for change in step.look()] == [
        ("kubernetes builder", NAME),
        ("file", str(host.places.kubeconfig(NAME))),
    ]
    names = f"{NAME}0 {NAME}0-config {NAME}0-config-1 {NAME}0-pull"
    kinds = "deployment,statefulset,configmap,secret,serviceaccount"
    command = f"kubectl --context site --namespace team delete --ignore-not-found {kinds} {names}"
    assert step.notes() == [f"what is in namespace team of site stays: dial tcp: i/o timeout; {command}"]
    volumes = Receipt(BundleName("x", "sha256:1", "/x.tar"), state_with(Cluster("site", "team", volume="5Gi")))
    more = RemoveCluster(volumes, host, data=True)
    more.look()
    claims = f"kubectl --context site --namespace team delete persistentvolumeclaim --selector app={NAME}0"
    assert more.notes()[0].endswith(f"; {command} && {claims}")
    step.apply(step.look())
    assert not host.places.kubeconfig(NAME).exists()
    # One that is silent is asked what it answers soonest, and nothing after that.
    host.kubectl.calls.clear()
    step.look()
    assert [call[-1] for call, _ in host.kubectl.calls] == ["/version"]


def test_only_what_bears_our_mark_is_removed(tmp_path: Path) -> None:
    foreign = {"kind": "Secret", "metadata": {"name": f"{NAME}0-pull"}}
    host = FakeHost.at(tmp_path, {"secret,serviceaccount": foreign})
    with_key(host)
    host.kubectl.answers["deployment,configmap,pod"] = workload(Place.of(state_with(SITE), host).mark(any="state"))
    step = RemoveCluster(Receipt(BundleName("x", "sha256:1", "/x.tar"), state_with(SITE)), host, data=False)
    assert [(change.kind, change.name) for change in step.look()] == [("deployment", f"{NAME}0")]
    # Who may not see secrets had none made.
    host.kubectl.answers["secret,serviceaccount"] = refused("secrets is forbidden")
    assert len(step.look()) == 1 and step.notes() == []


def test_a_builder_of_another_name_is_taken_away_too(tmp_path: Path) -> None:
    """As when a run that was to do so, with another --builder, was killed."""
    host = FakeHost.at(tmp_path, {})
    bundle, made = BundleName("x", "sha256:1", "/x.tar"), (LedgerEntry("kubernetes builder", "mine-kubernetes"),)
    steps = RemoveCluster.all_of(Receipt(bundle, state_with(SITE), made=made), host, data=False, files=True)
    for step in steps:
        step.look()
    asked = [
        call[call.index("deployment,configmap,pod") + 1] for call in host.kubectl.commands("deployment,configmap,pod")
    ]
    assert asked == [f"{NAME}0", "mine-kubernetes0"]
    assert RemoveCluster.all_of(Receipt(bundle, desired(LAN)), host, data=False) == []


def test_what_a_cluster_refuses_to_remove_is_named_and_the_rest_goes(tmp_path: Path) -> None:
    host = FakeHost.at(tmp_path, {"delete deployment": refused("deployments.apps is forbidden")})
    with_key(host)
    mark = Place.of(state_with(SITE), host).mark(any="state")
    config = {**workload(mark), "kind": "ConfigMap"}
    host.kubectl.answers["deployment,configmap,pod"] = {"kind": "List", "items": [workload(mark), config]}
    step = RemoveCluster(Receipt(BundleName("x", "sha256:1", "/x.tar"), state_with(SITE)), host, data=False)
    step.apply(step.look())
    assert [call[-3:-1] for call in host.kubectl.commands("delete")] == [
        ["deployment", f"{NAME}0"],
        ["configmap", f"{NAME}0"],
    ]
    command = f"kubectl --context site --namespace team delete deployment {NAME}0"
    message = f"deployment `{NAME}0` in namespace team of site stays: deployments.apps is forbidden; {command}"
    assert step.notes() == [message]
