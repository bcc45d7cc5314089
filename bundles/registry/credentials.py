"""The logins that docker, podman and others left behind, in their files and in credential helpers.

Looked through in this order: the JSON in $DOCKER_AUTH_CONFIG, the file that $REGISTRY_AUTH_FILE names, Docker's
config.json, and podman's auth.json. All have the same form (containers-auth.json(5), docs.docker.com "docker login").
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from bundles.errors import AuthenticationError, UsageError, reason
from bundles.oci.reference import DOCKER_HUB, registry_name
from bundles.registry.auth import Credential
from bundles.runtime.program import quote
from bundles.runtime.system import system

# The key of Docker Hub in config.json and in credential helpers, for historical reasons.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"


class Credentials:
    """All logins that there are for a registry. Thread-safe; each file and each helper is asked once.

    Nothing is read before the first login is wanted: most registries never ask. A file that is not there has none.

    Args:
        config_dir: where Docker's config.json is, and then nothing else is looked at; by default $DOCKER_CONFIG, else
            ~/.docker, with the others.
        environment: of whom the logins are.
    """

    def __init__(self, config_dir: Optional[Path] = None, environment: Optional[Mapping[str, str]] = None) -> None:
        if config_dir:
            self._files = [LoginFile(config_dir / "config.json")]
        else:
            known = os.environ if environment is None else environment
            self._files = [LoginFile(*place) for place in _places(known)]

    def get(self, host: str, repository: str) -> Iterator[Credential]:
        """Give the logins for a repository of a registry, the best of each file first.

        Raises:
            UsageError: a file cannot be read.
            AuthenticationError: the credential helper failed.
        """
        for file in self._files:
            yield from file.logins(host, repository)


def _places(environment: Mapping[str, str]) -> Iterator[tuple[Path, Optional[str]]]:
    """Give the files, each with its content when that is known already."""
    if text := environment.get("DOCKER_AUTH_CONFIG"):
        yield Path("$DOCKER_AUTH_CONFIG"), text
    if name := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(name), None
    home = system.home(environment)
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json", None
    if directory := environment.get("XDG_RUNTIME_DIR"):
        yield Path(directory) / "containers" / "auth.json", None
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json", None


@dataclasses.dataclass(frozen=True)
class _Key:
    """What a key of `auths` stands for: a registry, or part of one: `ghcr.io/org`."""

    host: str
    path: str

    @classmethod
    def parse(cls, text: str) -> _Key:
        host, _, path = text.rpartition("://")[2].partition("/")
        # A path behind a scheme, such as /v1/, says how old Docker is and not what the login is for.
        return cls(registry_name(host), "" if "://" in text else path.strip("/"))

    def fitness(self, repository: str) -> int:
        """Tell how good the login is for a repository: the longer the better; -1 for that of another part.

        Another part's comes last and not never: people write `ghcr.io/org` and mean all of ghcr.io, as Docker does.
        """
        inside = not self.path or f"{repository}/".startswith(f"{self.path}/")
        return len(self.path) if inside else -1


class LoginFile:
    """The logins of one file: auths, credHelpers and credsStore. Thread-safe.

    Args:
        path: of the file.
        text: its content, when that does not stand in a file.
    """

    def __init__(self, path: Path, text: Optional[str] = None) -> None:
        self._path, self._text = path, text
        self._lock = threading.Lock()
        self._document: Optional[Mapping[str, Any]] = None
        self._helped: dict[str, Optional[Credential]] = {}

    def logins(self, host: str, repository: str) -> Sequence[Credential]:
        """Return the logins for a repository of a registry, as references name it, the best one first.

        Raises:
            UsageError: the file cannot be read.
            AuthenticationError: the credential helper failed.
        """
        # One lookup at a time: a helper may ask the user for a passphrase.
        with self._lock:
            if self._document is None:
                self._document = self._read()
            stored = list(self._stored(self._document, registry_name(host)))
            if host not in self._helped:
                helper = self._helper(self._document, host)
                self._helped[host] = self._ask(helper, host) if helper else None
            helped = self._helped[host]
        if helped:
            stored.insert(0, (_Key(host, ""), helped))
        stored.sort(key=lambda item: -item[0].fitness(repository))
        return list(dict.fromkeys(login for _, login in stored))

    def _read(self) -> Mapping[str, Any]:
        try:
            document = json.loads(self._text if self._text is not None else self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsageError(f"`{self._path}` cannot be read: {reason(error)}") from None
        except (ValueError, RecursionError):
            # Without the parser's text, which may quote the file.
            raise self._broken("it is not JSON") from None
        if not isinstance(document, dict):
            raise self._broken("it is not a JSON object")
        for key, kind in (("auths", dict), ("credHelpers", dict), ("credsStore", str)):
            if not isinstance(document.get(key) or kind(), kind):
                raise self._broken(f"its `{key}` is not a{'n object' if kind is dict else ' string'}")
        return document

    def _helper(self, document: Mapping[str, Any], host: str) -> Optional[str]:
        helpers = document.get("credHelpers") or {}
        name = next((helpers[key] for key in helpers if _Key.parse(key) == _Key.parse(host) and helpers[key]), None)
        name = name or document.get("credsStore")
        if name is not None and (not isinstance(name, str) or "/" in name or "\\" in name):
            raise self._broken("a credential helper's name is not the end of a program's name")
        return name or None

    def _ask(self, helper: str, host: str) -> Optional[Credential]:
        """Ask docker-credential-HELPER about the host. Its output is never shown: it may hold the secret."""
        from docker.auth import TOKEN_USERNAME
        from docker.credentials import CredentialsNotFound, Store, StoreError

        program = f"docker-credential-{helper}"
        hint = f"run the helper's own login, or take `{helper}` out of {quote(self._path)}"
        # docker-py only warns, and then fails with the same words for every host.
        if shutil.which(program) is None:
            raise AuthenticationError(
                f"the credential helper `{program}` named in `{self._path}` is not installed",
                hint=f"install it, or take `{helper}` out of that file",
            )
        try:
            store: Any = Store(helper)
            answer = store.get(_DOCKER_HUB_KEY if host == DOCKER_HUB else host)
            username, secret = answer["Username"], answer["Secret"]
        except CredentialsNotFound:
            return None
        except (StoreError, OSError):
            raise AuthenticationError(f"the credential helper `{program}` failed for `{host}`", hint=hint) from None
        except (ValueError, KeyError, TypeError):
            raise AuthenticationError(
                f"the credential helper `{program}` gave no usable answer for `{host}`", hint=hint
            ) from None
        if username == TOKEN_USERNAME:
            return Credential(identity_token=str(secret))
        return Credential(username=str(username), password=str(secret))

    def _stored(self, document: Mapping[str, Any], host: str) -> Iterator[tuple[_Key, Credential]]:
        """Give the logins in the file itself. Entries of other registries may be as odd as they like."""
        for text, entry in (document.get("auths") or {}).items():
            key = _Key.parse(text)
            if key.host != host:
                continue
            try:
                login = _login(entry)
            except (ValueError, TypeError, AttributeError):
                raise self._broken("an entry of `auths` is not a login") from None
            if login:
                yield key, login

    def _broken(self, why: str) -> UsageError:
        return UsageError(f"`{self._path}` cannot be used: {why}", hint="fix it, or remove it and log in anew")


def _login(entry: Mapping[str, Any]) -> Optional[Credential]:
    """Read one entry of `auths`; None for one without a login, which a credential helper may have.

    Raises:
        ValueError, TypeError, AttributeError: it is no such entry.
    """
    texts = {name: entry.get(name) or "" for name in ("auth", "username", "password", "identitytoken", "registrytoken")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError
    if texts["identitytoken"]:
        return Credential(identity_token=texts["identitytoken"])
    username, password = texts["username"], texts["password"]
    if texts["auth"]:
        username, colon, password = base64.b64decode(texts["auth"], validate=True).decode().partition(":")
        if not colon:
            raise ValueError
    if username:
        # Old versions of Docker filled the password up with zero bytes.
        return Credential(username=username, password=password.rstrip("\0"))
    return Credential(registry_token=texts["registrytoken"]) if texts["registrytoken"] else None
