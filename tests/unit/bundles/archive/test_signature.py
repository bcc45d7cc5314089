"""Signed archives: who signed is seen to before anything is used, and nothing unsigned or changed gets through."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from bundler.create import Options, create
from bundles.archive.reader import Archive
from bundles.archive.signature import Signers, sign
from bundles.archive.verify import verify_archive
from bundles.cli.app import bundle, run
from bundles.errors import ArchiveError, HostError, UntrustedArchiveError, UsageError
from bundles.runtime.progress import Silent
from tests.support.archives import PROGRAM, Made, example, image, made


def make_key(directory: Path, name: str, *options: str) -> Path:
    key = directory / name
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-C", name, "-f", key, *(options or ("-t", "ed25519"))], check=True)
    return key


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the keys `anna` and `mallory`, and a file of allowed signers that has anna's."""
    directory = tmp_path_factory.mktemp("keys")
    for name in ("anna", "mallory"):
        make_key(directory, name)
    allow(directory / "allowed", ("anna@corp", directory / "anna.pub"))
    return directory


def allow(path: Path, *signers: tuple[str, Path], options: str = "") -> Path:
    path.write_text("".join(f"{who} {options}{key.read_text()}" for who, key in signers))
    return path


@pytest.fixture(scope="module")
def sample() -> Made:
    return example()


def write(sample: Made, path: Path, key: Path, split: int | None = None) -> Path:
    options = Options(key=key, part_size=split, program=PROGRAM)
    return create(sample.spec, path, sample.source, options, Silent()).written.files[0].path


@pytest.fixture
def archive(sample: Made, tmp_path: Path, keys: Path) -> Path:
    return write(sample, tmp_path / "offline.tar", keys / "anna")


def test_a_signed_archive_is_accepted(archive: Path, keys: Path) -> None:
    for identity in (None, "anna@corp"):
        with Archive(archive, signers=Signers(keys / "allowed", identity)) as opened:
            verify_archive(opened)
            assert opened.signer == "anna@corp"
    with Archive(archive) as opened:
        verify_archive(opened)
        assert opened.signer is None
        assert opened.manifest.signed


def test_a_split_signed_archive(sample: Made, tmp_path: Path, keys: Path) -> None:
    first = write(sample, tmp_path / "parts.tar", keys / "anna", 30_000)
    with Archive(first, signers=Signers(keys / "allowed")) as opened:
        verify_archive(opened)


@pytest.mark.parametrize("options", [("-t", "rsa", "-b", "2048"), ("-t", "ecdsa")])
def test_other_kinds_of_keys(sample: Made, tmp_path: Path, options: tuple[str, ...]) -> None:
    key = make_key(tmp_path, "key", *options)
    allowed = allow(tmp_path / "allowed", ("someone", tmp_path / "key.pub"))
    with Archive(write(sample, tmp_path / "offline.tar", key), signers=Signers(allowed)) as opened:
        verify_archive(opened)


def test_the_same_key_gives_the_same_bytes(sample: Made, tmp_path: Path, keys: Path, archive: Path) -> None:
    assert write(sample, tmp_path / "again.tar", keys / "anna").read_bytes() == archive.read_bytes()


def test_by_hand_with_tar_and_ssh_keygen(archive: Path, keys: Path, tmp_path: Path) -> None:
    """As docs/security.md says it."""
    script = f"""
        tar -xf {archive} bundle.json bundle.json.sig
        ssh-keygen -Y verify -f {keys}/allowed -I anna@corp -n bundle -s bundle.json.sig < bundle.json
    """
    folder = tmp_path / "by-hand"
    folder.mkdir()
    done = subprocess.run(["sh", "-ec", script], cwd=folder, capture_output=True, text=True, check=True)
    assert 'Good "bundle" signature for anna@corp' in done.stdout


def test_an_unsigned_archive_is_refused(sample: Made, tmp_path: Path, keys: Path) -> None:
    path = sample.write(tmp_path / "offline.tar").path
    with pytest.raises(UntrustedArchiveError, match="is not signed"):
        Archive(path, signers=Signers(keys / "allowed"))


