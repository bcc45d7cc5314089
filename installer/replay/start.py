"""Where the replay service begins: `python3 program.zip DIRECTORY`, with what it is told in there.

The port is open before the rest of the program is even read: a build that begins with Docker itself waits, where it
would fail when nobody listened. So this imports next to nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bundles.proxy.listener import listen

# The file of the directory that has the settings.
SETTINGS = "settings.json"


def main() -> None:
    """Serve until the process is told to end."""
    directory = Path(sys.argv[1])
    settings = (directory / SETTINGS).read_bytes()
    port = int(json.loads(settings)["port"])
    try:
        listener = listen(port)
    except OSError as error:
        from bundles.errors import reason

        sys.exit(f"port {port} of 127.0.0.1 cannot be listened on: {reason(error)}")
    from installer.replay.service import serve

    serve(directory, settings, listener)
