"""The files that our own registry shows and asks by: its CA, its certificate, and the login of its user.

They are made here, and but for the CA's certificate they stay here. A certificate that ends soon is made anew with the
same CA, so that nobody has to trust another one. What was given with --cert, --key and --ca is copied, and only a
person can renew it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Optional

from bundles.crypto import p256
from bundles.crypto.bcrypt import bcrypt
from bundles.crypto.x509 import key_pem, read_key
from bundles.errors import HostError, Problem, UsageError
from bundles.runtime.program import archive_command, quote
from installer.host.files import is_writable, read_optional, remove_file, write_atomically
from installer.host.host import Host
from installer.host.paths import Places
from installer.model.job import DesiredState, Job, Options
from installer.model.registry.access import USER
from installer.model.step import Change, Step
from installer.receipt.receipt import Receipt
from installer.registry.certificates import (
    ending,
    is_of_ours,
    new_authority,
    new_chain,
    readable,
    refusal,
    server_names,
)

# Nobody guesses so many bytes, and so their hash need not be slow: the registry compares it at every request.
_PASSWORD_BYTES = 16
_COST = 4


@dataclasses.dataclass(frozen=True)
class Files:
    """Where the files are. What is not a certificate is secret."""

    authority_key: Path
    authority: Path
    key: Path
    chain: Path
    password: Path
    hashes: Path

    @classmethod
    def of(cls, places: Places) -> Files:
        """Return them for one user's installation."""
        directory = places.registry
        return cls(
            authority_key=directory / "ca.key",
            authority=places.authority,
            key=directory / "server.key",
            chain=directory / "server.pem",
            password=places.password,
            hashes=directory / "htpasswd",
        )

    def __iter__(self) -> Iterator[Path]:
        """Give all, each after those that it is made of."""
        return iter((self.authority_key, self.authority, self.key, self.chain, self.password, self.hashes))


@dataclasses.dataclass(frozen=True)
class _Given:
    """What --cert, --key and --ca name."""

    certificate: Path
    key: Path
    authority: Optional[Path]

    def contents(self, files: Files) -> dict[Path, bytes]:
        """Return what becomes of them: the CA is shown behind the certificate, for those who join."""
        chain, key = _read(self.certificate), _read(self.key)
        if self.authority is None:
            return {files.key: key, files.chain: chain}
        authority = _read(self.authority)
        known = {each.fingerprint for each in readable(chain)}
        if not known.issuperset(each.fingerprint for each in readable(authority)):
            chain = chain.rstrip(b"\n") + b"\n" + authority
        return {files.authority: authority, files.key: key, files.chain: chain}


