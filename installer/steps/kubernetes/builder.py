"""The builder on Kubernetes, which buildx makes as a Deployment, or with a volume as a StatefulSet; and its undo.

A builder of buildx has one driver, so this is one of its own, beside that of this host, which stays the one that is
selected: a build goes to the cluster with `--builder`, and this host builds when the cluster does not answer.

The image, as everywhere, is named by its digest, and nodes pull it from the registry. It is for one architecture, and
so are the nodes; platforms of others are emulated by what BuildKit's image brings.

What buildx makes carries our annotation, which is one of its driver options. Its value says which
installation made it, and for which state.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from bundles.errors import HostError, Problem
from bundles.runtime.program import own_command
from installer.host.docker.cli import CommandError
from installer.host.files import remove_file, remove_tree
from installer.host.host import Host
from installer.host.kubectl import KubectlError
from installer.model.cluster import CLUSTER_BUILDER, host_builder
from installer.model.job import DesiredState
from installer.model.step import Change, Step
from installer.receipt.ledger import file_digest
from installer.receipt.receipt import Receipt
from installer.steps.builder.buildkitd_config import wanted_config
from installer.steps.builder.instance import ANNOTATIONS, Instance, builder_mark, read_instance
from installer.steps.kubernetes.place import Place, mark_of, wanted
from installer.steps.kubernetes.pull import trouble_of, try_pull

_CONFIG = "/etc/buildkit"
_CONTAINER = "buildkitd"


class ClusterBuilder(Step):
    """Creates the builder and has buildx start its pods."""

    name = CLUSTER_BUILDER

    def __init__(self, job: DesiredState, host: Host) -> None:
        self._place, self._host = Place.of(job, host), host
        self.builder = self._place.builder

    @property
    def mark(self) -> str:
        """Whose it is, and the name of the wanted state."""
        authority = self._place.state.access.authority
        return self._place.mark(
            config=wanted_config(self._place.state, self._host),
            options=self._options(),
            platforms=self._platforms,
            registry=file_digest(Path(authority)) if authority else None,
        )

    @property
    def logs(self) -> str:
        """The command that shows what BuildKit has to say."""
        return self._place.namespace.typed_command(f"logs --selector app={self._place.workload} --tail 100")

    @property
    def _platforms(self) -> str:
        return ",".join(map(str, self._place.state.platforms))

    def _options(self) -> list[str]:
        place, cluster = self._place, self._place.cluster
        options = {
            "image": place.tool.pinned,
            "namespace": cluster.namespace,
            "replicas": str(cluster.replicas),
            "nodeselector": ",".join(f"{key}={value}" for key, value in place.selector.items()),
            **({"rootless": "true"} if cluster.rootless else {}),
            **({"serviceaccount": place.account} if place.has_login else {}),
            **({"persistent-volume-claim.requests.storage": cluster.volume} if cluster.volume else {}),
        }
        return [f"{key}={value}" for key, value in options.items()]

    def _workload(self) -> Optional[dict[str, Any]]:
        return next(iter(self._place.namespace.get(self._place.kind, self._place.workload)), None)

    def problems(self) -> Sequence[Problem]:
        instance = read_instance(self._host, self.builder)
        if instance is not None and instance.mark is None:
            return [
                Problem(
                    f"builder `{self.builder}`",
                    f"it is not one that this program made (driver {instance.driver})",
                    f"choose another name with --builder, or remove it: docker buildx rm {self.builder}",
                )
            ]
        try:
            # A silent cluster is silent to this within 15 s, and to what asks for more within a minute.
            self._place.namespace.ask()
            found = self._workload()
        except HostError:
            # The check of the cluster says why.
            return []
        if found is not None and self._is_foreign(found, instance):
            remove = self._place.as_user.typed_command(f"delete {self._place.kind} {self._place.workload}")
            return [
                Problem(
                    f"{self._place.kind} `{self._place.workload}` in {self._place}",
                    "another host has made it, or something else, and this one does not touch it",
                    f"choose another name with --builder, another --namespace, or remove it: {remove}",
                )
            ]
        return []

    def _is_foreign(self, workload: dict[str, Any], instance: Optional[Instance]) -> bool:
        """Tell whether it is not this installation's; without a record of buildx's it has to be just what is wanted."""
        is_own = self._place.is_own(workload)
        if instance is None:
            return not is_own or mark_of(workload) != self.mark
        # The key may have been lost: then it is ours by buildx's record.
        return not is_own and mark_of(workload) != instance.mark

    def look(self) -> Sequence[Change]:
        cluster = self._place.cluster
        pods = "a pod" if cluster.replicas == 1 else f"{cluster.replicas} pods"
        detail = f"{self._place.tool.name} for {self._platforms}, {pods} in {self._place}"
        instance = read_instance(self._host, self.builder)
        if instance is None:
            return [Change("create", CLUSTER_BUILDER, self.builder, detail)]
        found = self._workload() if instance.mark == self.mark else None
        if instance.mark != self.mark or (found is not None and mark_of(found) != self.mark):
            kept = "the build cache is kept" if cluster.volume else "the build cache goes"
            return [Change("recreate", CLUSTER_BUILDER, self.builder, f"{detail}; {kept}")]
        if found is None or _ready(found) < cluster.replicas:
            return [Change("start", CLUSTER_BUILDER, self.builder, detail)]
        return [Change("configure", CLUSTER_BUILDER, self.builder, "mirrors")] if self._unmounted(found) else []

    def apply(self, changes: Sequence[Change]) -> None:
        instance = read_instance(self._host, self.builder)
        found = None if instance is None else self._workload()
        if instance is not None and (instance.mark != self.mark or (found and mark_of(found) != self.mark)):
            self._docker(["buildx", "rm", self.builder])
            self._await_end()
            instance, found = None, None
        if found is None:
            try_pull(self._place)
        if instance is None:
            self._create()
        self._docker(["buildx", "inspect", "--bootstrap", self.builder])
        self._mount()

    def explain(self, change: Change) -> str:
        says = {
            "create": "is gone",
            "recreate": "was made with another image or configuration",
            "start": f"does not have its pods ready in {self._place}",
            "configure": "does not read its configuration: mirrors are missing",
        }
        return f"the builder `{self.builder}` {says[change.action]}"

    def _create(self) -> None:
        mark = "".join(f"{ANNOTATIONS}={key}={value}" for key, value in wanted(self.mark).items())
        # buildx keeps the name of the file in its record, and goes by its current context.
        docker = self._host.cli.with_variable("KUBECONFIG", str(self._place.kubeconfig))
        config = self._host.places.buildkitd_config(self.builder)
        try:
            docker.run(
                [
                    *("buildx", "create", "--name", self.builder, "--node", self._place.node),
                    *("--driver", "kubernetes"),
                    # buildx reads an option as a line of CSV.
                    *(part for option in (*self._options(), mark) for part in ("--driver-opt", f'"{option}"')),
                    *("--platform", self._platforms, "--buildkitd-config", str(config)),
                    # A rootless one would look into its home.
                    *("--buildkitd-flags", f"--config={_CONFIG}/buildkitd.toml"),
                ]
            )
        except CommandError as error:
            raise HostError(
                f"the builder `{self.builder}` cannot be made: {error.message}",
                hint="leave out --cache-volume, which needs buildx 0.34 or newer"
                if self._place.cluster.volume
                else None,
            ) from None

    def _await_end(self) -> None:
        """Wait until what buildx removes is gone: pods of the same name would not be made anew before."""
        labels = f"--selector=app={self._place.workload}"
        self._place.namespace.run("wait", "--for=delete", "pod", labels, "--timeout=120s", seconds=150)

    def _unmounted(self, workload: Mapping[str, Any]) -> list[dict[str, str]]:
        """Return what of the configuration the pods do not see.

        With a volume buildx makes it the only mount: docker/buildx, driver/kubernetes/manifest, setupPersistentStorage.
        """
        spec = workload["spec"]["template"]["spec"]
        names = [volume["name"] for volume in spec.get("volumes", ()) if "configMap" in volume]
        seen = {mount["name"] for each in spec["containers"] for mount in each.get("volumeMounts", ())}
        return [{"name": name, "mountPath": self._mount_path(name)} for name in names if name not in seen]

    def _mount_path(self, volume: str) -> str:
        """Return where a ConfigMap of buildx's belongs: the first has the file, the next the CA that the file names."""
        if volume == "config":
            return _CONFIG
        name = f"{self._place.workload}-config"
        config = next(iter(self._place.namespace.get("configmap", name)), None)
        if config is None:
            # buildx makes it only together with the pods.
            remove = self._place.as_user.typed_command(f"delete {self._place.kind} {self._place.workload}")
            raise HostError(
                f"the configmap `{name}` in {self._place} is gone", hint=f"{remove}; then {own_command('doctor --fix')}"
            )
        # buildx writes the file anew, with quotes of either kind.
        match = re.search(rf"({_CONFIG}/certs/[^/\"']+)/", config["data"]["buildkitd.toml"])
        if match is None:
            raise HostError(f"the configuration of `{self.builder}` names no CA, and buildx has brought one")
        return match[1]

    def _mount(self) -> None:
        """Give the pods what `_unmounted` finds, and wait for those that have it."""
        workload = self._workload()
        missing = self._unmounted(workload) if workload else []
        if not missing:
            return
        containers = [{"name": _CONTAINER, "volumeMounts": missing}]
        patch = {"spec": {"template": {"spec": {"containers": containers}}}}
        name = f"{self._place.kind}/{self._place.workload}"
        self._place.namespace.run("patch", name, "--patch", json.dumps(patch))
        try:
            self._place.namespace.run("rollout", "status", name, "--timeout=180s", seconds=210)
        except KubectlError as error:
            raise self._explained(error.message) from None

    def _docker(self, arguments: Sequence[str]) -> None:
        try:
            self._host.cli.run(arguments)
        except CommandError as error:
            raise self._explained(error.message) from None

    def _explained(self, message: str) -> HostError:
        """Say what the pods themselves say of it."""
        lines = [f"the builder `{self.builder}` does not come up in {self._place}: {message}"]
        try:
            for pod in self._place.namespace.get("pod", f"--selector=app={self._place.workload}"):
                trouble = trouble_of(pod)
                node = pod.get("spec", {}).get("nodeName", "no node")
                if trouble:
                    lines.append(f"{pod['metadata']['name']} on {node}: {trouble[0]}: {trouble[1]}")
        except KubectlError:
            lines = lines[:1]
        return HostError("\n".join(lines), hint=f"{self.logs}; then run this again, it goes on")


