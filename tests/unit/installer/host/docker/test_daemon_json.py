"""daemon.json is merged, and everything else in it stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundles.errors import HostError
from bundles.oci.platform import Platform
from installer.host.docker.daemon_json import free_name, is_insecure, merged, without
from installer.host.docker.engine import EngineInfo

ADDRESS = "192.168.10.10:5000"


def test_no_file_becomes_one_with_the_setting() -> None:
    for text in ("", " \n"):
        assert merged(text, ADDRESS) == '{\n  "insecure-registries": [\n    "192.168.10.10:5000"\n  ]\n}\n'


@pytest.mark.parametrize("indent", [2, 4, "\t"])
def test_other_settings_their_order_and_the_indentation_stay(indent: int | str) -> None:
    before = {"log-driver": "json-file", "x-unknown": {"ü": [1, None]}, "insecure-registries": ["a:1"], "debug": False}
    text = json.dumps(before, indent=indent, ensure_ascii=False) + "\n"
    expected = {**before, "insecure-registries": ["a:1", ADDRESS]}
    assert merged(text, ADDRESS) == json.dumps(expected, indent=indent, ensure_ascii=False) + "\n"
    assert list(json.loads(merged(text, ADDRESS))) == list(before)


def test_merging_twice_changes_nothing_more() -> None:
    once = merged('{"debug": true}', ADDRESS)
    assert json.loads(once) == {"debug": True, "insecure-registries": [ADDRESS]}
    assert merged(once, ADDRESS) == once
    odd = '{ "insecure-registries":["192.168.10.10:5000"]   }'
    assert merged(odd, ADDRESS) == odd


@pytest.mark.parametrize("text", ["{", "[]", '"x"', '{"insecure-registries": "a:1"}', '{"a": 1,}'])
def test_what_cannot_be_merged_is_refused(text: str) -> None:
    with pytest.raises(HostError, match=r"JSON|list"):
        merged(text, ADDRESS)


def test_the_copy_never_replaces_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    assert free_name(path) == tmp_path / "daemon.json.before-bundle"
    free_name(path).write_text("first")
    assert free_name(path) == tmp_path / "daemon.json.before-bundle.1"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ((), False),
        ((ADDRESS,), True),
        (("192.168.10.10:5001", "127.0.0.0/8", "::1/128"), False),
        (("192.168.0.0/16",), True),
    ],
)
def test_what_the_daemon_says_decides(entries: tuple[str, ...], expected: bool) -> None:
    info = EngineInfo("28.5.2", Platform("linux", "amd64"), "/var/lib/docker", (), entries)
    assert is_insecure(info, ADDRESS, "192.168.10.10") is expected


@pytest.mark.parametrize(
    ("version", "old"), [("19.03.15", True), ("20.10.24+dfsg1", False), ("28.5.2", False), ("v29.0.0-rc.1", False)]
)
def test_the_oldest_engine(version: str, old: bool) -> None:
    assert EngineInfo(version, Platform("linux", "amd64"), "", (), ()).is_old is old


def test_an_entry_leaves_daemon_json_as_it_was() -> None:
    before = '{\n    "log-level": "warn",\n    "insecure-registries": [\n        "a:1",\n        "b:2"\n    ]\n}\n'
    assert json.loads(without(before, "a:1")) == {"log-level": "warn", "insecure-registries": ["b:2"]}
    assert without(before, "a:1").startswith('{\n    "log-level"')
    assert without(before, "c:3") == before
    assert json.loads(without('{"insecure-registries": ["a:1"]}', "a:1")) == {}
    assert without("", "a:1") == ""
    with pytest.raises(HostError, match="not valid JSON"):
        without("{", "a:1")