def test_a_foreign_signature_is_refused(sample: Made, tmp_path: Path, keys: Path) -> None:
    path = write(sample, tmp_path / "offline.tar", keys / "mallory")
    with pytest.raises(UntrustedArchiveError, match="its key is none of theirs"):
        Archive(path, signers=Signers(keys / "allowed"))
    both = allow(tmp_path / "both", ("anna@corp", keys / "anna.pub"), ("mallory", keys / "mallory.pub"))
    with pytest.raises(UntrustedArchiveError, match="anna@corp"):
        Archive(path, signers=Signers(both, "anna@corp"))


def test_the_signature_of_another_bundle_is_refused(sample: Made, archive: Path, tmp_path: Path, keys: Path) -> None:
    other = write(made(image("debian:12", seeds=(7,))), tmp_path / "other.tar", keys / "mallory")
    data = other.read_bytes()
    old, new = signature_of(data), signature_of(archive.read_bytes())
    other.write_bytes(data.replace(old, new))
    with Archive(other):
        pass
    with pytest.raises(UntrustedArchiveError, match="ncorrect signature"):
        Archive(other, signers=Signers(keys / "allowed"))


def signature_of(data: bytes) -> bytes:
    start = data.index(b"-----BEGIN SSH SIGNATURE-----")
    return data[start : start + 8192]


def test_other_namespaces_and_expired_keys_are_refused(archive: Path, keys: Path, tmp_path: Path) -> None:
    for options in ('namespaces="git" ', 'valid-before="20200101" '):
        allowed = allow(tmp_path / "allowed", ("anna@corp", keys / "anna.pub"), options=options)
        with pytest.raises(UntrustedArchiveError):
            Archive(archive, signers=Signers(allowed))


def test_changes_of_what_is_signed_are_refused(archive: Path, keys: Path) -> None:
    """Every byte of the manifest and of the signature, coarsely: with the digests right, only the signature tells."""
    data = bytearray(archive.read_bytes())
    start = data.index(b'"images"')
    signature = data.index(b"-----BEGIN SSH SIGNATURE-----")
    for offset in [*range(start, start + 900, 97), *range(signature, signature + 200, 23)]:
        data[offset] ^= 1
        archive.write_bytes(data)
        with pytest.raises(ArchiveError):
            Archive(archive, signers=Signers(keys / "allowed"))
        data[offset] ^= 1


def test_verify_finds_a_signature_entry_that_is_none(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[data.index(b"-----END SSH SIGNATURE-----") + 100] = ord("x")
    archive.write_bytes(data)
    with Archive(archive) as opened, pytest.raises(ArchiveError, match=r"bundle\.json\.sig"):
        verify_archive(opened)


def test_what_cannot_be_used(archive: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Archive(archive, signers=Signers(tmp_path / "missing"))
    with pytest.raises(UsageError, match="is not a key file"):
        sign(b"data", tmp_path / "missing")
    (tmp_path / "junk").write_text("junk")
    (tmp_path / "junk").chmod(0o600)
    with pytest.raises(UsageError, match="cannot sign"):
        sign(b"data", tmp_path / "junk")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="`ssh-keygen` is not on this machine"):
        Archive(archive, signers=Signers(keys / "allowed"))


def test_the_command_line(archive: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    allowed, other = str(keys / "allowed"), str(keys / "mallory.pub")
    assert run(["verify", str(archive), "--allowed-signers", allowed]) == 0
    assert "signed by  anna@corp" in capsys.readouterr().out
    assert run(["verify", str(archive), "--allowed-signers", allowed, "--signer", "eve"]) == 3
    assert run(["install", str(archive), "--allowed-signers", other, "--plan"]) == 3
    assert run(["verify", str(archive), "--signer", "anna@corp"]) == 2
    assert run(["inspect", str(archive)]) == 0
    assert "by whom was not asked" in capsys.readouterr().out
    assert CliRunner().invoke(bundle, ["create", "--help"]).output.count("--sign ") == 1
