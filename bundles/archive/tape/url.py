"""URLs as a tape keeps them: one spelling for each, and no secrets."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from bundles.errors import UsageError

# A name is cut into words at what is no letter or digit, and at the capitals of accessKey and AWSAccessKey.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# In the words together, wherever they stand: accessToken, pass-phrase, sessionid, private-token, X-Amz-Signature.
_SECRET = re.compile(
    r"token(?!i[sz]|s$)|secret(?!ar)|passw(?:or)?d|passphrase|passcode|credential|signature|apikey|sess(?:ion)?id|jwt|hmac|bearer"
)
# At the end: key, X-Auth-Key and accesskey, but not keyword or monkey; oauth; JFrog's login, X-JFrog-Art-Api.
_ENDS_SECRET = re.compile(
    r"(?:access|account|admin|api|app|auth|client|deploy|encryption|license|master|private|service|session|shared|signing"
    r"|storage|subscription|user)key$|(?:basic|o|proxy|user|x)auth$|artapi$"
)
_LAST = frozenset(
    {
        "auth", "authorization", "cookie", "cookies", "hdnea", "hdntl", "hdnts", "key", "otp", "pass", "policy",
        "pwd", "session", "sid", "sig", "sign", "ticket",
    }
)  # fmt: skip
# What is said of a secret, and is none: token_type=bearer.
_ABOUT = frozenset({"algorithm", "endpoint", "expires", "expiry", "length", "method", "ttl", "type", "version"})
# NAME= anywhere in a text, also in one that is a value itself; and "NAME": of JSON.
_NAME = re.compile(r"""(?<![^\s&;=?#/"'<>~,{}()|])([^\s&;=?#/"'<>~,{}()|]+)(?:=|["']\s*:)""")
# To the next parameter. Behind a semicolon that is one only where it has a name: token=a;b is a token.
_VALUE = re.compile(r"[^&;<>]*(?:;[^&;=<>]*(?=[&;<>]|$))*")
_USER = re.compile(r"(?<=://)[^/?#&\s]*@")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HIDDEN = "-"
# A URL in a URL in a URL.
_MOST_QUOTED = 3


@functools.lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Tell whether a query parameter or header of that name holds what must not be written down."""
    words = [word.lower() for word in _WORD.findall(re.split("[?&;#/]", _unquoted(name))[-1])]
    while words and (words[-1].isdecimal() or words[-1] == "amp"):
        words.pop()
    if not words or words[-1] in _ABOUT:
        return False
    together = "".join(words)
    return words[-1] in _LAST or bool(_SECRET.search(together) or _ENDS_SECRET.search(together))


def shown(text: str) -> str:
    """Return an address of any kind, or a text that has some, without secrets; what has none stays as it is spelt."""
    for reading in _readings(text):
        cleaned = _without_secrets(reading)
        if cleaned != reading:
            # What was read out of another spelling is spelt so that it means the same again.
            return shown(cleaned if reading == text else quote(cleaned, safe="/:?=;,~@!$'()*[]"))
    return text


def has_secret(text: str) -> bool:
    """Tell whether a text has the value of a secret in it: a parameter of a URL, a line of JSON, a user's name."""
    return shown(text) != text


def spelt(url: str) -> str:
    """Return the URL in its one spelling, with its secrets: no user name, default port or fragment.

    Raises:
        UsageError: it is no http or https URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise UsageError(f"`{shown(url)[:200]}` is not an http or https URL")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port not in (None, _DEFAULT_PORTS[parts.scheme]):
        host += f":{port}"
    return urlunsplit((parts.scheme, host, parts.path or "/", parts.query, ""))


def normalise(url: str) -> str:
    """Return the URL as it is kept: in its one spelling, and with `-` for the values of secrets.

    Raises:
        UsageError: it is no http or https URL.
    """
    parts = urlsplit(spelt(url))
    # In a path that is what stands behind a semicolon: /page;jsessionid=1/more.
    path = re.sub(r"(?<=;)[^/]+", lambda match: shown(match[0]), parts.path)
    return urlunsplit(parts._replace(path=path, query="&".join(map(shown, parts.query.split("&")))))


def hides(url: str) -> bool:
    """Tell whether a URL that is kept has lost the value of a secret: it cannot be asked for as it stands."""
    if _HIDDEN not in url:
        return False
    parts = urlsplit(url)
    texts = [*parts.query.split("&"), *re.findall(r"(?<=;)[^/]+", parts.path)]
    return any(
        each[start:end] == _HIDDEN for text in texts for each in _readings(text) for start, end in _secrets(each)
    )


def _readings(text: str) -> Iterator[str]:
    """Give a text as it is, and as it reads when it is unquoted, once and more often."""
    yield text
    for _ in range(_MOST_QUOTED):
        before, text = text, unquote(text)
        if text == before:
            return
        yield text


def _unquoted(text: str) -> str:
    return list(_readings(text))[-1]


def _without_secrets(text: str) -> str:
    pieces, done = [], 0
    for start, end in _secrets(text):
        pieces += [text[done:start], _HIDDEN]
        done = end
    return _USER.sub("", "".join((*pieces, text[done:])))


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    """Find the values of secrets that are not empty: where they begin and end."""
    done = 0
    for match in _NAME.finditer(text):
        if match.start() >= done and is_secret(match[1]):
            value = _VALUE.match(text, match.end())
            done = value.end() if value else match.end()
            if done > match.end():
                yield match.end(), done
