"""The testbed's command line: python3 -m tests.testbed up | down | status | clean | host."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import apt, debian, gotools, origin, qemu
from .binfmt import binfmt_state
from .cache import Product, cache_dir, lock, only_root
from .errors import SetupError
from .host import SUITES, Host
from .progress import say


def up() -> int:
    """Make all that is missing and start the origin."""
    only_root()
    began = time.monotonic()
    with lock("up"):
        apt.install()
        tools = [*(tool.product for tool in (*gotools.TOOLCHAIN, *gotools.PEERS)), qemu.BUILDKIT_QEMU]
        trees = [
            debian.BASE, debian.engine_root("sid"), debian.BUILDKIT_ROOT, debian.BUSYBOX, qemu.QEMU,
            debian.GCC, debian.JDK, debian.PYTHON, debian.engine_root("bookworm"), debian.engine_root("trixie"),
            debian.OLD_REGISTRY,
        ]  # fmt: skip
        _side_by_side(tools, trees)
        origin.start_origin()
    say(f"the testbed is up after {time.monotonic() - began:.1f} s")
    return 0


def down() -> int:
    """End the origin's registry."""
    stopped = origin.stop_origin()
    say("the origin is stopped" if stopped else "the origin did not run")
    return 0


def status() -> int:
    """Print what runs and what is in the cache."""
    only_root()
    pid = origin.origin_pid()
    print(f"origin     {f'{origin.ADDRESS} (pid {pid})' if pid else 'not running'}")
    if pid:
        for name, digest in origin.origin_digests().items():
            print(f"  {name:32} {digest}")
    print(f"binfmt     {', '.join(binfmt_state()) or 'nothing registered'}")
    print(f"cache      {cache_dir()}")
    for folder in sorted(path for path in cache_dir().iterdir() if path.is_dir()):
        size = subprocess.run(("du", "-sm", str(folder)), capture_output=True, text=True, check=False).stdout
        print(f"  {folder.name:12} {size.split()[0] if size else '?':>6} MB")
    return 0


def clean() -> int:
    """End the origin's registry and remove the cache."""
    only_root()
    with lock("up"):
        down()
        for path in cache_dir().iterdir():
            if path.name != "locks":
                shutil.rmtree(path)
    say(f"removed everything in {cache_dir()}")
    return 0


def host(suite: str, usb: Path | None) -> int:
    """Start an air-gapped host and open a shell in it."""
    with Host(suite) as machine:
        if usb is not None:
            machine.mount_in(usb, "/usb")
        say(f"this is host {machine.name} at {machine.address}; leave it with exit and it is gone")
        return machine.popen("bash").wait()


def _side_by_side(*lanes: list[Product]) -> None:
    """Make the products of each lane in order, the lanes at the same time."""

    def walk(products: list[Product]) -> None:
        for product in products:
            product.make()

    with ThreadPoolExecutor(len(lanes)) as pool:
        for future in [pool.submit(walk, products) for products in lanes]:
            future.result()


def main() -> int:
    """Read the command line, do it, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    actions: dict[str, Callable[[], int]] = {"up": up, "down": down, "status": status, "clean": clean}
    for name, action in actions.items():
        commands.add_parser(name, help=action.__doc__)
    shell = commands.add_parser("host", help=host.__doc__)
    shell.add_argument("--suite", default="sid", choices=sorted(SUITES))
    shell.add_argument("--usb", type=Path, help="a directory to show at /usb, read-only")
    arguments = parser.parse_args()
    try:
        if arguments.command == "host":
            return host(arguments.suite, arguments.usb)
        return actions[arguments.command]()
    except SetupError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