class Certificates(Step):
    """Makes what is missing of the files, renews what ends soon, and removes what is not needed with plain HTTP."""

    name = "certificates"

    def __init__(self, job: DesiredState, host: Host) -> None:
        self._job, self._host = job, host
        self._files = Files.of(host.places)
        self._given = self.given(job.options) if isinstance(job, Job) else None

    @staticmethod
    def given(options: Options) -> Optional[_Given]:
        """Return what --cert, --key and --ca name; None without them."""
        if not (options.certificate and options.key):
            return None
        return _Given(options.certificate, options.key, options.ca_file)

    def if_of_use(self) -> Sequence[Step]:
        """Return this step, unless there is nothing to look at: plain HTTP, now and before."""
        return [self] if self._job.access.tls or self.look() else []

    def problems(self) -> Sequence[Problem]:
        access = self._job.access
        if self._job.site or not access.tls:
            return []
        if not is_writable(self._files.chain):
            directory = quote(self._files.chain.parent)
            return [Problem(str(self._files.chain.parent), "it cannot be written", f"sudo chown -R $USER {directory}")]
        if self._given:
            given = self._given
            why = _unreadable(given) or refusal(given.certificate, given.key, given.authority, self._job.address)
            hint = f"openssl x509 -noout -text -in {quote(given.certificate)}"
            if why and not given.authority:
                hint = f"name the CA that signed it: --ca FILE; {hint}"
            return [Problem(f"--cert {given.certificate}", why, hint)] if why else []
        why = None if self._is_own() else self._lost()
        return [Problem(str(self._files.chain), why, archive_command(f"install {self.options_again}"))] if why else []

    def _lost(self) -> Optional[str]:
        """Say why what was given once cannot be used; None when it can."""
        files = self._files
        authority = files.authority if self._job.access.authority else None
        gone = [path for path in (files.chain, files.key, authority) if path and read_optional(path) is None]
        if gone:
            return f"`{gone[0]}`, a copy of what was given with --cert, --key and --ca, is gone"
        return refusal(files.chain, files.key, authority, self._job.address)

    def ends_soon(self) -> Optional[str]:
        """Say that what a person has to renew ends soon; None while it is good for longer, or is renewed here."""
        if self._job.site or not self._job.access.tls or self._is_own():
            return None
        found = readable(read_optional(self._files.chain))
        says = ending(found[0]) if found else None
        return f"the registry's certificate `{self._files.chain}` {says}" if says else None

    @property
    def options_again(self) -> str:
        """Return the options that give it anew: without its CA the system would have to trust it."""
        return "--cert FILE --key FILE" + (" --ca FILE" if self._job.access.authority else "")

    def _is_own(self) -> bool:
        """Tell whether the certificate is one that is made here."""
        if self._given or not self._job.access.authority:
            return False
        for path in (self._files.chain, self._files.authority):
            found = readable(read_optional(path))
            if found:
                return is_of_ours(found[0])
        return True

    def _faults(self) -> Mapping[Path, str]:
        """Return the files that have to be written, each with what is the matter, or with what it is."""
        access = self._job.access
        if self._job.site or not access.tls:
            return {}
        faults: dict[Path, str] = {}
        if self._given:
            contents = self._given.contents(self._files)
            faults = {path: "as it was given" for path, data in contents.items() if read_optional(path) != data}
        elif self._is_own():
            faults = self._own_faults()
        return {**faults, **(self._login_faults() if access.password else {})}

    def _own_faults(self) -> dict[Path, str]:
        files, faults = self._files, {}
        found = readable(read_optional(files.authority))
        authority, authority_key = (found[0] if found else None), _key_in(files.authority_key)
        if authority_key is None:
            faults[files.authority_key] = "the key of the registry's CA"
        if authority is None:
            faults[files.authority] = "the registry's CA"
        elif authority_key is None or not authority.has_key(authority_key):
            faults[files.authority] = "has no key any more; with the new CA, other hosts have to join again"
        elif says := ending(authority):
            faults[files.authority] = f"{says}; with the new CA, other hosts have to join again"
        key, chain = _key_in(files.key), readable(read_optional(files.chain))
        if key is None:
            faults[files.key] = "the key of the registry's certificate"
        lacking = set(server_names(self._job.address)).difference(chain[0].names) if chain else ()
        if not chain:
            faults[files.chain] = f"the registry's certificate, for {self._job.address.host}"
        elif key is None or not chain[0].has_key(key):
            faults[files.chain] = "is not that of its key"
        elif lacking:
            faults[files.chain] = f"is not for {', '.join(sorted(lacking))}"
        elif files.authority in faults or authority not in chain[1:]:
            faults[files.chain] = "is of another CA"
        elif says := ending(chain[0]):
            faults[files.chain] = says
        return faults

    def _login_faults(self) -> dict[Path, str]:
        files, password = self._files, _password_in(self._files.password)
        if password is None:
            return {
                files.password: f"the password of the user `{USER}`",
                files.hashes: "its hash, by which the registry knows it",
            }
        lines = (read_optional(files.hashes) or b"").decode(errors="replace").splitlines()
        return {} if _hashed(password) in lines else {files.hashes: "the hash of the password, by which it is known"}

    def _needless(self) -> Sequence[Path]:
        """Return the files that are there from an earlier installation, and are of no use any more."""
        access, files = self._job.access, self._files
        if self._job.site:
            return []
        needed = {files.key, files.chain} if access.tls else set()
        needed |= {files.authority} if access.authority else set()
        needed |= {files.authority_key} if access.tls and self._is_own() else set()
        needed |= {files.password, files.hashes} if access.password else set()
        return [path for path in files if path not in needed and path.exists()]

    def look(self) -> Sequence[Change]:
        changes = [
            Change("rewrite" if path.exists() else "write", "file", str(path), detail)
            for path, detail in self._faults().items()
        ]
        return [*changes, *(Change("remove", "file", str(path), "not needed any more") for path in self._needless())]

    def apply(self, changes: Sequence[Change]) -> None:
        for path in self._needless():
            remove_file(path)
        faults = self._faults()
        given = self._given.contents(self._files) if self._given else {}
        for path in (path for path in self._files if path in faults):
            public = path in (self._files.authority, self._files.chain)
            write_atomically(path, [given.get(path) or self._made(path)], 0o644 if public else 0o600)

    def _made(self, path: Path) -> bytes:
        """Make a file of those that it is made of."""
        files, address = self._files, self._job.address
        if path in (files.authority_key, files.key):
            return key_pem(p256.new_key()).encode()
        if path == files.authority:
            return new_authority(_needed_key(files.authority_key))
        if path == files.chain:
            authority = read_optional(files.authority) or b""
            return new_chain(address, _needed_key(files.key), authority, _needed_key(files.authority_key))
        if path == files.password:
            return f"{secrets.token_urlsafe(_PASSWORD_BYTES)}\n".encode()
        others = (read_optional(path) or b"").decode(errors="replace").splitlines()
        others = [line for line in others if not line.startswith(f"{USER}:")]
        return "".join(f"{line}\n" for line in (_hashed(_password_in(files.password) or ""), *others)).encode()

    def explain(self, change: Change) -> str:
        if change.action == "write":
            return f"`{change.name}`, {change.detail}, is gone"
        if change.action == "remove":
            return f"`{change.name}` is of no use with this installation, and secret"
        return f"`{change.name}` {change.detail}"


