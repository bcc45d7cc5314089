"""Whose certificates are trusted when TLS is spoken."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from bundles.registry.tls import trusting
from tests.support.handshake import connected


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def connect(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Shake hands with a server that shows a certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    with connected(server, context, "registry.corp"):
        pass


@pytest.fixture
def issued(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A CA as many a company has it, without key identifiers and key usage, and a certificate with its key."""
    ca, ca_key, request, key, certificate = (tmp_path / name for name in ("ca", "ca.key", "request", "key", "crt"))
    settings, extensions = tmp_path / "ca.cnf", tmp_path / "leaf.cnf"
    settings.write_text("[req]\ndistinguished_name=dn\nx509_extensions=v3\n[dn]\n[v3]\nbasicConstraints=CA:TRUE\n")
    extensions.write_text("subjectAltName=DNS:registry.corp\nauthorityKeyIdentifier=none\n")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new, "-days", 2, "-config", settings, "-subj", "/CN=old CA", "-keyout", ca_key, "-out", ca)
    openssl("req", *new, "-config", settings, "-subj", "/CN=registry.corp", "-keyout", key, "-out", request)
    signing = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", 2, "-extfile", extensions)
    openssl("x509", "-req", "-in", request, *signing, "-out", certificate)
    return ca, certificate, key


def test_a_ca_as_companies_have_it_is_trusted_by_every_python(issued: tuple[Path, Path, Path]) -> None:
    """Python 3.13 and later is stricter than Docker and BuildKit by default."""
    ca, certificate, key = issued
    connect(trusting(ca), certificate, key)
    connect(trusting(pem=ca.read_text()), certificate, key)


def test_nobody_elses_certificates_are_trusted(issued: tuple[Path, Path, Path]) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(trusting(), *issued[1:])
