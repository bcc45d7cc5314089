"""The way to the local registry, which reads no logins."""

from __future__ import annotations

import pytest

from bundles.errors import NetworkError
from installer.model.address import Address
from installer.registry.client import Registry
from installer.registry.connection import local_transport
from tests.support.fake_registry import FakeRegistry


@pytest.mark.parametrize(("auth", "status"), [("basic", None), (None, 401), (None, 429)])
def test_a_login_is_not_recommended_where_none_is_read(auth: str | None, status: int | None) -> None:
    with FakeRegistry(**({"auth": auth} if auth else {})) as fake:
        if status:
            fake.fault("GET", "/v2/", times=-1, status=status)
        address = Address.parse(fake.host)
        with local_transport(address, attempts=1) as transport, pytest.raises(NetworkError) as caught:
            Registry(transport, fake.host).ping()
    assert "docker login" not in str(caught.value)
    assert str(caught.value.hint).endswith(f"curl {fake.host}")
