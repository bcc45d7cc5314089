"""An image that exists for one platform among many that have two: from the error to the archive and the lock."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from tests.support.fake_registry import FakeRegistry
from tests.support.program import bundle_here as bundle

BOTH = ("linux/amd64", "linux/arm64")


def platforms(document: str) -> dict[str, list[str]]:
    images = json.loads(document)["images"]
    return {
        image["reference"].removeprefix("docker.io/library/"): [each["platform"] for each in image["platforms"]]
        for image in images
        if image["role"] == "base"
    }


def test_the_way_out_that_the_error_names_works(hub: FakeRegistry, tmp_path: Path) -> None:
    hub.tag("library/two", "1", hub.index(*(hub.image(each, seed="two") for each in BOTH)))
    hub.tag("library/one", "1", hub.index(hub.image("linux/amd64", seed="one")))
    hub.tag("library/bare", "1", hub.image("linux/arm64", seed="bare"))
    mirror = ("--mirror", f"docker.io={hub.host}")
    (tmp_path / "Dockerfile").write_text("FROM one:1\nCOPY --from=two:1 / /\n")

    failed = bundle("create", "two:1", "one:1", "bare:1", *mirror, "--plan", cwd=tmp_path)
    assert failed.returncode == 5
    words = re.findall(r"take it for what it has: (\S+) on the command line", failed.stderr)
    lines = re.findall(r"or in bundle.toml: images = \[(.*)\]$", failed.stderr, re.MULTILINE)
    assert words == ["one:1,platform=linux/amd64", "bare:1,platform=linux/arm64"]

    expected = {"two:1": list(BOTH), "one:1": ["linux/amd64"], "bare:1": ["linux/arm64"]}
    typed = shlex.split(" ".join(words))
    # One that a Dockerfile asks for, too: what is said of the image itself counts.
    done = bundle("create", *typed, "--dockerfile", "Dockerfile", *mirror, "--plan", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert platforms(done.stdout) == expected

    definition = tmp_path / "bundle.toml"
    definition.write_text(f'images = ["two:1", {", ".join(lines)}]\n[mirrors]\n"docker.io" = ["{hub.host}"]\n')
    assert bundle("lock", cwd=tmp_path).returncode == 0
    locked = {
        image["reference"].removeprefix("docker.io/library/"): image["wanted"]
        for image in json.loads((tmp_path / "bundle.lock").read_text())["images"]
        if image["role"] == "base"
    }
    assert locked == expected
    done = bundle("create", "-f", "bundle.toml", "-o", "x.tar", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert platforms(done.stdout) == expected

    # Other platforms of an image are drift from the lock.
    definition.write_text(definition.read_text().replace('["linux/arm64"]', '["linux/amd64"]'))
    done = bundle("create", "-f", "bundle.toml", "--plan", cwd=tmp_path)
    assert done.returncode == 2
    assert "`bare:1` is wanted for linux/amd64, locked is linux/arm64" in done.stderr


def test_what_was_passed_over_is_said_where_it_is_read(hub: FakeRegistry, tmp_path: Path) -> None:
    hub.tag("library/two", "1", hub.index(*(hub.image(each, seed="two") for each in BOTH)))
    (tmp_path / "Dockerfile").write_text("FROM two:1")
    (tmp_path / "Dockerfile.j2").write_text("FROM {{ base }}")
    options = ("--mirror", f"docker.io={hub.host}", "--dockerfile", ".")
    done = bundle("create", *options, "-o", "x.tar", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("without the images of what was not looked at: Dockerfile.j2\n")
    done = bundle("create", *options, "--plan", "--json", cwd=tmp_path)
    assert any(
        note.startswith("Dockerfile.j2 was not looked at: `Dockerfile.j2:1`")
        for note in json.loads(done.stdout)["notes"]
    )
    done = bundle("create", *options, "--exclude", "*.j2", "--plan", cwd=tmp_path)
    assert "Dockerfile.j2" not in done.stdout + done.stderr


def test_the_scanner_goes_along(hub: FakeRegistry, tmp_path: Path) -> None:
    hub.tag("library/two", "1", hub.index(*(hub.image(each, seed="two") for each in BOTH)))
    hub.tag("docker/buildkit-syft-scanner", "stable-1", hub.index(*(hub.image(each, seed="scan") for each in BOTH)))
    mirror = ("--mirror", f"docker.io={hub.host}")
    for options, there in (
        ((), False),
        (("--with-scanner",), True),
        (("--without", "scanner"), False),
        (("--dockerfile", "Dockerfile", "--build-arg", "BUILDKIT_ATTEST_SBOM="), True),
    ):
        (tmp_path / "Dockerfile").write_text("FROM two:1")
        done = bundle("create", "two:1", *options, *mirror, "--plan", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        images = {image["reference"]: image for image in json.loads(done.stdout)["images"]}
        scanner = images.get("docker.io/docker/buildkit-syft-scanner:stable-1")
        assert (scanner is not None) == there
        # It runs where builds run, for the platforms of the host.
        if scanner:
            found = (scanner["role"], [each["platform"] for each in scanner["platforms"]])
            assert found == ("scanner", ["linux/amd64"])
