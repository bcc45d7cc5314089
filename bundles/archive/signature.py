"""Signatures of bundles with SSH keys: made and checked by `ssh-keygen -Y` (OpenSSH 8.2 or later), namespace `bundle`.

What is signed is bundle.json, whose bytes have the digests of everything else. The signature (PROTOCOL.sshsig, in its
armoured form, filled up with line feeds to 8 KiB) is the entry `bundle.json.sig` behind bundle.json.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.archive.layout import SIGNATURE_SIZE
from bundles.errors import BundleError, HostError, UntrustedArchiveError, UsageError, reason

NAMESPACE = "bundle"
_NO_SSH_KEYGEN = "`ssh-keygen` is not on this machine, and signatures are made and checked with it"
_INSTALL_SSH = "install OpenSSH's client (openssh-client, openssh-clients)"
_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----\n", b"-----END SSH SIGNATURE-----"


def sign(data: bytes, key: Path) -> bytes:
    """Sign `data` and return the entry. ssh-keygen asks for the key's passphrase on the terminal, or an agent.

    Args:
        data: bundle.json.
        key: a private key, or the public one of a key that the agent holds.

    Raises:
        UsageError: the key cannot be used.
        BundleError: ssh-keygen is missing.
    """
    check_key(key)
    try:
        done = _ssh_keygen(["-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE], data)
    except HostError as error:
        raise BundleError(error.message, hint=error.hint) from None
    if done.returncode or not done.stdout.startswith(_BEGIN):
        raise UsageError(
            f"`{key}` cannot sign: {_said(done)}", hint="give an SSH private key whose passphrase you know"
        )
    return done.stdout.ljust(SIGNATURE_SIZE, b"\n")


def check_key(key: Path) -> None:
    """Make sure, before anything is fetched that is to be signed, that it can be.

    Raises:
        UsageError: there is no such key.
        BundleError: ssh-keygen is missing.
    """
    if not shutil.which("ssh-keygen"):
        raise BundleError(_NO_SSH_KEYGEN, hint=_INSTALL_SSH)
    if not key.is_file():
        raise UsageError(f"`{key}` is not a key file", hint="ssh-keygen -t ed25519 -f KEY makes one")


def is_well_formed(entry: bytes) -> bool:
    """Tell whether the entry holds one armoured signature and nothing else."""
    text = entry.rstrip(b"\n")
    return text.startswith(_BEGIN) and text.endswith(_END) and text.count(b"-----") == 4


@dataclasses.dataclass(frozen=True)
class Signers:
    """Whose signature is trusted.

    Args:
        allowed: the file that ssh-keygen(1) describes under ALLOWED SIGNERS.
        identity: the one of them that must have signed; None for any.
    """

    allowed: Path
    identity: Optional[str] = None

    def check(self, data: bytes, entry: Optional[bytes]) -> str:
        """Make sure that `data` is signed by one of them.

        Args:
            data: bundle.json.
            entry: its signature, None when there is none.

        Returns:
            the signer's identity.

        Raises:
            UntrustedArchiveError: it is not signed, or not by one of them, or was changed since.
            UsageError: the file of allowed signers cannot be read.
            HostError: ssh-keygen is missing or too old.
        """
        try:
            self.allowed.read_bytes()
        except OSError as error:
            raise UsageError(f"`{self.allowed}` cannot be read: {reason(error)}") from None
        if entry is None:
            raise UntrustedArchiveError("the bundle is not signed", hint=_ASK)
        with tempfile.TemporaryDirectory(prefix="bundle-") as directory:
            signature = Path(directory) / "bundle.json.sig"
            signature.write_bytes(entry)
            identities = [self.identity] if self.identity else self._candidates(signature)
            outcome = "its key is none of theirs"
            for identity in identities:
                done = self._run("verify", signature, data, ["-I", identity, "-n", NAMESPACE])
                if done.returncode == 0:
                    return identity
                outcome = _said(done)
        who = f"`{self.identity}`, who" if self.identity else "any key that"
        raise UntrustedArchiveError(f"the bundle is not signed by {who} `{self.allowed}` allows: {outcome}", hint=_ASK)

    def _candidates(self, signature: Path) -> Sequence[str]:
        """Find the identities that the signature's key stands for."""
        done = self._run("find-principals", signature, b"", [])
        return done.stdout.decode("utf-8", "replace").split("\n")[:-1] if done.returncode == 0 else []

    def _run(self, action: str, signature: Path, data: bytes, options: list[str]) -> subprocess.CompletedProcess[bytes]:
        return _ssh_keygen(["-Y", action, "-f", str(self.allowed), "-s", str(signature), *options], data)


_ASK = "get the bundle again from where it was signed, or ask who made it; do not install it"


def _ssh_keygen(arguments: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    command = ["ssh-keygen", *arguments]
    try:
        done = subprocess.run(command, input=data, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        raise HostError(_NO_SSH_KEYGEN, hint=_INSTALL_SSH) from None
    except OSError as error:
        raise HostError(f"`ssh-keygen` cannot be run: {reason(error)}") from None
    # On Windows its lines may end as they do there; a signature is the same everywhere.
    done.stdout = done.stdout.replace(b"\r\n", b"\n")
    if done.returncode and (b"unknown option -- Y" in done.stderr or b"illegal option -- Y" in done.stderr):
        raise HostError("`ssh-keygen` is too old for signatures", hint="OpenSSH 8.2 or later is needed")
    return done


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr + b"\n" + done.stdout).decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip() and not line.startswith("-----")]
    return (said[0] if said else f"ssh-keygen ended with {done.returncode}")[:300]
