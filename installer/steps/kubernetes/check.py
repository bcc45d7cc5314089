"""Is the cluster ready for a builder? It is asked, and nothing is made there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from packaging.version import Version

from bundles.errors import Problem
from bundles.runtime.program import own_command, quote
from installer.host.docker.cli import buildx_version
from installer.host.host import Host
from installer.host.kubectl import KubectlError
from installer.host.paths import is_in_hosts
from installer.model.cluster import host_builder
from installer.model.job import DesiredState
from installer.model.step import Check
from installer.model.tool import ROOTLESS, ROOTLESS_TAG
from installer.steps.kubernetes.place import Place
from installer.steps.kubernetes.pull import trial_pod

# What buildx does, driver/kubernetes/driver.go, and this program: API group, resource, verbs.
_RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("apps", "deployments", ("get", "create", "delete")),
    ("", "pods", ("get", "list", "create", "delete")),
    ("", "pods/exec", ("create",)),
    ("", "configmaps", ("create", "update", "delete")),
)
_RIGHTS_WITH_VOLUME = (
    ("apps", "statefulsets", ("get", "create", "patch", "delete")),
    ("", "persistentvolumeclaims", ("list", "delete")),
)
_RIGHTS_WITH_LOGIN = (
    ("", "secrets", ("get", "create", "patch", "delete")),
    ("", "serviceaccounts", ("get", "create", "patch", "delete")),
)
_WHO = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
# persistent-volume-claim.requests.storage came with 0.34.
_OLDEST_WITH_VOLUME = Version("0.34")


class ClusterCheck(Check):
    """Asks kubectl, the API server, and the nodes as it knows them.

    Args:
        job: what is wanted.
        host: this host.
        archive: what is installed from.
        before: the installation before.
    """

    name = "kubernetes"

    def __init__(self, job: DesiredState, host: Host, archive: Path, before: Optional[DesiredState] = None) -> None:
        self._place, self._host, self._archive = Place.of(job, host), host, archive
        self._before = Place.of(before, host) if before and before.cluster else None
        self._context = self._place.cluster.context

    def problems(self) -> Sequence[Problem]:
        problems = [*self._of_this_host()]
        if not self._host.kubectl.is_installed:
            why = "there is no kubectl in PATH, and it is what asks the cluster"
            return [
                *problems,
                Problem("kubectl", why, "install kubectl; with k3s: sudo ln -s k3s /usr/local/bin/kubectl"),
            ]
        try:
            self._host.kubectl.context(self._context)
        except KubectlError as error:
            return [*problems, Problem(f"context `{self._context}`", error.message, "kubectl config get-contexts")]
        try:
            self._place.as_user.ask()
        except KubectlError as error:
            ask = self._place.as_user.typed_command("get pods")
            hint = f"{ask}; or without it: {_removal_command(self._archive)}"
            return [*problems, Problem(f"the API server of `{self._context}`", error.message, hint)]
        try:
            return [*problems, *self._of_cluster()]
        except KubectlError as error:
            return [*problems, error.as_problem(f"the API server of `{self._context}`")]

    def notes(self) -> Sequence[str]:
        name = self._place.state.address.host
        if not is_in_hosts(name, self._host.places):
            return []
        return [
            f"`{name}` is in this host's /etc/hosts, which pods do not read: the cluster's DNS, and each node, need it"
        ]

    def _of_this_host(self) -> Iterator[Problem]:
        place, before = self._place, self._before
        if before and (before.builder, str(before)) != (place.builder, str(place)):
            same = str(before) == str(place)
            kept = f"keep it with --builder {host_builder(before.builder)}, or " if same else ""
            yield Problem(
                "--kubernetes",
                f"the builder that is there is `{before.builder}` in {before}, and would be left",
                f"{kept}first: {_removal_command(self._archive, before)}",
            )
        address = place.state.address
        if address.is_loopback:
            yield Problem(
                "--kubernetes",
                f"the registry is at {address}, which means another machine on each node of the cluster",
                "install with --registry and an address of this host in the LAN, such as 192.168.10.10:5000",
            )
        if place.cluster.rootless and place.state.tool(ROOTLESS) is None:
            yield Problem(
                "--rootless",
                f"the archive has no BuildKit for it, whose tag has `{ROOTLESS_TAG}` in it",
                "bundle create ... moby/buildkit:buildx-stable-1-rootless, where there is internet",
            )
        found = buildx_version(self._host.cli) if place.cluster.volume else None
        if found and found < _OLDEST_WITH_VOLUME:
            yield Problem(
                "--cache-volume",
                f"`docker buildx` is {found}, and makes no volumes before {_OLDEST_WITH_VOLUME}",
                "upgrade buildx, or leave out --cache-volume",
            )

    def _of_cluster(self) -> Iterator[Problem]:
        denied, user = self._denied()
        name = self._place.cluster.namespace
        if denied:
            yield Problem(
                f"namespace `{name}`",
                f"{user} may not {', '.join(denied)}",
                # As somebody who may: a hint of this user's own context would be refused.
                f"its administrator: kubectl --namespace {name} create rolebinding "
                f"bundle-builder --clusterrole=edit --user={quote(user)}",
            )
        elif problem := self._refused():
            yield problem
        yield from self._of_nodes()

    def _denied(self) -> tuple[list[str], str]:
        """Return what may not be done, `create deployments`, and who it is that asks."""
        rights = [*_RIGHTS, *(_RIGHTS_WITH_VOLUME if self._place.cluster.volume else ())]
        rights += _RIGHTS_WITH_LOGIN if self._place.has_login else ()
        asked = [(group, resource, verb) for group, resource, verbs in rights for verb in verbs]
        said = self._place.as_user.create(*(self._review(*each) for each in asked), _WHO)
        denied = [
            f"{verb} {resource}"
            for (_, resource, verb), answer in zip(asked, said)
            if answer.get("status", {}).get("allowed") is not True
        ]
        return denied, str(said[-1].get("status", {}).get("userInfo", {}).get("username", "the user"))

    def _review(self, group: str, resource: str, verb: str) -> dict[str, Any]:
        name, _, sub = resource.partition("/")
        what = {"group": group, "resource": name, "subresource": sub, "verb": verb}
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**what, "namespace": self._place.cluster.namespace}},
        }

    def _refused(self) -> Optional[Problem]:
        """Return why the cluster would not make a pod such as the builder's: admission is asked, not the scheduler."""
        name = self._place.cluster.namespace
        try:
            self._place.as_user.create(trial_pod(self._place, account=False), dry_run=True)
        except KubectlError as error:
            hint = self._place.as_user.typed_command("get events")
            if "namespaces" in error.message and "not found" in error.message:
                hint = f"kubectl --context {quote(self._context)} create namespace {name}"
            elif "PodSecurity" in error.message:
                level = "pod-security.kubernetes.io/enforce=privileged"
                hint = f"kubectl --context {quote(self._context)} label --overwrite namespace {name} {level}"
            return Problem(f"namespace `{name}`", error.message, hint)
        return None

    def _of_nodes(self) -> Iterator[Problem]:
        try:
            nodes = self._place.as_user.get("nodes")
        except KubectlError:
            # Who has a namespace need not see the nodes.
            return
        selector = self._place.selector
        if not any(_is_ready(node) and _has_labels(node, selector) for node in nodes):
            labels = ",".join(f"{key}={value}" for key, value in selector.items())
            yield Problem(
                f"the nodes of `{self._context}`",
                f"none that is ready has {labels}",
                f"kubectl --context {quote(self._context)} get nodes --show-labels",
            )


def _removal_command(archive: Path, before: Optional[Place] = None) -> str:
    """Return the command that takes the builder on Kubernetes away: that of this host's builder, or of another's."""
    name = f" --builder {quote(host_builder(before.builder))}" if before else ""
    return own_command(f"install {quote(archive)}{name} --no-kubernetes")


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", ())
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _has_labels(node: dict[str, Any], selector: dict[str, str]) -> bool:
    labels = node.get("metadata", {}).get("labels", {})
    return all(labels.get(key) == value for key, value in selector.items())
