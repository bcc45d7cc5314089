"""The main job, shown: record and create on the internet side, carry, install on an air-gapped host, cross-build there.

    python3 -m tests.demo        (or `make demo`, which brings up the testbed first)

Nothing is simulated: the archive is read from a real registry, packages come from where this machine gets its own, and
the host is a machine of its own with a Docker Engine, the address 192.168.10.10, no route and no DNS.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.testbed import ORIGIN, Host, start_origin
from tests.testbed.durations import timed
from tests.testbed.online import docker_environment, online_engine

DOCKERFILE = """\
FROM gcc:12 AS build
COPY hello.c .
RUN gcc -static -O2 -o /hello-c hello.c
FROM python:3-slim
RUN apt-get update && apt-get install -y --no-install-recommends hello
RUN pip install --break-system-packages six==1.16.0
COPY --from=build /hello-c /usr/local/bin/
CMD ["sh", "-c", "hello && hello-c && pip list | grep six"]
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
        app, archive = Path(directory) / "app", stick / "offline.tar"
        app.mkdir()
        (app / "Dockerfile").write_text(DOCKERFILE)
        (app / "hello.c").write_text(HELLO)
        mirror = ("--mirror", f"docker.io={ORIGIN}")
        with step("On the machine with internet: build once, and write down what that takes", rough=60):
            show("online", "cat", app / "Dockerfile")
            with recording(Path(directory)) as environment:
                show("online", bundle, "record", app, *mirror, "-o", f"{app}.record", environment=environment)
        with step("On the machine with internet: write one archive", rough=8):
            show("online", bundle, "create", "--record", f"{app}.record", *mirror, "-o", archive)
            show("online", bundle, "verify", archive)
            show("online", bundle, "inspect", archive)
        with step("The archive travels on a USB drive"):
            show("online", "ls", "-l", stick)
        with Host(suite="sid", name="demo") as host:
            host.mount_in(stick, "/media/usb", readonly=True)
            shutil.copytree(app, host.path("/root/app"))
            use_host(host)
    return 0


@contextmanager
def recording(directory: Path) -> Iterator[dict[str, str]]:
    """Start a Docker Engine with internet that runs programs for arm64, too; gives the environment to use it in."""
    with online_engine() as engine:
        engine.run("docker", "run", "--rm", "--privileged", "tonistiigi/binfmt", "--install", "arm64")
        try:
            yield docker_environment(engine, directory)
        finally:
            engine.run("docker", "run", "--rm", "--privileged", "tonistiigi/binfmt", "--uninstall", "qemu-aarch64")


def use_host(host: Host) -> None:
    with step("On the air-gapped host: no route, no DNS", rough=15):
        run(host, "ip -brief address; ip route; cat /etc/resolv.conf; getent hosts deb.example || echo 'no names'")
        run(host, "cd /media/usb && sha256sum -c offline.tar.sha256")
        run(host, "python3 /media/usb/offline.tar install")
        run(host, "docker buildx ls")
    build = "docker buildx build --progress plain --platform linux/amd64,linux/arm64"
    with step("The unmodified Dockerfile, apt-get and pip included, built for both platforms", rough=60):
        run(host, f"{build} -t localhost:5000/app:1 --push /root/app")
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


def show(where: str, *command: object, environment: Mapping[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    print(f"\n{where}$ {shlex.join([Path(words[0]).name, *words[1:]])}", flush=True)
    subprocess.run(words, check=True, env=environment)


def run(host: Host, script: str) -> None:
    """Run a line of shell on the host; its output goes to this terminal."""
    print(f"\noffline$ {script}", flush=True)
    process = host.popen("sh", "-c", script, stdout=sys.stdout, stderr=sys.stderr)
    if process.wait():
        raise SystemExit(f"error: `{script}` ended with {process.returncode}")


if __name__ == "__main__":
    sys.exit(main())
