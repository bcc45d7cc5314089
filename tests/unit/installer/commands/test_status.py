"""What `status` says to people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bundles.oci.platform import Platform
from installer.commands import status
from installer.model.registry.address import Address
from installer.receipt.receipt import BundleName, Receipt
from tests.support.states import desired

AMD64 = Platform("linux", "amd64")
STATE = desired(Address.parse("localhost:5000"))
RECEIPT = Receipt(BundleName("x", "sha256:1", "/x.tar"), STATE)


def text(kubernetes: Any = None, **replay: Any) -> list[str]:
    """The lines of an installation that is well, and has this replay."""
    document = {
        "bundle": {"name": "x", "digest": "sha256:1", "archive": "/x.tar", "installed": None},
        "registry": {"address": "localhost:5000", "state": "running", "answers": True, "data": "v"},
        "builder": {"name": "b", "state": "running", "platforms": [], "nodes": []},
        "replay": {"port": 5080, "tapes": [], "direct": [], **replay},
        "caches": [],
        "images": [],
        "kubernetes": kubernetes,
        "emulation": {},
        "problems": [],
    }
    return status._text(document, RECEIPT, Path("/receipt.json")).splitlines()


def test_what_was_missed_last_is_shown_and_the_rest_counted() -> None:
    lines = text(unrecorded=[f"GET http://h.example/{number}" for number in range(25)])
    begin = lines.index("asked for and not recorded, the last first")
    assert lines[begin + 1 : begin + 22] == [
        *(f"  GET http://h.example/{number}" for number in range(20)),
        "  and 5 before",
    ]
    assert lines[begin + 22].startswith(
        "next, where there is a network: bundle record WHAT -o app.record; bundle create "
    )
    assert lines[begin + 23] == "then here: python3 offline.tar upgrade"


def test_nothing_missed_is_nothing_said() -> None:
    assert not [line for line in text(unrecorded=[]) if "recorded" in line]


def test_a_bucket_is_shown_with_whether_it_answers() -> None:
    storage = {"endpoint": "https://s3.corp", "redirect": True, "answers": False}
    assert status._storage_lines(None) == []
    assert status._storage_lines(storage) == [
        "storage    S3 at https://s3.corp: does not answer; who pulls is led there"
    ]


def test_the_pods_that_are_ready_are_counted() -> None:
    where = {"name": "b-kubernetes", "context": "site", "namespace": "team", "replicas": 2}
    said = "kubernetes b-kubernetes: 1 of 2 pods ready, in namespace team of site"
    assert said in text({**where, "ready": 1}, unrecorded=[])
    silent = "kubernetes b-kubernetes: the cluster does not answer, in namespace team of site"
    assert silent in text({**where, "ready": None}, unrecorded=[])
