"""The main job, shown: create on the internet side, carry, install on an air-gapped host, cross-build there.

    python3 -m tests.demo        (or `make demo`, which brings up the testbed first)

Nothing is simulated: the archive is read from a real registry, the host is a machine of its own with a Docker Engine,
the address 192.168.10.10, no route and no DNS.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.testbed import ORIGIN, Host, start_origin
from tests.testbed.durations import timed

DOCKERFILE = """\
FROM gcc:12 AS build
COPY hello.c .
RUN gcc -static -O2 -o /hello hello.c
FROM debian:12
COPY --from=build /hello /usr/local/bin/hello
RUN dpkg --print-architecture > /etc/built-for
CMD ["hello"]
"""
HELLO = '#include <stdio.h>\nint main(void) { printf("hello from %s\\n", ARCH); return 0; }\n'.replace(
    "int main",
    '#if defined(__aarch64__)\n#define ARCH "arm64"\n#elif defined(__x86_64__)\n#define ARCH "amd64"\n#endif\nint main',
)


def main() -> int:
    bundle = shutil.which("bundle", path=str(Path(sys.executable).parent))
    if not bundle:
        sys.exit("error: the `bundle` command is not installed beside this python\n  next: make setup")
    start_origin("demo")
    with tempfile.TemporaryDirectory(prefix="bundle-demo-") as directory:
        stick = Path(directory) / "usb"
        stick.mkdir()
        archive = stick / "offline.tar"
        with step("On the machine with internet: write one archive", rough=8):
            show("online", bundle, "create", "debian:12", "gcc:12", "--platform", "linux/amd64,linux/arm64",
                 "--mirror", f"docker.io={ORIGIN}", "-o", archive)  # fmt: skip
            show("online", bundle, "verify", archive)
            show("online", bundle, "inspect", archive)
        with step("The archive travels on a USB drive"):
            show("online", "ls", "-l", stick)
        with Host(suite="sid", name="demo") as host:
            host.mount_in(stick, "/media/usb", readonly=True)
            use_host(host)
    return 0


def use_host(host: Host) -> None:
    with step("On the air-gapped host: no route, no DNS", rough=15):
        run(host, "ip -brief address; ip route; cat /etc/resolv.conf; getent hosts deb.example || echo 'no names'")
        run(host, "cd /media/usb && sha256sum -c offline.tar.sha256")
        run(host, "python3 /media/usb/offline.tar install")
        run(host, "docker buildx ls")
    with step("An unmodified Dockerfile, built for both platforms", rough=12):
        host.path("/root/app").mkdir()
        host.path("/root/app/Dockerfile").write_text(DOCKERFILE)
        host.path("/root/app/hello.c").write_text(HELLO)
        run(host, "cat /root/app/Dockerfile")
        run(host, "docker buildx build --progress plain --platform linux/amd64,linux/arm64"
                  " -t localhost:5000/app:1 --push /root/app")  # fmt: skip
        run(host, "docker buildx imagetools inspect localhost:5000/app:1")
        for platform in ("linux/amd64", "linux/arm64"):
            run(host, f"docker run --rm --pull always --quiet --platform {platform} localhost:5000/app:1")
    with step("A second install changes nothing", rough=2):
        run(host, "python3 /media/usb/offline.tar install")


@contextmanager
def step(text: str, rough: float = 0) -> Iterator[None]:
    """A part of the demonstration: what it is, how long it took last time, and now."""
    print(flush=True)
    with timed(f"=== {text}", "===", rough):
        yield


def show(where: str, *command: object) -> None:
    words = [str(word) for word in command]
    print(f"\n{where}$ {shlex.join([Path(words[0]).name, *words[1:]])}", flush=True)
    subprocess.run(words, check=True)


def run(host: Host, script: str) -> None:
    """Run a line of shell on the host; its output goes to this terminal."""
    print(f"\noffline$ {script}", flush=True)
    process = host.popen("sh", "-c", script, stdout=sys.stdout, stderr=sys.stderr)
    if process.wait():
        raise SystemExit(f"error: `{script}` ended with {process.returncode}")


if __name__ == "__main__":
    sys.exit(main())
