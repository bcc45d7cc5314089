"""Can a node pull from the registry? A pod of moments says so, and why not, and what each node is to be told then."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from bundles.errors import HostError
from bundles.runtime.program import quote
from installer.host.files import read_optional
from installer.model.registry.client_files import client_files
from installer.steps.kubernetes.place import ROLE, Place, wanted

_SECONDS = 300.0
_UNSCHEDULABLE_SECONDS = 20.0


def trial_pod(place: Place, *, account: bool) -> dict[str, Any]:
    """Return a pod that is to the cluster what the builder's is, and ends at once."""
    security: dict[str, Any] = {"privileged": True}
    if place.cluster.rootless:
        security = {"seccompProfile": {"type": "Unconfined"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": place.trial, "labels": ROLE, "annotations": wanted(place.mark(trial=place.workload))},
        "spec": {
            **({"serviceAccountName": place.account} if account else {}),
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": int(_SECONDS),
            "nodeSelector": place.selector,
            "containers": [
                {
                    "name": "buildkitd",
                    "image": place.tool.pinned,
                    "imagePullPolicy": "Always",
                    "command": ["buildctl", "--version"],
                    "securityContext": security,
                }
            ],
        },
    }


def try_pull(place: Place, sleep: Callable[[float], None] = time.sleep) -> None:
    """Have a node pull BuildKit's image and start it.

    Raises:
        HostError: no node takes it, or the one that did cannot pull it or start it; with what to do there.
    """
    pod, namespace = trial_pod(place, account=place.has_login), place.namespace
    name = pod["metadata"]["name"]
    # A killed run may have left one.
    namespace.run("delete", "pod", name, "--ignore-not-found", "--wait", seconds=120)
    namespace.create(pod)
    try:
        began = time.monotonic()
        while not _has_ended(place, name, time.monotonic() - began):
            sleep(0.5)
    finally:
        namespace.run("delete", "pod", name, "--ignore-not-found", "--wait=false")


def _has_ended(place: Place, name: str, seconds: float) -> bool:
    """Tell whether the pod has done what it is for.

    Raises:
        HostError: it never will.
    """
    events = place.namespace.typed_command(f"get events --field-selector involvedObject.name={name}")
    for pod in place.namespace.get("pod", name):
        status = pod.get("status", {})
        if status.get("phase") == "Succeeded":
            return True
        node = pod.get("spec", {}).get("nodeName")
        trouble = trouble_of(pod)
        if trouble and "Pull" in trouble[0]:
            raise HostError(
                f"the node `{node}` cannot pull `{place.tool.pinned}`: {trouble[1]}\n{for_each_node(place)}",
                hint="write that on each node, then run this again; it goes on",
            )
        if trouble and (trouble[0] != "Unschedulable" or seconds > _UNSCHEDULABLE_SECONDS):
            raise HostError(f"no pod of BuildKit starts in {place}: {trouble[0]}: {trouble[1]}", hint=events)
        if status.get("phase") == "Failed":
            raise HostError(f"BuildKit does not start on the node `{node}`: {status.get('message', '')}", hint=events)
    if seconds > _SECONDS:
        raise HostError(f"no pod of BuildKit has started in {place} within {_SECONDS:.0f} s", hint=events)
    return False


def trouble_of(pod: dict[str, Any]) -> Optional[tuple[str, str]]:
    """Return what a pod waits for in vain, as a word and a sentence; None when there is nothing of that kind."""
    status = pod.get("status", {})
    for container in status.get("containerStatuses", ()):
        for state in ("waiting", "terminated"):
            found = container.get("state", {}).get(state)
            harmless = ("ContainerCreating", "PodInitializing", "Completed")
            if found and found.get("reason") not in harmless:
                last = container.get("lastState", {}).get("terminated", {})
                said = found.get("message") or last.get("message") or f"exit code {found.get('exitCode')}"
                return str(found.get("reason")), str(said)
    for condition in status.get("conditions", ()):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason")), str(condition.get("message"))
    return None


def for_each_node(place: Place) -> str:
    """Return what has to be on each node, for its containerd or its k3s to pull from the registry."""
    state, texts = place.state, []
    authority = _authority(place)
    for kind, what in (("containerd", "with containerd"), ("k3s", "with k3s or rke2")):
        found = client_files(kind, state.destination, {}, tls=state.access.tls, authority=authority)
        texts += [f"on each node {what}, {quote(file.path)}:\n{file.content}" for file in found.files]
    return "\n".join(texts)


def _authority(place: Place) -> str:
    """Return the CA of the registry, in PEM; empty when those of the nodes' systems are enough."""
    authority = place.state.access.authority
    return (read_optional(Path(authority)) or b"").decode(errors="replace") if authority else ""
