"""The origin: a registry on 127.0.0.1:5555 that stands in for the internet, with real images under real names."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import debian, gotools, qemu
from .cache import Product, cache_dir, lock
from .commands import run
from .errors import SetupError
from .processes import Daemon
from .progress import say
from .registry import fetch_manifest, free_port, start_registry

PORT = 5555
ADDRESS = f"127.0.0.1:{PORT}"
DOCKERFILES = Path(__file__).parent / "images"

_SOURCE_DATE_EPOCH = "1750000000"
_BOTH = "linux/amd64,linux/arm64"
_ORIGIN = Daemon("origin")


def _make_applets(directory: Path) -> None:
    for applet in run("busybox", "--list").split():
        if applet != "busybox":
            (directory / applet).symlink_to("busybox")


APPLETS = Product("debian/applets", "1", _make_applets)


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the origin: its name, the folder of its Dockerfile and where the files come from.

    `context` is the main build context, `contexts` are named ones; `tools` are Go programs that its Dockerfile takes.
    """

    name: str
    folder: str
    platforms: str = "linux/amd64"
    context: Product | None = None
    contexts: tuple[tuple[str, Product], ...] = ()
    tools: tuple[gotools.GoTool, ...] = ()
    docker_types: bool = False
    provenance: bool = True

    @property
    def products(self) -> list[Product]:
        """All that must be made before this image."""
        main = [] if self.context is None else [self.context]
        return [*main, *(product for _, product in self.contexts), *(tool.product for tool in self.tools)]

    @property
    def recipe(self) -> str:
        """Text that changes whenever the image does."""
        files = sorted(path for path in (DOCKERFILES / self.folder).iterdir() if path.is_file())
        parts = [f"{path.name}\n{path.read_text()}" for path in files]
        parts += [f"{product.name} {product.path.name}" for product in self.products]
        choices = f"{self.name} {self.platforms} {self.docker_types} {self.provenance}"
        return "\n".join([choices, *parts])


_BUSYBOX_CONTEXT = (("busybox", debian.BUSYBOX), ("applets", APPLETS))

IMAGES = (
    Image("library/debian:12", "debian", _BOTH, debian.BASE),
    Image("library/busybox:1.35", "busybox", _BOTH, debian.BUSYBOX, (("applets", APPLETS),)),
    Image("library/registry:3", "registry", contexts=_BUSYBOX_CONTEXT, tools=(gotools.REGISTRY,)),
    Image(
        "moby/buildkit:buildx-stable-1", "buildkit", context=debian.BUILDKIT_ROOT,
        contexts=(("qemu", qemu.BUILDKIT_QEMU),), tools=(gotools.BUILDKITD, gotools.BUILDCTL),
    ),
    Image("docker/buildx-bin:latest", "buildx", tools=(gotools.BUILDX,)),
    Image("docker/dockerfile:1", "frontend", tools=(gotools.FRONTEND,)),
    Image("tonistiigi/binfmt:latest", "binfmt", contexts=(*_BUSYBOX_CONTEXT, ("qemu", qemu.QEMU))),
    Image("library/python:3-slim", "python", _BOTH, debian.PYTHON),
    # Repositories for one architecture each, with a bare manifest instead of an index.
    Image("library/busybox-amd64:1.35", "busybox", "linux/amd64", debian.BUSYBOX, (("applets", APPLETS),),
          provenance=False),
    Image("library/busybox-arm64:1.35", "busybox", "linux/arm64", debian.BUSYBOX, (("applets", APPLETS),),
          provenance=False),
    Image("library/gcc:12", "gcc", _BOTH, debian.GCC),
    Image("library/eclipse-temurin:17", "temurin", _BOTH, debian.JDK, docker_types=True, provenance=False),
)  # fmt: skip


def _storage() -> Product:
    """The origin's storage with all images in it."""
    recipe = "\n".join(["1", *(image.recipe for image in IMAGES)])
    return Product("origin", recipe, _fill)


