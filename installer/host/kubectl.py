"""The kubectl command: what this host asks a cluster of Kubernetes with.

A kubeconfig is YAML, its logins may be programs, and its certificates stand in it or beside it: kubectl knows all of
that, and whoever has a kubeconfig has kubectl.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from bundles.errors import HostError, reason
from installer.host.docker.container import Outcome
from installer.host.relay import Relay
from installer.host.sudo import hand_over

# No question may wait for ever for a cluster that is gone.
_PATIENCE = "--request-timeout=20s"
# That is for one request, and kubectl makes many; and its login may be a program that waits.
_SECONDS = 60.0
_CONTEXTS = "kubectl config get-contexts"


class KubectlError(HostError):
    """A kubectl command failed: the message is what it wrote to stderr."""


class Kubectl:
    """Runs `kubectl ...` with the environment of this program.

    Args:
        environment: the variables it gets; KUBECONFIG among them. With BUNDLE_RELAY it is run through that directory.
    """

    def __init__(self, environment: Optional[Mapping[str, str]] = None) -> None:
        self._environment = dict(os.environ if environment is None else environment)
        relay = self._environment.get("BUNDLE_RELAY")
        self._relay = Relay(Path(relay)) if relay else None
        # It keeps there what it was told of a cluster.
        self._own = Path(self._environment.get("HOME") or "/") / ".kube"

    @property
    def is_installed(self) -> bool:
        if self._relay is not None:
            return self._relay.run(["sh", "-c", "command -v kubectl"], "").code == 0
        return shutil.which("kubectl", path=self._environment.get("PATH")) is not None

    def try_run(self, arguments: Sequence[str], stdin: str = "", seconds: float = _SECONDS) -> Outcome:
        """Run a command to its end, whatever its exit code; on the other side of a relay it may take its time.

        Raises:
            HostError: there is no kubectl.
            KubectlError: it has not ended within `seconds`.
        """
        began = time.time()
        try:
            return self._run(arguments, stdin, seconds)
        finally:
            hand_over([self._own], began)

    def _run(self, arguments: Sequence[str], stdin: str, seconds: float) -> Outcome:
        words = ["kubectl", *arguments]
        if self._relay is not None:
            return self._relay.run(words, stdin)
        try:
            done = subprocess.run(
                words, input=stdin, capture_output=True, check=False, encoding="utf-8", errors="replace",
                env=self._environment, timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise KubectlError(f"kubectl has not ended within {seconds:.0f} s", hint=_CONTEXTS) from None
        except OSError as error:
            raise HostError(
                f"kubectl cannot be run: {reason(error)}", hint="install kubectl; with k3s: ln -s k3s kubectl"
            ) from None
        return Outcome(done.returncode, done.stdout, done.stderr)

    def run(self, arguments: Sequence[str], stdin: str = "", seconds: float = _SECONDS) -> str:
        """Run a command and return what it printed.

        Raises:
            KubectlError: its exit code is not 0, or it has not ended within `seconds`.
        """
        done = self.try_run(arguments, stdin, seconds)
        if done.code != 0:
            text = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise KubectlError(text or f"exit code {done.code}", hint=_CONTEXTS)
        return done.stdout

    def context(self, name: str) -> str:
        """Return a kubeconfig, as JSON, with that context of the user's alone, which is its current one.

        It holds the login: it is for the user's own eyes. Nothing is asked of the cluster.

        Raises:
            KubectlError: there is no such context.
        """
        found = self.run(["config", "view", "--context", name, "--minify", "--flatten", "--raw", "-o", "json"])
        return json.dumps(json.loads(found), indent=2, sort_keys=True) + "\n"


class Namespace:
    """One namespace of a cluster, and what is in it.

    Args:
        kubectl: the command.
        access: what comes before every command, which says whose cluster: `--context` or `--kubeconfig`.
        name: the namespace.
    """

    def __init__(self, kubectl: Kubectl, access: Sequence[str], name: str) -> None:
        self._kubectl, self._before, self.name = kubectl, [*access, "--namespace", name], name

    def run(self, *arguments: str, stdin: str = "", seconds: float = _SECONDS) -> str:
        """Run a command there and return what it printed.

        Raises:
            KubectlError: its exit code is not 0, or it has not ended within `seconds`.
        """
        try:
            return self._kubectl.run([*self._before, *arguments], stdin, seconds)
        except KubectlError as error:
            # Not the command itself: it may wait for stdin, or show a secret.
            raise KubectlError(error.message, hint=self.typed_command("get pods")) from None

    def get(self, kinds: str, *names: str) -> list[dict[str, Any]]:
        """Return what there is of some kinds, `secret,serviceaccount`: all, or what bears one of `names`."""
        found = self.run("get", _PATIENCE, kinds, *names, "--ignore-not-found", "-o", "json")
        if not found.strip():
            return []
        value = json.loads(found)
        items: list[dict[str, Any]] = value["items"] if value["kind"] == "List" else [value]
        return items

    def ask(self) -> None:
        """Do nothing but ask the cluster whether it answers, and takes who asks.

        Raises:
            KubectlError: it does not.
        """
        self.run("get", _PATIENCE, "--raw", "/version")

    def create(self, *documents: Mapping[str, Any], dry_run: bool = False) -> list[dict[str, Any]]:
        """Make what documents describe, and return it as the cluster has it; a dry run makes nothing, and all checks.

        Raises:
            KubectlError: the cluster refuses it.
        """
        how = ["--dry-run=server"] if dry_run else []
        said = self.run("create", _PATIENCE, "--validate=false", *how, "-o", "json", "-f", "-", stdin=_list(documents))
        return _documents(said)

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Make what documents describe, or make what is there so.

        Raises:
            KubectlError: the cluster refuses it.
        """
        # By the server: nothing of a secret is left in an annotation.
        self.run("apply", _PATIENCE, "--server-side", "--force-conflicts", "-f", "-", stdin=_list(documents))

    def typed_command(self, text: str) -> str:
        """Return what a person types for a command there."""
        return f"{shlex.join(['kubectl', *self._before])} {text}"


def _list(documents: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})


def _documents(text: str) -> list[dict[str, Any]]:
    """Read one document after the other, as kubectl prints what it made; of a list what is in it."""
    decoder, at = json.JSONDecoder(), 0
    found: list[dict[str, Any]] = []
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        found += value["items"] if value.get("kind") == "List" else [value]
    return found
