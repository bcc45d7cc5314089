"""Where the Docker Engine answers, as the docker command says."""

from __future__ import annotations

import json

import pytest

from bundles.errors import HostError
from installer.host.docker.endpoint import EngineEndpoint


def test_the_endpoint_is_what_docker_says() -> None:
    text = json.dumps([{"Name": "default", "Endpoints": {"docker": {"Host": "unix:///run/x.sock"}}}])
    assert EngineEndpoint.parse(text, None) == EngineEndpoint("unix:///run/x.sock", "default")
    assert EngineEndpoint.parse(text, None).socket_path == "/run/x.sock"
    remote = json.dumps([{"Name": "far", "Endpoints": {"docker": {"Host": "ssh://far"}}}])
    assert EngineEndpoint.parse(remote, None).socket_path is None
    with pytest.raises(HostError, match="context inspect"):
        EngineEndpoint.parse("[]", None)
