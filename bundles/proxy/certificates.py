"""The CA of the proxy: it makes a certificate for each host whose name a client asks for.

Nobody but this machine's builder talks to what uses it, and nobody else trusts it.
"""

from __future__ import annotations

import shlex
import ssl
import tempfile
import threading
from pathlib import Path

from bundles.crypto import p256
from bundles.crypto.x509 import Signer, Validity, key_pem, make_authority, make_server
from bundles.errors import HostError, reason
from bundles.runtime.filesystem import replace_file

_CA_NAME = "offline-bundle"
# Clocks of hosts without a network are often wrong, and set right one day: what is valid does not depend on them.
_ALWAYS = Validity(1577836800, 4102444799)  # 2020-01-01 to 2099-12-31
# What a host is spoken to with takes some 20 kB.
_MOST_KEPT = 256
# RFC 1035.
_LONGEST_NAME = 253


def new_key() -> bytes:
    """Make the key of a CA, as its file has it."""
    return f"{p256.new_key():064x}\n".encode()


def certificate_of(key: bytes) -> bytes:
    """Make the certificate of the CA with that key, as a client is given it.

    Raises:
        ValueError: it is no key.
    """
    number = int(key, 16)
    if not p256.is_key(number):
        raise ValueError("a key is from 1 to N - 1")
    return make_authority(Signer(_CA_NAME, number), _ALWAYS).encode()


class Authority:
    """A CA in a directory, which makes certificates for hosts as they are asked for. Thread-safe.

    `ca.pem` is what a client trusts. `ca.key` never leaves the directory; only its owner can read it.

    Args:
        directory: is made when it is not there, and so is a CA in it.
        kept: of so many hosts what was made is kept, those that were asked for last.

    Raises:
        HostError: it cannot be read or written.
    """

    def __init__(self, directory: Path, kept: int = _MOST_KEPT) -> None:
        self.certificate = directory / "ca.pem"
        self._key = self._load(directory / "ca.key")
        # One key for all hosts: it lives in this process only.
        self._leaf_key = p256.new_key()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._kept = kept
        self._lock = threading.Lock()

    def _load(self, file: Path) -> int:
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not file.exists():
                self.certificate.unlink(missing_ok=True)
                replace_file(file, [new_key()], 0o600)
            key = file.read_bytes()
            if not self.certificate.exists():
                replace_file(self.certificate, [certificate_of(key)], 0o644)
            return int(key, 16)
        except ValueError:
            hint = f"remove it, and a new one is made: rm {shlex.quote(str(file))}"
            raise HostError(f"`{file}` holds no key", hint=hint) from None
        except OSError as error:
            raise HostError(f"`{error.filename or file}` cannot be used: {reason(error)}") from None

    def context(self, host: str) -> ssl.SSLContext:
        """Return what a server needs to speak TLS as `host`, a name or an address.

        Raises:
            UnicodeError: it is no name.
        """
        with self._lock:
            context = self._contexts.pop(host, None)
            if context:
                self._contexts[host] = context
                return context
        if len(host) > _LONGEST_NAME:
            raise UnicodeError(f"a name of {len(host)} letters")
        # It takes a while, and who asks for a host that is known does not wait for it. Two may do it at once.
        made = self._context(host)
        with self._lock:
            self._contexts[host] = made
            while len(self._contexts) > self._kept:
                self._contexts.pop(next(iter(self._contexts)))
        return made

    def _context(self, host: str) -> ssl.SSLContext:
        leaf = make_server([host], self._leaf_key, Signer(_CA_NAME, self._key), _ALWAYS)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        # ssl takes files only. This one is readable by its owner alone, and gone at once.
        with tempfile.NamedTemporaryFile("w", encoding="ascii") as file:
            file.write(key_pem(self._leaf_key) + leaf)
            file.flush()
            context.load_cert_chain(file.name)
        return context
