"""Is a bucket ready for a registry? What is wrong with the storage, the keys and the clock, each with its next step."""

from __future__ import annotations

import datetime
import re
import secrets
from collections.abc import Iterator
from typing import Optional

from bundles.errors import NetworkError, Problem
from bundles.registry.urls import is_loopback
from installer.host.host import Host
from installer.host.paths import is_in_hosts
from installer.model.registry.keys import Keys
from installer.model.registry.storage import S3Storage, is_region
from installer.storage.bucket import Answer, Bucket

# A storage refuses what was signed a quarter of an hour ago.
_SKEW = datetime.timedelta(minutes=15)
_KEYS = "--s3-credentials FILE; or the right AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY with --storage"
_MEANINGS = {
    "InvalidAccessKeyId": ("does not know the access key", _KEYS),
    "XAdminUserNotFound": ("does not know the access key", _KEYS),  # versitygw 1.8
    "SignatureDoesNotMatch": ("does not take the secret key: it is not that of the access key", _KEYS),
    "ExpiredToken": ("says that the keys have expired", _KEYS),
    "InvalidToken": ("does not take the session token of the keys", _KEYS),
}


def address_problem(storage: S3Storage, host: Host) -> Optional[Problem]:
    """Find what keeps the registry's container from a storage that this host reaches: it has a loopback and an
    /etc/hosts of its own."""
    name, subject = storage.origin.host, f"--s3-endpoint {storage.endpoint}"
    if is_loopback(name):
        return Problem(
            subject,
            f"`{name}` is the registry's container itself, not this host",
            "give the address that this host has for others: ip -brief address",
        )
    if is_in_hosts(name, host.places):
        return Problem(
            subject,
            f"what `{name}` is stands in this host's /etc/hosts, which the registry's container does not read",
            "give the IP address",
        )
    return None


def storage_problem(storage: S3Storage, keys: Keys) -> Optional[Problem]:
    """Find what keeps the bucket from being read at all: the first thing in the way, or None."""
    subject = f"storage {storage}"
    try:
        answer = Bucket(storage, keys).send("GET", query=_listing(storage))
    except NetworkError as error:
        return error.as_problem(subject)
    return _refused(storage, answer, "list objects", "s3:ListBucket")


def storage_problems(storage: S3Storage, keys: Keys) -> list[Problem]:
    """Find everything that keeps a registry from keeping its data there. A small object is written, and removed."""
    first = storage_problem(storage, keys)
    if first is not None:
        return [first]
    try:
        return list(_writing_problems(storage, Bucket(storage, keys)))
    except NetworkError as error:
        return [error.as_problem(f"storage {storage}")]


def _writing_problems(storage: S3Storage, bucket: Bucket) -> Iterator[Problem]:
    """Do what distribution's driver does: put, get, an upload in parts that is ended, delete."""
    token = secrets.token_hex(8)
    key = f"{storage.prefix}/bundle-probe-{token}".lstrip("/")
    written = bucket.send("PUT", key, body=token.encode())
    problem = _refused(storage, written, "put objects", "s3:PutObject")
    if problem:
        yield problem
        return
    read = bucket.send("GET", key)
    problem = _refused(storage, read, "get objects", "s3:GetObject")
    if problem:
        yield problem
    elif read.data != token.encode():
        yield Problem(
            f"storage {storage}",
            f"the object `{key}` has other bytes than were put there",
            f"see what answers at {storage.endpoint}",
        )
    begun = bucket.send("POST", key, {"uploads": ""})
    problem = _refused(storage, begun, "begin uploads in parts", "s3:PutObject")
    if problem:
        yield problem
    else:
        listed = bucket.send("GET", query={"uploads": "", "prefix": key})
        problem = _refused(storage, listed, "list uploads in parts", "s3:ListBucketMultipartUploads")
        if problem:
            yield problem
        ended = bucket.send("DELETE", key, {"uploadId": begun.element("UploadId")})
        problem = _refused(storage, ended, "abort uploads in parts", "s3:AbortMultipartUpload")
        if problem:
            yield problem
    problem = _refused(storage, bucket.send("DELETE", key), "delete objects", "s3:DeleteObject")
    if problem:
        yield Problem(problem.subject, f"{problem.message}; `{key}` stays there", problem.hint)


def _listing(storage: S3Storage) -> dict[str, str]:
    prefix = f"{storage.prefix}/" if storage.prefix else ""
    return {"list-type": "2", "max-keys": "1", "prefix": prefix}


def _refused(storage: S3Storage, answer: Answer, doing: str, right: str) -> Optional[Problem]:
    """Say what an answer means that is an error; None for a good one."""
    if answer.is_good:
        return None
    message, hint = _skewed(storage, answer) or _meaning(storage, answer, doing, right)
    return Problem(f"storage {storage}", message, hint)


def _skewed(storage: S3Storage, answer: Answer) -> Optional[tuple[str, str]]:
    now = datetime.datetime.now(datetime.timezone.utc)
    is_far = answer.date is not None and abs(answer.date - now) > _SKEW
    if answer.code != "RequestTimeTooSkewed" and not (is_far and answer.status == 403):
        return None
    theirs = f", and that of `{storage.endpoint}` {answer.date:%Y-%m-%d %H:%M}" if answer.date else ""
    return (
        f"the clocks differ: this one says {now:%Y-%m-%d %H:%M} UTC{theirs}; a signature is good for a quarter of an "
        "hour",
        "set the one that is wrong; here: sudo date -u -s 'YYYY-MM-DD HH:MM'; sudo hwclock --systohc",
    )


def _meaning(storage: S3Storage, answer: Answer, doing: str, right: str) -> tuple[str, str]:
    """Return what an error means, and the next step."""
    code, endpoint, region = answer.code, storage.endpoint, _region(answer)
    if region and region != storage.region:
        return f"the bucket is in the region `{region}`, not `{storage.region}`", f"--s3-region {region}"
    if code in _MEANINGS:
        message, hint = _MEANINGS[code]
        return f"`{endpoint}` {message}", hint
    if code == "NoSuchBucket":
        made = f"aws --endpoint-url {endpoint} s3 mb s3://{storage.bucket}"
        return f"`{endpoint}` has no bucket `{storage.bucket}`", f"have it made there: {made}"
    if answer.status == 403:
        said = code or "HTTP status 403"
        return f"the keys may not {doing} there ({said})", f"allow {right} for `{storage.bucket}` and what is in it"
    said = ": ".join(filter(None, (code, answer.element("Message")))) or f"HTTP status {answer.status}"
    return (
        f"asked to {doing}, `{endpoint}` answers {said}",
        f"is that the S3 interface of the storage, and no web page of it? curl -v {endpoint}",
    )


def _region(answer: Answer) -> Optional[str]:
    """Return the region that the storage wants instead, where it names one that can be one: it is to be typed."""
    found = _named_region(answer)
    return found if found and is_region(found) else None


def _named_region(answer: Answer) -> Optional[str]:
    if answer.code not in ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"):
        return answer.region if answer.status == 301 else None
    expecting = re.search(r"expecting '([\w-]+)'", answer.element("Message"))
    return answer.element("Region") or (expecting[1] if expecting else None) or answer.region