def start_origin() -> None:
    """Serve the origin at 127.0.0.1:5555, making what is missing; does nothing when it runs on the right storage."""
    storage = _storage()
    directory = storage.make()
    with lock("origin-process"):
        serving = cache_dir() / "run" / "origin.storage"
        if _ORIGIN.pid is not None:
            if serving.is_file() and serving.read_text() == str(directory):
                say(f"the origin already runs at {ADDRESS}")
                return
            _ORIGIN.stop()
        start_registry(_ORIGIN, directory, PORT)
        serving.write_text(str(directory))
    say(f"the origin runs at {ADDRESS}")


def stop_origin() -> bool:
    """End the origin's registry; say whether it ran."""
    return _ORIGIN.stop()


def origin_pid() -> int | None:
    """The pid of the origin's registry; None when it does not run."""
    return _ORIGIN.pid


def origin_digests() -> dict[str, str]:
    """The digest of every image on the running origin, by name."""
    return {image.name: fetch_manifest(PORT, *image.name.split(":"))[0] for image in IMAGES}


def _fill(directory: Path) -> None:
    for image in IMAGES:
        for product in image.products:
            product.make()
    daemon = Daemon("origin-build")
    port = free_port()
    start_registry(daemon, directory, port)
    try:
        with _buildkitd(port) as socket:
            for image in IMAGES:
                began = time.monotonic()
                _build(image, socket, port)
                say(f"built {image.name} in {time.monotonic() - began:.1f} s")
    finally:
        daemon.stop()


@contextmanager
def _buildkitd(port: int) -> Iterator[str]:
    """A buildkitd on this machine that takes Docker Hub's images from the registry at `port`; gives its address."""
    state = cache_dir() / "buildkit"
    state.mkdir(exist_ok=True)
    config = state / "buildkitd.toml"
    config.write_text(
        f'[registry."docker.io"]\n  mirrors = ["127.0.0.1:{port}"]\n'
        f'[registry."127.0.0.1:{port}"]\n  http = true\n'
        "[worker.oci]\n  gc = false\n"
    )
    address = f"unix://{state}/buildkitd.sock"
    daemon = Daemon("buildkitd")
    argv = [
        str(gotools.BUILDKITD.make()), "--addr", address, "--root", str(state / "root"), "--config", str(config),
        "--oci-worker-net", "host",
    ]  # fmt: skip
    buildctl = str(gotools.BUILDCTL.make())

    def ready() -> bool:
        workers = (buildctl, "--addr", address, "debug", "workers")
        return subprocess.run(workers, capture_output=True, check=False).returncode == 0

    daemon.start(argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}, ready)
    try:
        yield address
    finally:
        daemon.stop()


def _build(image: Image, buildkitd: str, port: int) -> None:
    """Build `image` and push it to the registry at `port`."""
    scratch = cache_dir() / "buildkit" / "context"
    shutil.rmtree(scratch, ignore_errors=True)
    tools = scratch / "tools"
    tools.mkdir(parents=True)
    for tool in image.tools:
        shutil.copy2(tool.file, tools / tool.name)
    folder = DOCKERFILES / image.folder
    main = folder if image.context is None else image.context.path
    options = [f"platform={image.platforms}", f"build-arg:SOURCE_DATE_EPOCH={_SOURCE_DATE_EPOCH}"]
    if image.provenance:
        options.append("attest:provenance=mode=min")
    locals_ = [f"dockerfile={folder}", f"context={main}"]
    for name, path in [("tools", tools), *((name, product.path) for name, product in image.contexts)]:
        locals_.append(f"{name}={path}")
        options.append(f"context:{name}=local:{name}")
    output = (
        f"type=image,name=127.0.0.1:{port}/{image.name},push=true,rewrite-timestamp=true,"
        f"oci-mediatypes={'false' if image.docker_types else 'true'}"
    )
    argv = [str(gotools.BUILDCTL.file), "--addr", buildkitd, "build", "--progress", "plain"]
    argv += ["--frontend", "dockerfile.v0", "--output", output]
    for option in options:
        argv += ["--opt", option]
    for local in locals_:
        argv += ["--local", local]
    run(*argv, env={"SOURCE_DATE_EPOCH": _SOURCE_DATE_EPOCH})
    shutil.rmtree(scratch)
    digest, content = fetch_manifest(port, *image.name.split(":"))
    if not digest.startswith("sha256:") or "schemaVersion" not in json.loads(content):
        raise SetupError(f"the registry has no `{image.name}` after its build")
