"""The push phase of install alone: python -m bench.pushdriver ARCHIVE HOST:PORT."""

from __future__ import annotations

import sys
from pathlib import Path

from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.registry.transport import Settings, Transport
from bundles.runtime.progress import Silent
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.selection import select
from installer.registry.client import Registry
from installer.steps.registry.push import Push


def main() -> None:
    destination = Destination.of(Address.parse(sys.argv[2]))
    with Archive(Path(sys.argv[1])) as archive, Transport(Settings()) as transport:
        check_documents(archive)
        push = Push(archive, select(archive, destination, ()), Registry(transport, destination.host), Silent())
        changes = push.look()
        if changes:
            push.apply(changes)


if __name__ == "__main__":
    main()
