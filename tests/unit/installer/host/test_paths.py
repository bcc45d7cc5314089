"""Where the host keeps what is installed."""

from __future__ import annotations

from pathlib import Path

from installer.host.paths import Places


def test_places_follow_the_environment() -> None:
    places = Places.of({"HOME": "/home/ann"})
    assert places.buildx_plugin == Path("/home/ann/.docker/cli-plugins/docker-buildx")
    assert places.buildkitd_config("x") == Path("/home/ann/.docker/buildx/buildkitd.x.toml")
    assert places.buildx_config == Path("/home/ann/.docker/buildx")
    assert places.receipt == Path("/home/ann/.local/state/bundle/receipt.json")
    places = Places.of({"HOME": "/h", "DOCKER_CONFIG": "/d", "BUILDX_CONFIG": "/b", "XDG_STATE_HOME": "/s"})
    assert (places.docker_config, places.buildx_config, places.state) == (Path("/d"), Path("/b"), Path("/s/bundle"))
