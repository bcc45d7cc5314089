"""Who asks the cluster, and by what its nodes pull: buildx's kubeconfig, and a service account with a pull secret."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from typing import Any, Optional

from bundles.errors import HostError, Problem
from bundles.registry.auth import login_command
from bundles.runtime.program import quote
from installer.host.files import is_writable, read_optional, write_atomically
from installer.host.host import Host
from installer.host.kubectl import KubectlError
from installer.model.job import DesiredState
from installer.model.step import Change, Step
from installer.registry.connection import login_to
from installer.steps.kubernetes.place import ROLE, Place, mark_of, wanted


class ClusterAccess(Step):
    """Writes the kubeconfig and the key, and makes the service account where the registry wants a login."""

    name = "cluster access"

    def __init__(self, job: DesiredState, host: Host) -> None:
        self._place, self._host = Place.of(job, host), host

    def problems(self) -> Sequence[Problem]:
        # The key is beside it.
        path = self._place.kubeconfig
        if is_writable(path):
            return []
        return [Problem(str(path), "it cannot be written", f"sudo chown -R $USER {quote(path.parent)}")]

    def look(self) -> Sequence[Change]:
        place, changes = self._place, []
        if self._kubeconfig() != read_optional(place.kubeconfig):
            why = f"the context {place.cluster.context} alone, with its login"
            changes.append(Change("write", "file", str(place.kubeconfig), why))
        if not place.key:
            path = self._host.places.cluster_key
            changes.append(Change("write", "file", str(path), "what is made in the cluster is known by it"))
        if place.has_login and not self._has_account():
            changes.append(Change("create", "pull secret", place.account, f"with a service account, in {place}"))
        return changes

    def apply(self, changes: Sequence[Change]) -> None:
        place = self._place
        content = self._kubeconfig()
        if content is not None and content != read_optional(place.kubeconfig):
            write_atomically(place.kubeconfig, [content], 0o600)
        if not place.key:
            write_atomically(self._host.places.cluster_key, [secrets.token_hex(32).encode()], 0o600)
        if place.has_login and not self._has_account():
            place.namespace.apply(*self._account())

    def explain(self, change: Change) -> str:
        if change.name == str(self._host.places.cluster_key):
            return f"`{change.name}` is gone: what is in {self._place} is not known to be this host's"
        if change.kind == "file":
            return f"`{change.name}` is not what the kubeconfig has for the context {self._place.cluster.context}"
        return f"the pull secret `{change.name}` in {self._place} is gone, or has another login"

    def _kubeconfig(self) -> Optional[bytes]:
        """Return what the file is to be: what it is, where the user's kubeconfig has no such context any more."""
        try:
            return self._host.kubectl.context(self._place.cluster.context).encode()
        except KubectlError:
            found = read_optional(self._place.kubeconfig)
            if found is None:
                raise
            return found

    def _account(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the pull secret and the service account that has it."""
        place = self._place
        login = login_to(place.state)
        if login is None:
            raise HostError(
                f"there is no login for `{place.state.destination.host}` with which nodes could pull",
                hint=login_command(place.state.destination.host),
            )
        auth = base64.b64encode(":".join(login).encode()).decode()
        content = json.dumps({"auths": {place.state.destination.host: {"auth": auth}}})
        metadata = {"name": place.account, "labels": ROLE, "annotations": wanted(place.mark(login=content))}
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64.b64encode(content.encode()).decode()},
        }
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata,
            "automountServiceAccountToken": False,
            "imagePullSecrets": [{"name": place.account}],
        }
        return secret, account

    def _has_account(self) -> bool:
        try:
            marks = {mark_of(each) for each in self._account()}
        except HostError:
            # In a plan, the password of our own registry may not have been made yet.
            return False
        found = self._place.namespace.get("secret,serviceaccount", self._place.account)
        return len(found) == 2 and {mark_of(each) for each in found} == marks
