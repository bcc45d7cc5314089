"""The keys of an S3 storage: where they are read, and how they are written for the registry.

Nothing here shows them: not `repr`, not an error.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from bundles.errors import UsageError, reason

_ID, _SECRET, _TOKEN = "aws_access_key_id", "aws_secret_access_key", "aws_session_token"
_PROFILE = "default"
_LINE = re.compile(r"(?:export\s+)?(\w+)\s*=\s*(.*)", re.ASCII)
# As signed headers and the SDK's file can have them.
_VALUE = re.compile(r"[!-~]{1,4096}", re.ASCII)
# Where the SDK ends a value, or reads no file at all (aws-sdk-go 1.55.5: internal/ini), and what quotes are taken from.
_MISREAD = re.compile(r"""(?:^|[=:\[\]])["'#;,]""")


@dataclasses.dataclass(frozen=True)
class Keys:
    """An access key, its secret, and for temporary ones the token that goes with them."""

    identity: str = dataclasses.field(repr=False)
    secret: str = dataclasses.field(repr=False)
    token: str = dataclasses.field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Optional[Keys]:
        """Read the profile `default` of ~/.aws/credentials, or lines such as AWS_ACCESS_KEY_ID=...; None without both
        keys.

        Raises:
            UsageError: the registry would read other ones.
        """
        section, found = _PROFILE, {}
        for line in (line.strip() for line in text.splitlines()):
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1].strip()
            match = _LINE.fullmatch(line)
            if match and section == _PROFILE:
                found[match[1].lower()] = _unquoted(match[2].strip())
        return cls._of(found)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Optional[Keys]:
        """Read AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; None without the first two.

        Raises:
            UsageError: the registry would read other ones.
        """
        return cls._of({name: environment.get(name.upper(), "") for name in (_ID, _SECRET, _TOKEN)})

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Read a file as `parse` does.

        Raises:
            UsageError: it cannot be read, has no keys, or some that the registry would read otherwise.
        """
        try:
            keys = cls.parse(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"`{path}` cannot be read: {reason(error)}", hint="--s3-credentials FILE") from None
        except UnicodeDecodeError:
            keys = None
        if keys is None:
            raise UsageError(
                f"`{path}` holds no keys: expected aws_access_key_id and aws_secret_access_key, as in the profile "
                f"`{_PROFILE}` of ~/.aws/credentials, or as variables",
                hint="--s3-credentials FILE",
            )
        return keys

    @classmethod
    def _of(cls, found: Mapping[str, str]) -> Optional[Keys]:
        identity, secret, token = (found.get(name, "") for name in (_ID, _SECRET, _TOKEN))
        if not (_VALUE.fullmatch(identity) and _VALUE.fullmatch(secret)):
            return None
        token = token if _VALUE.fullmatch(token) else ""
        for name, value in ((_ID, identity), (_SECRET, secret), (_TOKEN, token)):
            if _MISREAD.search(value):
                raise UsageError(
                    f"the registry would misread {name}, which has one of \" ' # ; , at its beginning or behind one of "
                    "= : [ ]",
                    hint="have the storage make other keys",
                )
        return cls(identity, secret, token)

    def to_file(self) -> bytes:
        """Return the file that programs with an AWS SDK read, as the registry is one."""
        lines = [f"[{_PROFILE}]", f"{_ID} = {self.identity}", f"{_SECRET} = {self.secret}"]
        lines += [f"{_TOKEN} = {self.token}"] if self.token else []
        return ("\n".join(lines) + "\n").encode()


def _unquoted(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if is_quoted else text
