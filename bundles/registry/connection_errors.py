"""Failures of connections, translated at the edge: what urllib3 raises becomes errors of `bundles.errors`.

Messages show method, scheme, host and path only: a query string can be a signed URL, a proxy's address a password.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Optional

from urllib3 import exceptions

from bundles.errors import BundleError, NetworkError, TooSlowError, UnavailableError, UnreachableError, reason
from bundles.registry.urls import Origin, describe, is_loopback

# OpenSSL's names for "that was not TLS", over its versions.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"})
# And for bytes that were lost or changed on their way: another try may do better.
_BROKEN = frozenset(
    {
        None, "UNEXPECTED_EOF_WHILE_READING", "BAD_RECORD_MAC", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
        "SSLV3_ALERT_BAD_RECORD_MAC", "DECRYPTION_FAILED", "BAD_LENGTH", "LENGTH_MISMATCH", "PACKET_LENGTH_TOO_LONG",
        "DATA_LENGTH_TOO_LONG", "ENCRYPTED_LENGTH_TOO_LONG", "BAD_RECORD_TYPE", "UNEXPECTED_RECORD",
    }
)  # fmt: skip
# What servers say, over the versions of TLS, to a client without a certificate, or with one that they do not take.
_WANTS_A_CERTIFICATE = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_CERTIFICATE_EXPIRED", "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    }
)  # fmt: skip
# X509_V_ERR_*: self-signed, self-signed in the chain, issuer unknown (two codes), first certificate not verified.
_UNKNOWN_CA = frozenset({18, 19, 20, 21, 2})


@contextlib.contextmanager
def translated(method: str, url: str, proxy: Optional[str]) -> Iterator[None]:
    """Turn what urllib3 raises during a request into a NetworkError.

    Args:
        method: of the request.
        url: of the request.
        proxy: the `host:port` of the proxy that it goes through, if any.
    """
    try:
        yield
    except TooSlowError as error:
        raise TooSlowError(f"{error.message} ({describe(method, url)})") from None
    except BundleError:
        raise
    except (exceptions.HTTPError, OSError, UnicodeError) as error:
        # Without the cause: its text may hold the whole address.
        raise _translation(error, describe(method, url), Origin.of(url), proxy) from None


def _translation(error: Exception, action: str, origin: Origin, proxy: Optional[str]) -> NetworkError:
    if isinstance(error, exceptions.SSLError) and error.args and isinstance(error.args[0], ssl.SSLError):
        return _tls_failure(error.args[0], action, origin)
    if isinstance(error, exceptions.ProxyError):
        reason = _reason(error.original_error)
        cause = f"the proxy `{proxy}` does not connect to `{origin.host}`: {reason}"
        return UnreachableError(f"{cause} ({action})", hint="check HTTPS_PROXY, HTTP_PROXY and NO_PROXY", cause=cause)
    if isinstance(error, exceptions.ConnectTimeoutError):  # NameResolutionError and NewConnectionError are such, too
        cause = f"cannot connect to `{origin.host_port}`: {_reason(error)}"
        return UnreachableError(f"{cause} ({action})", hint=_way_out(origin), cause=cause)
    if isinstance(error, exceptions.LocationValueError):
        cause = f"`{origin.host}` is not a host name"
        return NetworkError(f"{cause} ({action})", cause=cause)
    cause = f"the connection to `{origin.host_port}` failed: {_reason(error)}"
    return UnavailableError(f"{cause} ({action})", cause=cause)


def _way_out(origin: Origin) -> str:
    if is_loopback(origin.host):
        return f"see whether something listens there: ss -ltn sport = :{origin.port}"
    return "check the name and the network; behind a proxy set HTTPS_PROXY; a mirror is named by --mirror"


def _reason(error: BaseException) -> str:
    """Return what went wrong, in words that never hold an address: urllib3's own texts may."""
    seen: Optional[BaseException] = error
    while seen is not None:
        known = _words(seen)
        if known:
            return known
        nested = [each for each in seen.args if isinstance(each, BaseException)]
        seen = seen.__cause__ or (nested[-1] if nested else None)
    if isinstance(error, exceptions.TimeoutError):
        return "timed out"
    return "it was closed before the answer was complete"


def _words(error: BaseException) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({reason(error)})"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {_tls_reason(error)}"
    if isinstance(error, (socket.timeout, TimeoutError)) and not error.strerror:
        return "timed out"
    if isinstance(error, OSError):
        text = str(error)
        return (error.strerror or (text[:100] if text.startswith("Tunnel connection failed") else "")).lower()
    return ""


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.lower()
    return str(error.reason or "the connection was cut").lower().replace("_", " ")


def _tls_failure(error: ssl.SSLError, action: str, origin: Origin) -> NetworkError:
    name = origin.host if origin.port == 443 else origin.host_port
    if error.reason in _NOT_TLS:
        cause = f"`{origin.host_port}` does not speak TLS, it may be a plain HTTP registry"
        hint = f"if it is meant to be one: --insecure-registry {name}"
        return NetworkError(f"{cause} ({action})", hint=hint, cause=cause)
    cause = f"TLS with `{origin.host_port}` failed: {_tls_reason(error)}"
    message = f"{cause} ({action})"
    if isinstance(error, ssl.SSLCertVerificationError):
        unknown = error.verify_code in _UNKNOWN_CA
        hint = "name the CA that signed its certificate: --ca FILE"
        return NetworkError(message, hint=hint if unknown else None, cause=cause)
    if error.reason in _WANTS_A_CERTIFICATE:
        hint = f"it wants a client certificate: put client.cert and client.key into ~/.docker/certs.d/{name}/"
        return NetworkError(message, hint=hint, cause=cause)
    if isinstance(error, ssl.SSLEOFError) or error.reason in _BROKEN:
        return UnavailableError(message, cause=cause)
    return NetworkError(message, cause=cause)
