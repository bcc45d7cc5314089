"""Where the program begins: Ctrl-C while the rest of it is still being read ends it without a traceback."""

from __future__ import annotations

import signal


def main() -> None:
    """Read the command line's module, run it and exit."""
    handler = signal.getsignal(signal.SIGINT)
    # A shell's background jobs ignore Ctrl-C, and are to go on doing so.
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from bundles.cli.app import main as run

    signal.signal(signal.SIGINT, handler)
    run()