def ready_pods(state: DesiredState, host: Host) -> Optional[int]:
    """Return how many pods of the builder are ready; None when the cluster does not say."""
    place = Place.of(state, host)
    try:
        return sum(map(_ready, place.namespace.get(place.kind, place.workload)))
    except HostError:
        return None


def _ready(workload: Mapping[str, Any]) -> int:
    return int(workload.get("status", {}).get("readyReplicas") or 0)


class RemoveCluster(Step):
    """Removes the builder on Kubernetes and what was made for it.

    Args:
        receipt: of the installation that has it.
        host: this host.
        data: whether its volumes go, too.
        files: whether its files on this host do; else they are left to who removes files.
    """

    name = CLUSTER_BUILDER

    def __init__(self, receipt: Receipt, host: Host, *, data: bool, files: bool = False) -> None:
        self._host, self._data = host, data
        self._place = Place.of(receipt.state, host)
        config = host.places.buildkitd_config(self._place.builder)
        self._files = [self._place.kubeconfig, config] if files else []
        self._left: list[str] = []

    @classmethod
    def all_of(cls, receipt: Receipt, host: Host, *, data: bool, files: bool = False) -> list[RemoveCluster]:
        """Return a step for each builder that there may be: a run that was killed may have left one of another name."""
        if receipt.state.cluster is None:
            return []
        made = map(host_builder, receipt.names_made(CLUSTER_BUILDER))
        states = [
            dataclasses.replace(receipt.state, builder=name) for name in dict.fromkeys((receipt.state.builder, *made))
        ]
        return [cls(dataclasses.replace(receipt, state=state), host, data=data, files=files) for state in states]

    def look(self) -> Sequence[Change]:
        self._left = []
        place, changes = self._place, []
        if builder_mark(self._host, place.builder):
            changes.append(Change("remove", CLUSTER_BUILDER, place.builder, f"from {place}"))
        try:
            changes += [Change("remove", kind, name) for kind, name in self._made()]
        except HostError as error:
            self._left = [f"what is in {place} stays: {error.message}; {self._by_hand()}"]
        return changes + [Change("remove", "file", str(path)) for path in self._files if path.exists()]

    def apply(self, changes: Sequence[Change]) -> None:
        place = self._place
        if any(change.kind == CLUSTER_BUILDER for change in changes):
            # What bears buildx's names there may be another host's by now.
            is_ours = bool(self._left) or any(change.kind == place.kind for change in changes)
            if not is_ours or self._host.cli.try_run(["buildx", "rm", place.builder]).code != 0:
                # Without its cluster only the record can go.
                self._host.cli.run(["buildx", "rm", "--force", "--keep-daemon", place.builder])
            for kind in ("activity", "refs"):
                remove_tree(self._host.places.buildx_config / kind / place.builder)
        for change in changes:
            if change.kind == "file":
                remove_file(Path(change.name))
            elif change.kind != CLUSTER_BUILDER:
                self._delete(change.kind, change.name)

    def _delete(self, kind: str, name: str) -> None:
        """Remove something from the cluster, which may refuse that: the rest of the undo does not wait for it."""
        try:
            self._place.namespace.run("delete", kind, name, "--ignore-not-found", seconds=180)
        except KubectlError as error:
            command = self._place.as_user.typed_command(f"delete {kind} {name}")
            self._left.append(f"{kind} `{name}` in {self._place} stays: {error.message}; {command}")

    def _by_hand(self) -> str:
        """Return the command that removes what may be in the cluster."""
        names = " ".join(self._names[:-1])
        text = f"delete --ignore-not-found deployment,statefulset,configmap,secret,serviceaccount {names}"
        if not (self._data and self._place.cluster.volume):
            return self._place.as_user.typed_command(text)
        claims = f"delete persistentvolumeclaim --selector app={self._place.workload}"
        return " && ".join(map(self._place.as_user.typed_command, (text, claims)))

    @property
    def _names(self) -> tuple[str, ...]:
        """The names of what is made in the cluster; the last is that of the pod of moments."""
        place = self._place
        return place.workload, f"{place.workload}-config", f"{place.workload}-config-1", place.account, place.trial

    def _made(self) -> list[tuple[str, str]]:
        """Return kind and name of what there is in the cluster that this installation made."""
        place = self._place
        place.namespace.ask()
        items = place.namespace.get(f"{place.kind},configmap,pod", *self._names)
        try:
            items += place.namespace.get("secret,serviceaccount", *self._names)
        except KubectlError as error:
            # Who may not see them has not had any made.
            if "forbidden" not in error.message:
                raise
        record = builder_mark(self._host, place.builder)
        found = [
            (each["kind"].lower(), each["metadata"]["name"])
            for each in items
            if place.is_own(each) or (record and mark_of(each) == record)
        ]
        claims = [("persistentvolumeclaim", name) for name in self._claims()] if self._data else []
        return found + claims

    def _claims(self) -> list[str]:
        """Return the names of the volumes of caches, also of an installation that had them before."""
        try:
            found = self._place.namespace.get("persistentvolumeclaim", f"--selector=app={self._place.workload}")
        except KubectlError:
            # Who may not see them has not had any made.
            return []
        return [each["metadata"]["name"] for each in found]

    def notes(self) -> Sequence[str]:
        place = self._place
        if self._left:
            return self._left
        if not self._data and self._claims():
            command = place.as_user.typed_command(f"delete persistentvolumeclaim --selector app={place.workload}")
            return [f"the volumes of the build cache in {place} stay; {command}"]
        return []
