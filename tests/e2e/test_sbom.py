"""`docker buildx build --sbom=true` on an air-gapped host, with the scanner that came along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.real_registry import RealRegistry

pytestmark = pytest.mark.e2e

# What a scanner for BuildKit does (docs/attestations/sbom-protocol.md there): a statement of what it was shown.
SCAN = """\
cat > $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json <<END
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
 "predicate": {"name": "scanned on the host", "comment": "$(echo $(ls $BUILDKIT_SCAN_SOURCE))"}}
END
"""


def test_an_sbom_is_made_on_the_host(tmp_path: Path) -> None:
    from tests.testbed import ORIGIN, Host, debian, start_origin

    start_origin()
    usb = tmp_path / "usb"
    usb.mkdir(mode=0o755)
    (tmp_path / "scan").write_text(SCAN)
    with tarfile.open(tmp_path / "scan.tar", "w") as layer:
        layer.add(tmp_path / "scan", "scan")
    with RealRegistry("distribution3", tmp_path) as extra:
        subprocess.run(
            (
                *(debian.CRANE.make(), "mutate", "--insecure", "--platform", "linux/amd64"),
                *("--append", tmp_path / "scan.tar", "--entrypoint", "/bin/sh,/scan"),
                *("-t", f"{extra.host}/docker/buildkit-syft-scanner:stable-1", f"{ORIGIN}/library/busybox:1.35"),
            ),
            check=True,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )
        subprocess.run(
            (
                *(
                    Path(sys.executable).with_name("bundle"),
                    "create",
                    "-q",
                    "busybox:1.35",
                    "--platform",
                    "linux/amd64",
                ),
                *("--with-scanner", "--without", "binfmt", "--without", "python", "-o", usb / "offline.tar"),
                *("--mirror", f"docker.io={extra.host}", "--mirror", f"docker.io={ORIGIN}"),
            ),
            check=True,
        )
    with Host() as host:
        host.mount_in(usb, "/usb", readonly=True)
        host.run("python3", "/usb/offline.tar", "install", timeout=300)
        build = ("docker", "buildx", "build", "--sbom=true", "-t", "localhost:5000/app:1", "--push", "-")
        host.run(*build, input="FROM busybox:1.35\nRUN touch /made-here\n")
        shown = host.run(
            *("docker", "buildx", "imagetools", "inspect", "localhost:5000/app:1", "--format", "{{json .SBOM}}")
        )
    document = json.loads(shown.stdout)["SPDX"]
    assert document["name"] == "scanned on the host"
    assert "made-here" in document["comment"].split()
