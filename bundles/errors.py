"""Every error a user can meet, as one tree. `bundles.cli.app.run` is the only place that turns one into an exit code.

BundleError                      1  failed
├── UsageError                   2  the command line, bundle.toml or a reference is wrong
├── ArchiveError                 3  the archive is damaged, incomplete, or not one this program can read
│   ├── NotABundleError             another kind of file
│   ├── NewerFormatError            written by a later version of the tool
│   ├── IncompleteArchiveError      bytes are missing at the end, or a part is
│   ├── DamagedArchiveError         bytes are there and differ from what the archive says of them
│   ├── UntrustedArchiveError       it is not signed by whom it must be
│   └── ReadError                   the medium failed while the archive was read
├── HostError                    4  the host is not ready
├── NetworkError                 5  a registry refused, failed, or cannot be reached
│   ├── NotFoundError               a reference, platform or blob is not there
│   ├── AuthenticationError         a login is missing, refused or insufficient
│   ├── ContentError                a registry sent bytes that differ from their descriptor
│   ├── TooLargeError               what was sent is larger than somebody on the way takes
│   └── UnavailableError            temporary: worth another try
│       ├── UnreachableError            no connection could be made at all
│       └── TooSlowError                bytes come, but hardly any
├── DiskFullError                1  no space where something must be written
└── InterruptedByUser          130  Ctrl-C or SIGTERM

Messages are lower case, carry the offending value in backticks and say what was expected; `hint` is the next step.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Optional


def reason(error: OSError) -> str:
    """Return why the operating system refused, in lower case."""
    return (error.strerror or str(error)).lower()


@dataclasses.dataclass(frozen=True)
class Problem:
    """One of several things wrong at once. `subject` is what it is about: an image, a port, a file."""

    subject: str
    message: str
    hint: Optional[str] = None


class BundleError(Exception):
    """Base of all errors that are reported without a traceback.

    Args:
        message: what happened, lower case, with the offending value and what was expected.
        hint: the next step for the user, as a command where there is one.
        problems: everything found wrong in one go, when there can be several.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: Optional[str] = None, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [self.message]
        # A next step that many problems in a row share is said once: without a network that is every image.
        for hint, group in itertools.groupby(self.problems, lambda problem: problem.hint):
            alike = list(group)
            lines += [f"  - {problem.subject}: {problem.message}" for problem in alike]
            if hint:
                lines.append(f"    next{f', for these {len(alike)}' if len(alike) > 1 else ''}: {_step(hint)}")
        if self.hint:
            lines.append(f"  next: {_step(self.hint)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the error as the value of `error` in the one JSON document of a failed command."""
        return {
            "kind": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "exitCode": self.exit_code,
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
        }

    def as_problem(self, subject: str) -> Problem:
        """Return this error as one entry of a collected report."""
        return Problem(subject, self.message, self.hint)


def _step(hint: str) -> str:
    """Return a next step as it is shown: an option by itself is none."""
    return f"the same command with {hint}" if hint.startswith("--") else hint


class UsageError(BundleError):
    exit_code = 2


class ArchiveError(BundleError):
    exit_code = 3


class NotABundleError(ArchiveError):
    pass


class NewerFormatError(ArchiveError):
    pass


class IncompleteArchiveError(ArchiveError):
    pass


class DamagedArchiveError(ArchiveError):
    pass


class UntrustedArchiveError(ArchiveError):
    pass


class ReadError(ArchiveError):
    pass


class HostError(BundleError):
    exit_code = 4


class NetworkError(BundleError):
    """A registry refused or failed.

    `status` is the HTTP status of its answer, None when there was none. `codes` are the error codes in that answer
    (distribution-spec "Error Codes", such as MANIFEST_BLOB_UNKNOWN), and `said` its own words. `cause` is what lies
    behind it when that stops other requests in the same way, such as a name that does not resolve; None when it is
    about this request alone.
    """

    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        hint: Optional[str] = None,
        problems: Sequence[Problem] = (),
        status: Optional[int] = None,
        codes: Sequence[str] = (),
        cause: Optional[str] = None,
        said: str = "",
    ) -> None:
        super().__init__(message, hint=hint, problems=problems)
        self.status = status
        self.codes = tuple(codes)
        self.cause = cause
        self.said = said


class NotFoundError(NetworkError):
    pass


class AuthenticationError(NetworkError):
    """No login, or a wrong one, or one without the right to this: then `login_taken` is true."""

    login_taken = False


class ContentError(NetworkError):
    pass


class TooLargeError(NetworkError):
    """413. `server` is what that server calls itself; empty when it does not, or when it is the registry itself."""

    server = ""


class UnavailableError(NetworkError):
    """Temporary: the same request may succeed later.

    `retry_after` is the wait in seconds that the server asked for, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: Optional[str] = None,
        problems: Sequence[Problem] = (),
        status: Optional[int] = None,
        codes: Sequence[str] = (),
        cause: Optional[str] = None,
        said: str = "",
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(message, hint=hint, problems=problems, status=status, codes=codes, cause=cause, said=said)
        self.retry_after = retry_after


class UnreachableError(UnavailableError):
    """The name does not resolve, the port is closed, or a proxy stands in the way."""


class TooSlowError(UnavailableError):
    pass


class DiskFullError(BundleError):
    pass


class InterruptedByUser(BundleError):
    exit_code = 130
