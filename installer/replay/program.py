"""The service as one file: a zip of the modules that it needs, out of the running program, wherever that runs from."""

from __future__ import annotations

import io
import pkgutil
import zipfile

from bundles.errors import BundleError

# What the service imports, and nothing else; a test starts it with these alone.
_MODULES = (
    "bundles",
    "bundles.archive",
    "bundles.archive.tape",
    "bundles.archive.tape.answer",
    "bundles.archive.tape.url",
    "bundles.crypto",
    "bundles.crypto.der",
    "bundles.crypto.p256",
    "bundles.crypto.x509",
    "bundles.errors",
    "bundles.oci",
    "bundles.oci.descriptor",
    "bundles.oci.digest",
    "bundles.oci.image",
    "bundles.oci.platform",
    "bundles.oci.reference",
    "bundles.proxy",
    "bundles.proxy.certificates",
    "bundles.proxy.listener",
    "bundles.proxy.playback",
    "bundles.proxy.room",
    "bundles.proxy.server",
    "bundles.registry",
    "bundles.registry.auth",
    "bundles.registry.tls",
    "bundles.registry.urls",
    "bundles.registry.web_page",
    "bundles.runtime",
    "bundles.runtime.closeable",
    "bundles.runtime.filesystem",
    "bundles.runtime.posix",
    "bundles.runtime.program",
    "bundles.runtime.signals",
    "bundles.runtime.system",
    "bundles.runtime.terminal",
    "installer",
    "installer.replay",
    "installer.replay.blobs",
    "installer.replay.library",
    "installer.replay.registry",
    "installer.replay.replayer",
    "installer.replay.service",
    "installer.replay.settings",
    "installer.replay.start",
)
_PACKAGES = frozenset(name.rpartition(".")[0] for name in _MODULES)
_MAIN = b"from installer.replay.start import main\n\nmain()\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def program() -> bytes:
    """Make the zip, to be started with `python3 FILE DIRECTORY`: the same modules, the same bytes.

    Raises:
        BundleError: this program is not whole.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _EPOCH), _MAIN)
        for name in _MODULES:
            place, data = _source(name)
            archive.writestr(zipfile.ZipInfo(place, _EPOCH), data)
    return buffer.getvalue()


def _source(name: str) -> tuple[str, bytes]:
    """Return where a module stands in the zip, and its text: out of a file, or out of the archive's own zip."""
    package, _, module = (f"{name}.__init__" if name in _PACKAGES else name).rpartition(".")
    data = pkgutil.get_data(package, f"{module}.py")
    if data is None:
        raise BundleError(f"the text of the module `{name}` cannot be read, and the replay service needs it")
    return f"{package.replace('.', '/')}/{module}.py", data
