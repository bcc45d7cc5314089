"""An S3 storage as it is released: versitygw, from the testbed, over a directory."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Optional

from installer.model.registry.keys import Keys
from installer.model.registry.storage import S3Storage
from installer.storage.bucket import Bucket
from tests.support.fake_registry import Certificate
from tests.support.ports import free_port
from tests.support.real_registry import Lan

KEYS = Keys("AKIASITE", "hunter2-of-the-storage")


class RealS3:
    """Run an S3 storage with a bucket `registry` on an ephemeral port of 127.0.0.1, in `directory`.

    with RealS3(tmp_path) as s3:
        ...  # s3.storage(), KEYS

    Args:
        directory: for its objects and its log.
        tls: serve HTTPS with this certificate.
        lan: the LAN that it is on: else it is on this machine's loopback.
    """

    def __init__(self, directory: Path, *, tls: Optional[Certificate] = None, lan: Optional[Lan] = None) -> None:
        self._directory, self._tls, self._enter = directory, tls, lan.enter if lan else []
        self._address = f"{lan.ip}:{lan.port}" if lan else f"127.0.0.1:{free_port()}"
        self.endpoint = f"{'https' if tls else 'http'}://{self._address}"

    def __enter__(self) -> RealS3:
        from tests.testbed import gotools

        objects = self._directory / "objects"
        # A directory at its top is a bucket.
        (objects / "registry").mkdir(parents=True, exist_ok=True)
        tls = ["--cert", str(self._tls.file), "--key", str(self._tls.key)] if self._tls else []
        environment = {
            "PATH": os.environ["PATH"], "ROOT_ACCESS_KEY": KEYS.identity, "ROOT_SECRET_KEY": KEYS.secret
        }  # fmt: skip
        command = [*self._enter, str(gotools.S3.make()), "--port", self._address, *tls]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--access-log", str(self._directory / "requests"), "posix", str(objects)],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self) -> None:
        """Wait until it listens, as the file of its own network says."""
        port = f":{int(self._address.rpartition(':')[2]):04X}"
        deadline = time.monotonic() + 20
        while True:
            table = Path(f"/proc/{self._process.pid}/net/tcp").read_text().splitlines()[1:]
            if any(line.split()[1].endswith(port) and line.split()[3] == "0A" for line in table):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.log.read_text())
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._directory / "s3.log"

    @property
    def objects(self) -> list[str]:
        """The names of all objects in the bucket."""
        root = self._directory / "objects/registry"
        files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        return sorted(str(path) for path in files if path.parts[0] != ".sgwtmp")

    def storage(self, prefix: str = "", *, authority: Optional[Path] = None) -> S3Storage:
        """Return the bucket as the product knows it."""
        return S3Storage("registry", prefix, self.endpoint, authority=authority and str(authority))

    def bucket(self) -> Bucket:
        return Bucket(self.storage(), KEYS)
