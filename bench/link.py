"""A link with a round trip time and a bandwidth, as a proxy: the kernel may have no netem to do it.

    python -m bench.link --to 127.0.0.1:5555 --round-trip 0.1 --rate 12.5e6

Prints the port on which it listens and works until its stdin ends. All connections share the bandwidth, each direction
has its own, and a new connection waits one round trip before its first byte, as TCP does. With --each the bandwidth is
that of each connection, as many registries give it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

_CHUNK = 32 << 10
# What one connection may have on the way; the largest window that Linux gives by default.
_WINDOW = 4 << 20


class _Line:
    """One direction: bytes leave one after the other, and arrive later."""

    def __init__(self, rate: float, delay: float) -> None:
        self._rate, self._delay = rate, delay
        self._free = 0.0

    def arrival(self, count: int) -> float:
        """When `count` bytes that are sent now have arrived, on the loop's clock."""
        self._free = max(self._free, asyncio.get_running_loop().time()) + (count / self._rate if self._rate else 0)
        return self._free + self._delay


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: _Line, wait: float) -> None:
    loop = asyncio.get_running_loop()
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WINDOW // _CHUNK)

    async def deliver() -> None:
        while True:
            when, data = await on_the_way.get()
            if when > loop.time():
                await asyncio.sleep(when - loop.time())
            if not data:
                return
            writer.write(data)
            await writer.drain()

    delivery = asyncio.create_task(deliver())
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            await on_the_way.put((line.arrival(len(data)) + wait, data))
            wait = 0.0
    await on_the_way.put((0.0, b""))
    with contextlib.suppress(OSError):
        await delivery
    with contextlib.suppress(OSError):
        writer.close()


async def _serve(host: str, port: int, rate: float, round_trip: float, each: bool) -> None:
    def lines() -> tuple[_Line, _Line]:
        return _Line(rate, round_trip / 2), _Line(rate, round_trip / 2)

    shared = lines()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        there, back = lines() if each else shared
        await asyncio.gather(
            _carry(reader, far_writer, there, round_trip),
            _carry(far_reader, writer, back, 0.0),
        )

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def link(to: str, *, rate: float = 0.0, round_trip: float = 0.0, each: bool = False) -> Iterator[str]:
    """The address of a link to the registry at `to`.

    Args:
        rate: its bandwidth in bytes per second, 0 for any.
        round_trip: in seconds.
        each: whether every connection has that bandwidth for itself.
    """
    argv = [sys.executable, "-m", "bench.link", "--to", to, "--rate", str(rate), "--round-trip", str(round_trip)]
    argv += ["--each"] if each else []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.link", description=__doc__)
    parser.add_argument("--to", required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--round-trip", type=float, default=0.0)
    parser.add_argument("--each", action="store_true")
    arguments = parser.parse_args()
    host, _, port = arguments.to.rpartition(":")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(host, int(port), arguments.rate, arguments.round_trip, arguments.each))
    # Connections that are still open end with the process.
    sys.stdout.flush()


if __name__ == "__main__":
    main()
