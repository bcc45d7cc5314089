"""The testbed's command line: python3 -m tests.testbed up [demo | test | bench] | down | status | clean | host."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import apt, durations, origin
from .binfmt import binfmt_state
from .cache import cache_dir, lock, only_root
from .errors import SetupError
from .host import SUITES, Host
from .product import expected, make_all, missing
from .progress import say
from .targets import TARGETS, target


def up(name: str) -> int:
    """Make what is missing of what `make demo`, `make test` or `make bench` needs, and start the origin."""
    only_root()
    began = time.monotonic()
    wanted = target(name)
    with lock("up"):
        products = [*wanted.products, origin.storage(name)]
        absent = missing(products)
        if absent:
            say(f"{len(absent)} things to make for `{name}`, in about {expected(absent):.0f} s")
        with ThreadPoolExecutor(1) as aside:
            # Go's tools need none of these packages and are compiled meanwhile.
            packages = aside.submit(apt.install, wanted.packages)
            make_all(absent)
            packages.result()
        origin.start_origin(name)
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
            if path.name not in ("locks", durations.FILE):
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


def main() -> int:
    """Read the command line, do it, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up_ = commands.add_parser("up", help=up.__doc__)
    up_.add_argument("target", nargs="?", default="test", choices=list(TARGETS))
    actions = {"down": down, "status": status, "clean": clean}
    for name, action in actions.items():
        commands.add_parser(name, help=action.__doc__)
    shell = commands.add_parser("host", help=host.__doc__)
    shell.add_argument("--suite", default="sid", choices=sorted(SUITES))
    shell.add_argument("--usb", type=Path, help="a directory to show at /usb, read-only")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is mounted and registered is taken back
    try:
        if arguments.command == "up":
            return up(arguments.target)
        if arguments.command == "host":
            return host(arguments.suite, arguments.usb)
        return actions[arguments.command]()
    except SetupError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
