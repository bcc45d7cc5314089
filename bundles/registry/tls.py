"""The TLS that is spoken with registries: whose certificates are trusted. The standard library alone."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Optional


def trusting(authorities: Optional[Path] = None, *, pem: Optional[str] = None) -> ssl.SSLContext:
    """Return what TLS is spoken with: the certificates in a PEM file, or text, are trusted, else those of the system.

    Raises:
        OSError: the file cannot be read, or has none.
    """
    context = ssl.create_default_context(cafile=None if authorities is None else str(authorities), cadata=pem)
    # As Docker and BuildKit, which speak to the same registries; Python 3.13 and later would refuse many a company's CA
    # that lacks what RFC 5280 wants of it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
