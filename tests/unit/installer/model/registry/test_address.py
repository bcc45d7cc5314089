"""Addresses of registries, and what is none."""

from __future__ import annotations

import pytest

from bundles.errors import UsageError
from installer.model.registry.address import Address


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback", "ip"),
    [
        ("localhost:5000", "localhost", 5000, True, "127.0.0.1"),
        ("127.0.0.1:5001", "127.0.0.1", 5001, True, "127.0.0.1"),
        ("192.168.10.10:5000", "192.168.10.10", 5000, False, "192.168.10.10"),
        ("[::1]:5000", "[::1]", 5000, True, "::1"),
    ],
)
def test_addresses(text: str, host: str, port: int, loopback: bool, ip: str) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, address.is_loopback, address.listen_ip()) == (host, port, loopback, ip)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "localhost", ":5000", "localhost:0", "localhost:99999", "a b:5000", "0.0.0.0:5000", "::1:5000", "x:y"),
        *("localhost:²", "localhost:" + "9" * 5000, "a..b:5000", "x" * 64 + ":5000", "a-.b:5000", "ä:5000"),
    ],
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"HOST:PORT|no name|every address"):
        Address.parse(text)
