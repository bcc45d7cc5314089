"""A cluster as the command line and the receipt have it."""

from __future__ import annotations

import pytest

from bundles.errors import UsageError
from installer.model.cluster import Cluster


def test_the_receipt_reads_back() -> None:
    cluster = Cluster("site", "team", 2, True, "50Gi", ("disk=ssd", "zone=a"))
    assert Cluster.from_json(cluster.to_json()) == cluster
    assert Cluster.from_json(None) is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"namespace": "Team"}, "--namespace: `Team` is no namespace"),
        ({"namespace": "team;x"}, "--namespace"),
        ({"replicas": 0}, "--replicas: 0 is no number of pods"),
        ({"volume": "lots"}, "--cache-volume: `lots` is no size"),
        ({"selector": ("disk",)}, "--node-selector: `disk` is no label"),
        ({"selector": ("a=b,c=d",)}, "--node-selector"),
        ({"context": ""}, "--kubernetes: a context has a name"),
    ],
)
def test_what_the_cluster_would_refuse_is_refused_here(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Cluster(**{"context": "site", **values})  # type: ignore[arg-type]
