"""Who is trusted by which CAs, and where a system keeps its own."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from bundles.registry.urls import Origin
from installer.registry.trust import is_trusted, public_authorities, system_authorities
from tests.support.fake_registry import Certificate, FakeRegistry


def test_a_private_ca_is_enough_and_the_public_ones_are_not(
    fake: Callable[..., FakeRegistry], certificate: Certificate
) -> None:
    origin = Origin.of(f"https://{fake(tls=certificate).host}")
    own = certificate.file.read_bytes()
    assert is_trusted(origin, own) is True
    assert is_trusted(origin, public_authorities()) is False
    assert is_trusted(origin, b"") is False
    # Among others, one that nobody can read, and text.
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert is_trusted(origin, b"a bundle\n" + broken + public_authorities() + own) is True


def test_who_does_not_answer_or_speaks_no_tls_is_neither(registry: FakeRegistry) -> None:
    assert is_trusted(Origin.of(f"https://{registry.host}"), b"") is None
    registry.close()
    assert is_trusted(Origin.of(f"https://{registry.host}"), b"") is None


@pytest.mark.parametrize("file", ["etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt"])
def test_a_system_has_one_file_and_a_directory(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_bytes(b"all of them")
    (tmp_path / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
    (tmp_path / "etc/ssl/certs/one.pem").write_bytes(b"one more")
    (tmp_path / "etc/ssl/certs/again.pem").symlink_to(tmp_path / "etc/ssl/certs/one.pem")
    assert system_authorities(tmp_path) == b"all of them"
    assert system_authorities(tmp_path, everything=True) == b"all of them\none more"
    assert system_authorities(tmp_path / "nowhere", everything=True) == b""
