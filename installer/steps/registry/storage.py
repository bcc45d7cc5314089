"""The S3 storage of our own registry: its keys, and whether its bucket is ready.

The keys are kept beside those of the registry's certificate, and put into its container as a file: they are in no
environment, which `docker inspect` shows, and in no command line. distribution's driver has no setting for such a file.
Without keys in its settings it asks the AWS SDK, which reads the file that AWS_SHARED_CREDENTIALS_FILE names, and
trusts the CAs in that of AWS_CA_BUNDLE (distribution 3.1.2: registry/storage/driver/s3-aws/s3.go, `New`; aws-sdk-go
1.55.5: aws/session/env_config.go).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import Problem, UsageError, reason
from installer.host.files import read_optional, remove_file, write_atomically
from installer.host.host import Host
from installer.host.paths import Places
from installer.model.job import DesiredState, Job
from installer.model.registry.keys import Keys
from installer.model.registry.storage import S3Storage
from installer.model.step import Change, Step
from installer.storage.bucket import Bucket
from installer.storage.probe import address_problem, storage_problem, storage_problems
from installer.storage.watch import Watch


@dataclasses.dataclass(frozen=True)
class StorageFiles:
    """Where the files are. The keys are secret."""

    keys: Path
    authority: Path

    @classmethod
    def of(cls, places: Places) -> StorageFiles:
        """Return them for one user's installation."""
        return cls(places.registry / "s3-credentials", places.storage_authority)

    def __iter__(self) -> Iterator[Path]:
        return iter((self.keys, self.authority))


def environment(storage: S3Storage, directory: str, places: Places) -> dict[str, str]:
    """Return the registry's settings for its storage; none of them is secret.

    Args:
        storage: what it is.
        directory: where in the container the files are.
        places: where they are here.
    """
    files = StorageFiles.of(places)
    driver = "REGISTRY_STORAGE_S3"
    # Distribution reads values as YAML, in which an unquoted name may be a number.
    values = {
        "REGISTRY_STORAGE": "s3",
        f"{driver}_BUCKET": json.dumps(storage.bucket),
        f"{driver}_REGION": json.dumps(storage.region),
        f"{driver}_REGIONENDPOINT": storage.endpoint,
        f"{driver}_FORCEPATHSTYLE": "true",
        f"{driver}_ROOTDIRECTORY": f"/{storage.prefix}",
        "REGISTRY_STORAGE_REDIRECT_DISABLE": "false" if storage.redirect else "true",
        # What the image's own file says of it goes with the storage that stands there.
        "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR": "inmemory",
        # Else all is refused, without a reason, for as long as the storage is away and ten seconds more.
        "REGISTRY_HEALTH_STORAGEDRIVER_ENABLED": "false",
        "AWS_SHARED_CREDENTIALS_FILE": f"{directory}/{files.keys.name}",
        # Else without keys it would ask a machine of Amazon's for some.
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if storage.authority:
        values["AWS_CA_BUNDLE"] = f"{directory}/{files.authority.name}"
    return values


def contents(storage: S3Storage, places: Places) -> dict[str, bytes]:
    """Return the files that go into the container, by their names."""
    files = StorageFiles.of(places)
    wanted = [files.keys, *([files.authority] if storage.authority else [])]
    return {path.name: read_optional(path) or b"" for path in wanted}


def kept_keys(places: Places) -> Optional[Keys]:
    """Return the keys of an installation before; None without any."""
    text = (read_optional(StorageFiles.of(places).keys) or b"").decode(errors="replace")
    try:
        return Keys.parse(text)
    except UsageError:
        # As nothing here writes them.
        return None


def trouble(storage: S3Storage, places: Places) -> Optional[Problem]:
    """Find what keeps the bucket from being read with the keys that are kept; None when it answers."""
    keys = kept_keys(places)
    return storage_problem(storage, keys) if keys else _without_keys(storage)


def watch_of(state: DesiredState, places: Places, end: Callable[[], None]) -> Optional[Watch]:
    """Return what watches the storage while it is pushed to, and ends that with `end`; None without a storage."""
    storage = None if state.site else state.storage
    if storage is None:
        return None

    def ask() -> None:
        # In the beginning the keys may not be there yet.
        keys = kept_keys(places)
        if keys:
            Bucket(storage, keys).send("GET", query={"list-type": "2", "max-keys": "1"})

    return Watch(ask, end)


class Storage(Step):
    """Keeps the keys and the CA of the storage, and removes them where they are of no use any more.

    Args:
        job: what is wanted.
        host: where.
        touches: whether a small object may be written there, to see whether that is allowed.
    """

    name = "storage"

    def __init__(self, job: DesiredState, host: Host, *, touches: bool = True) -> None:
        self._job, self._host, self._touches = job, host, touches
        self._storage = None if job.site else job.storage
        self._files = StorageFiles.of(host.places)
        options = job.options if isinstance(job, Job) else None
        self._keys, self._authority = (options.s3_keys, options.s3.authority) if options else (None, None)

    def if_of_use(self) -> Sequence[Step]:
        """Return this step, unless there is nothing to look at: no bucket, now and before."""
        return [self] if self._storage or self.look() else []

    def problems(self) -> Sequence[Problem]:
        storage = self._storage
        if storage is None:
            return []
        elsewhere = address_problem(storage, self._host)
        if elsewhere:
            return [elsewhere]
        keys = self._keys or kept_keys(self._host.places)
        if keys is None:
            return [_without_keys(storage)]
        # Until it is copied the CA is where it was given.
        authority = storage.authority and str(self._authority or storage.authority)
        if authority and not Path(authority).is_file():
            return [Problem(f"--s3-ca {authority}", "the CA of the storage is gone", "--s3-ca FILE")]
        now = dataclasses.replace(storage, authority=authority)
        if self._touches:
            return storage_problems(now, keys)
        found = storage_problem(now, keys)
        return [found] if found else []

    def _wanted(self) -> Mapping[Path, bytes]:
        """Return what was given for the files, as far as it was."""
        if self._storage is None:
            return {}
        wanted = {}
        if self._keys:
            wanted[self._files.keys] = self._keys.to_file()
        if self._authority:
            wanted[self._files.authority] = _read(self._authority)
        return wanted

    def _needless(self) -> Sequence[Path]:
        if self._job.site:
            return []
        needed = {self._files.keys} if self._storage else set()
        needed |= {self._files.authority} if self._storage and self._storage.authority else set()
        return [path for path in self._files if path not in needed and path.exists()]

    def look(self) -> Sequence[Change]:
        what = {self._files.keys: "the keys of the storage", self._files.authority: "its CA"}
        changes = [
            Change("rewrite" if path.exists() else "write", "file", str(path), what[path])
            for path, data in self._wanted().items()
            if read_optional(path) != data
        ]
        return [*changes, *(Change("remove", "file", str(path), "not needed any more") for path in self._needless())]

    def apply(self, changes: Sequence[Change]) -> None:
        for path in self._needless():
            remove_file(path)
        for path, data in self._wanted().items():
            if read_optional(path) != data:
                write_atomically(path, [data], 0o644 if path == self._files.authority else 0o600)

    def explain(self, change: Change) -> str:
        return f"`{change.name}` is of no use with this installation, and secret"


def _without_keys(storage: S3Storage) -> Problem:
    return Problem(
        f"storage {storage}",
        "there are no keys for it: neither in the environment nor in a file",
        "--s3-credentials FILE; or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY with "
        f"--storage {storage} --s3-endpoint {storage.endpoint}",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--s3-ca: `{path}` cannot be read: {reason(error)}") from None