def _read(path: Path) -> bytes:
    data = read_optional(path)
    if data is None:
        raise UsageError(f"`{path}` does not exist")
    return data


def _unreadable(given: _Given) -> Optional[str]:
    for path in filter(None, (given.certificate, given.key, given.authority)):
        try:
            _read(path)
        except (UsageError, HostError) as error:
            return error.message
    return None


def _key_in(path: Path) -> Optional[int]:
    try:
        return read_key(read_optional(path) or b"")
    except ValueError:
        return None


def _needed_key(path: Path) -> int:
    key = _key_in(path)
    if key is None:
        raise HostError(f"`{path}` holds no key", hint="run this again; it is made anew")
    return key


def _password_in(path: Path) -> Optional[str]:
    text = (read_optional(path) or b"").decode(errors="replace").strip()
    return text if re.fullmatch(r"[!-~]{1,71}", text) else None


@functools.lru_cache(maxsize=2)  # it takes a quarter of a second
def _hashed(password: str) -> str:
    """Return the line of htpasswd; the same for the same password, so that it is seen whether it is there."""
    salt = hashlib.sha256(f"offline-bundle {password}".encode()).digest()[:16]
    return f"{USER}:{bcrypt(password.encode(), salt, _COST)}"


class RemoveCertificates(Step):
    """Removes the files that no receipt lists; those that one lists are removed with the others."""

    name = "certificates"

    def __init__(self, receipt: Receipt, host: Host) -> None:
        listed = receipt.names_made("file")
        self._files = [path for path in Files.of(host.places) if str(path) not in listed]

    def look(self) -> Sequence[Change]:
        return [Change("remove", "file", str(path)) for path in self._files if path.exists()]

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            remove_file(Path(change.name))
