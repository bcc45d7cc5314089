"""Where the keys of an S3 storage are read, and that nothing shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundles.errors import UsageError
from installer.model.registry.keys import Keys

KEYS = Keys("AKIA1", "s/e+c=r")


@pytest.mark.parametrize(
    "text",
    [
        "[default]\naws_access_key_id = AKIA1\naws_secret_access_key = s/e+c=r\n",
        "[other]\naws_access_key_id=x\naws_secret_access_key=y\n[default]\naws_access_key_id=AKIA1\n"
        "aws_secret_access_key=s/e+c=r\n",
        "# for the registry\nexport AWS_ACCESS_KEY_ID='AKIA1'\nexport AWS_SECRET_ACCESS_KEY=\"s/e+c=r\"\n",
        "AWS_ACCESS_KEY_ID=AKIA1\r\nAWS_SECRET_ACCESS_KEY=s/e+c=r\r\n",
    ],
)
def test_both_kinds_of_files_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(text)
    assert Keys.read(tmp_path / "keys") == KEYS


def test_what_is_written_is_read_again() -> None:
    for keys in (KEYS, Keys("AKIA1", "secret", "token")):
        assert Keys.parse(keys.to_file().decode()) == keys


@pytest.mark.parametrize("content", [b"", b"[default]\naws_access_key_id = AKIA1\n", b"[prod]\nx=y\n", b"\xff\xfe\x00"])
def test_a_file_without_keys_is_named_and_not_shown(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        Keys.read(tmp_path / "keys")
    assert f"`{tmp_path}/keys` holds no keys" in str(caught.value) and "AKIA1" not in str(caught.value)


def test_the_environment_has_both_or_none() -> None:
    both = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "s/e+c=r"}
    assert Keys.of_environment(both) == KEYS
    assert Keys.of_environment({**both, "AWS_SECRET_ACCESS_KEY": ""}) is None
    assert Keys.of_environment({}) is None


def test_they_are_not_shown() -> None:
    assert repr(Keys("AKIA1", "secret", "token")) == "Keys()"


@pytest.mark.parametrize("secret", ["#ecret", ";ecret", ",ecret", "'ecret", '"ecret"', "se=#cret", 'se:"cret', "[;ret"])
def test_what_the_registry_would_misread_is_refused_and_not_shown(secret: str, tmp_path: Path) -> None:
    """Written to its file, its SDK takes each of them for something else, but for one in single quotes, as we do."""
    both = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": secret}
    with pytest.raises(UsageError, match="the registry would misread aws_secret_access_key") as caught:
        Keys.of_environment(both)
    assert "cret" not in str(caught.value).replace("secret", "") and caught.value.hint
    with pytest.raises(UsageError, match="aws_session_token"):
        Keys.of_environment({**both, "AWS_SECRET_ACCESS_KEY": "good", "AWS_SESSION_TOKEN": secret})
    (tmp_path / "keys").write_text(f"aws_access_key_id = AKIA1\naws_secret_access_key = '{secret}'\n")
    with pytest.raises(UsageError, match="misread"):
        Keys.read(tmp_path / "keys")


@pytest.mark.parametrize("secret", ["se#cret;", "secret'", 'se"cret"', "se=cret=", "[secret]"])
def test_what_the_registry_reads_as_it_is(secret: str) -> None:
    keys = Keys("AKIA1", secret)
    assert Keys.of_environment({"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": secret}) == keys
    assert Keys.parse(keys.to_file().decode()) == keys
