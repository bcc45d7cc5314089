"""daemon.json: what it says of `insecure-registries`, and the same file with an entry more or less."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
from pathlib import Path
from typing import Any

from bundles.errors import HostError
from bundles.runtime.program import quote
from installer.host.docker.engine import EngineInfo

SETTING = "insecure-registries"


def merged(text: str, address: str) -> str:
    """Return daemon.json with `address` among its insecure registries; everything else as it was.

    Raises:
        HostError: the text is not a JSON object, or the setting is not a list.
    """
    try:
        value: Any = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise HostError(f"it is not valid JSON: {error}", hint="fix it: the daemon would not start with it") from None
    if not isinstance(value, dict):
        raise HostError("it is not a JSON object")
    registries = value.get(SETTING, [])
    if not isinstance(registries, list):
        raise HostError(f"`{SETTING}` is not a list")
    if address in registries:
        return text
    value[SETTING] = [*registries, address]
    return _like(text, value)


def is_insecure(info: EngineInfo, address: str, ip: str) -> bool:
    """Tell whether the daemon, as it runs now, speaks plain HTTP to that registry."""
    for entry in info.insecure_registries:
        if entry == address:
            return True
        with contextlib.suppress(ValueError):
            if "/" in entry and ipaddress.ip_address(ip) in ipaddress.ip_network(entry, strict=False):
                return True
    return False


def without(text: str, address: str) -> str:
    """Return daemon.json without `address` among its insecure registries, and without the setting when that was all.

    Raises:
        HostError: the text is not a JSON object.
    """
    try:
        value: Any = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise HostError(f"it is not valid JSON: {error}") from None
    registries = value.get(SETTING) if isinstance(value, dict) else None
    if not isinstance(registries, list) or address not in registries:
        return text
    value[SETTING] = [entry for entry in registries if entry != address]
    if not value[SETTING]:
        del value[SETTING]
    return _like(text, value)


def _like(text: str, value: Any) -> str:
    """Write a value as JSON, with the indentation of `text`."""
    indent = re.search(r'\n([ \t]+)"', text)
    return json.dumps(value, indent=indent.group(1) if indent else 2, ensure_ascii=False) + "\n"


def free_name(path: Path) -> Path:
    """Choose where the copy of what was there goes: the first name that is not taken."""
    for number in range(1000):
        place = path.with_name(f"{path.name}.before-bundle" + (f".{number}" if number else ""))
        if not place.exists():
            return place
    raise HostError(f"`{path.parent}` is full of copies of {path.name}", hint=f"rm {quote(path)}.before-bundle.*")
