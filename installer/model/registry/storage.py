"""Where our own registry keeps its data when that is no directory or volume of this host: a bucket of an S3 storage."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import Any, Optional
from urllib.parse import urlsplit

from bundles.errors import NetworkError, UsageError
from bundles.registry.urls import Origin

_SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}", re.ASCII)
# What needs no escape in a URL, so that it is the same wherever it is signed.
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
# A name that is looked up as it is written: no label is empty, or longer than DNS has them.
_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*", re.ASCII
)
_REGION = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# What nearly every storage of a site's own calls itself.
DEFAULT_REGION = "us-east-1"


def is_bucket(data: str) -> bool:
    """Tell whether what is said of a registry's data means a bucket."""
    return data.startswith(_SCHEME)


@dataclasses.dataclass(frozen=True)
class S3Storage:
    """A bucket, where in it, and how it is reached; nothing of it is secret. `str()` is what --storage takes.

    Buckets are addressed in the path of the endpoint's URLs.

    Args:
        bucket: its name.
        prefix: what comes before the names of all objects; empty for the bucket as a whole.
        endpoint: `http://HOST[:PORT]` or `https://HOST[:PORT]`.
        region: what requests are signed for.
        redirect: clients are led to the storage for what they pull; else it comes through the registry.
        authority: the absolute path of a PEM file with the CAs that alone are trusted there; None for the system's.
    """

    bucket: str
    prefix: str
    endpoint: str
    region: str = DEFAULT_REGION
    redirect: bool = False
    authority: Optional[str] = None

    @property
    def origin(self) -> Origin:
        return Origin.of(self.endpoint)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Optional[S3Storage]:
        """Read what `to_json` gives, or null."""
        return None if value is None else cls(**value)

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self.prefix}" if self.prefix else f"{_SCHEME}{self.bucket}"


def parse_place(text: str) -> tuple[str, str]:
    """Read `s3://BUCKET[/PREFIX]`: the bucket and the prefix.

    Raises:
        UsageError: it is something else.
    """
    hint = "give s3://BUCKET/PREFIX, such as s3://registry/team"
    if not is_bucket(text):
        raise UsageError(f"`{text[:100]}` is no bucket of an S3 storage", hint=hint)
    bucket, _, prefix = text[len(_SCHEME) :].partition("/")
    prefix = prefix.rstrip("/")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"`{bucket.rpartition('@')[2][:100]}` cannot be a bucket's name", hint=hint)
    if prefix and not _PREFIX.fullmatch(prefix):
        raise UsageError(
            f"`{prefix[:100]}` cannot be a prefix: expected letters, digits and . _ - between slashes", hint=hint
        )
    return bucket, prefix


def parse_endpoint(text: str) -> str:
    """Read the address of an S3 storage.

    Raises:
        UsageError: it is no URL of http or https, has more than a host and a port, or a host that cannot be one.
    """
    hint = "give https://HOST[:PORT] or http://HOST[:PORT]"
    try:
        origin = Origin.of(text)
    except NetworkError:
        # What stands before an @ is a login, which is nobody's business.
        raise UsageError(
            f"`{text.rpartition('@')[2][:100]}` is no address of an S3 storage, which has no login in it", hint=hint
        ) from None
    parts = urlsplit(text)
    if not (_HOST.fullmatch(origin.host) or _is_ipv6(origin.host)) or parts.port == 0:
        raise UsageError(f"`{text[:100]}` has no host and port that can be connected to", hint=hint)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise UsageError(f"`{text[:100]}` has more than a host and a port", hint=hint)
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return f"{origin.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def is_region(text: str) -> bool:
    """Tell whether a text can be a region's name."""
    return _REGION.fullmatch(text) is not None


def parse_region(text: str) -> str:
    """Read a region's name.

    Raises:
        UsageError: it can be none.
    """
    if not is_region(text):
        raise UsageError(f"`{text[:100]}` cannot be a region's name", hint=f"such as {DEFAULT_REGION}")
    return text


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    # A zone is a card of one host.
    return "%" not in text
