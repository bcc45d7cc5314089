"""The logins that `docker login` left behind, read through docker-py."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from bundles.errors import AuthenticationError, UsageError, reason
from bundles.oci.reference import DOCKER_HUB
from bundles.registry.auth import Credential

if TYPE_CHECKING:
    from docker.auth import AuthConfig

# The key of Docker Hub in config.json and in credential helpers, for historical reasons.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"


class Credentials:
    """The logins in Docker's config.json: auths, credHelpers and credsStore. Thread-safe; each host is looked up once.

    Nothing is read before the first `get`: most registries never ask. A file that is not there means no logins.

    Args:
        config_dir: where config.json is; by default $DOCKER_CONFIG, else ~/.docker.
    """

    def __init__(self, config_dir: Optional[Path] = None) -> None:
        self._path = (config_dir or Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")) / "config.json"
        self._lock = threading.Lock()
        self._known: dict[str, Optional[Credential]] = {}
        self._document: Optional[Mapping[str, Any]] = None

    def get(self, host: str) -> Optional[Credential]:
        """Return the login for a registry, as references name it, or None.

        Raises:
            UsageError: config.json cannot be read.
            AuthenticationError: the credential helper failed.
        """
        # One lookup at a time: a helper may ask the user for a passphrase.
        with self._lock:
            if host not in self._known:
                self._known[host] = self._look_up(host)
            return self._known[host]

    def _look_up(self, host: str) -> Optional[Credential]:
        if self._document is None:
            self._document = self._read()
        document = self._document
        if not any(document.get(key) for key in ("auths", "credHelpers", "credsStore")):
            return None
        helper = self._helper(document, host)
        if helper:
            found = self._ask(helper, host)
            if found:
                return found
        return self._stored(document, host)

    def _read(self) -> Mapping[str, Any]:
        try:
            document = json.loads(self._path.read_bytes())
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
        keys = (_DOCKER_HUB_KEY, DOCKER_HUB, "index.docker.io") if host == DOCKER_HUB else (host,)
        name = next((helpers[key] for key in keys if helpers.get(key)), None) or document.get("credsStore")
        if name is not None and (not isinstance(name, str) or "/" in name):
            raise self._broken("a credential helper's name is not the end of a program's name")
        return name or None

    def _ask(self, helper: str, host: str) -> Optional[Credential]:
        """Ask docker-credential-HELPER about the host. Its output is never shown: it may hold the secret."""
        from docker.auth import TOKEN_USERNAME
        from docker.credentials import CredentialsNotFound, Store, StoreError

        program = f"docker-credential-{helper}"
        hint = f"run the helper's own login, or take `{helper}` out of {self._path}"
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

    def _stored(self, document: Mapping[str, Any], host: str) -> Optional[Credential]:
        """Return the login in the file itself."""
        from docker.auth import resolve_index_name

        auths = document.get("auths") or {}
        found = self._parse(auths).resolve_authconfig(host) or {}
        if found.get("IdentityToken"):
            return Credential(identity_token=str(found["IdentityToken"]))
        if found.get("username"):
            # Old versions of Docker filled the password up with zero bytes.
            return Credential(username=found["username"], password=found["password"].rstrip("\0"))
        # docker-py does not know this field of Docker's.
        for key, entry in auths.items():
            if isinstance(entry.get("registrytoken"), str) and resolve_index_name(key) == host:
                return Credential(registry_token=entry["registrytoken"])
        return None

    def _parse(self, auths: Mapping[str, Any]) -> AuthConfig:
        from docker.auth import AuthConfig
        from docker.errors import DockerException

        try:
            # Empty strings mean absent, as in Docker; docker-py would decode them.
            entries = {
                key: {name: text for name, text in entry.items() if text} if isinstance(entry, dict) else entry
                for key, entry in auths.items()
            }
            return AuthConfig({"auths": AuthConfig.parse_auth(entries, raise_on_error=True)})
        except (DockerException, ValueError, TypeError, AttributeError):
            raise self._broken("an entry of `auths` is not a login") from None

    def _broken(self, why: str) -> UsageError:
        return UsageError(f"`{self._path}` cannot be used: {why}", hint="fix it, or log in anew with docker login")
