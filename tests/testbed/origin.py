"""The origin: a registry on 127.0.0.1:5555 that stands in for the internet, with real images under real names."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from . import gotools
from .apt import install
from .cache import cache_dir, lock
from .commands import run
from .durations import timed
from .errors import SetupError
from .image import DOCKERFILES, Image
from .processes import Daemon
from .product import Product, make_all
from .progress import say
from .registry import fetch_manifest, free_port, start_registry
from .targets import TARGETS, target

PORT = 5555
ADDRESS = f"127.0.0.1:{PORT}"

_SOURCE_DATE_EPOCH = "1750000000"
_AT_ONCE = 3  # images that are built at the same time
_ORIGIN = Daemon("origin")


def storage(name: str) -> Product:
    """The origin's storage with the images that the target `name` needs, or more: what serves already, or is there."""
    names = list(TARGETS)
    enough = [_storage(TARGETS[each].images) for each in names[names.index(name) :]]
    serving = _serving()
    ready = [each for each in enough if each.path == serving] or [each for each in enough if each.ready]
    return (ready or enough)[0]


def start_origin(name: str = "test") -> None:
    """Serve the origin at 127.0.0.1:5555 with all that the target `name` needs, making what is missing."""
    target(name)
    wanted = storage(name)
    make_all([wanted])
    with lock("origin-process"):
        if _serving() == wanted.path:
            say(f"the origin already runs at {ADDRESS}")
            return
        _ORIGIN.stop()
        start_registry(_ORIGIN, wanted.path, PORT)
        _served().write_text(str(wanted.path))
    say(f"the origin runs at {ADDRESS}")


def stop_origin() -> bool:
    """End the origin's registry; say whether it ran."""
    return _ORIGIN.stop()


def origin_pid() -> int | None:
    """The pid of the origin's registry; None when it does not run."""
    return _ORIGIN.pid


def origin_digests() -> dict[str, str]:
    """The digest of every image on the running origin, by name."""
    serving = _serving()
    images = next(each.images for each in TARGETS.values() if _storage(each.images).path == serving)
    return {image.name: fetch_manifest(PORT, *image.name.split(":"))[0] for image in images}


def _served() -> Path:
    return cache_dir() / "run" / "origin.storage"


def _serving() -> Path | None:
    """The storage that the origin serves now; None when it does not run."""
    return Path(_served().read_text()) if _ORIGIN.pid is not None and _served().is_file() else None


def _storage(images: tuple[Image, ...]) -> Product:
    def fill(directory: Path) -> None:
        daemon = Daemon("origin-build")
        port = free_port()
        start_registry(daemon, directory, port)
        try:
            with _buildkitd(port) as address, ThreadPoolExecutor(_AT_ONCE) as pool:
                building: dict[str, Future[None]] = {}
                for image in images:
                    base = building[image.base] if image.base else None
                    building[image.name] = pool.submit(_build, image, base, address, port)
                for built in building.values():
                    built.result()
        finally:
            daemon.stop()

    needs = {product.path: product for image in images for product in image.products}
    recipe = "\n".join(["2", *(image.recipe for image in images)])
    return Product("origin", recipe, fill, (*needs.values(), gotools.TOOLS), seconds=60)


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
    install(("runc",))
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


def _build(image: Image, base: Future[None] | None, buildkitd: str, port: int) -> None:
    """Build `image`, once its `base` is there, and push it to the registry at `port`."""
    if base is not None:
        base.result()
    with timed(f"building {image.name}", f"built {image.name}"):
        folder = DOCKERFILES / image.folder
        main = folder if image.context is None else image.context.path
        options = [f"platform={image.platforms}", f"build-arg:SOURCE_DATE_EPOCH={_SOURCE_DATE_EPOCH}"]
        if image.provenance:
            options.append("attest:provenance=mode=min")
        locals_ = [f"dockerfile={folder}", f"context={main}"]
        for name, product in image.contexts:
            locals_.append(f"{name}={product.path}")
            options.append(f"context:{name}=local:{name}")
        types = "false" if image.docker_types else "true"
        output = f"type=image,name=127.0.0.1:{port}/{image.name},push=true,oci-mediatypes={types}"
        argv = [str(gotools.BUILDCTL.file), "--addr", buildkitd, "build", "--progress", "plain"]
        argv += ["--frontend", "dockerfile.v0", "--output", output]
        for option in options:
            argv += ["--opt", option]
        for local in locals_:
            argv += ["--local", local]
        run(*argv, env={"SOURCE_DATE_EPOCH": _SOURCE_DATE_EPOCH})
        digest, content = fetch_manifest(port, *image.name.split(":"))
        if not digest.startswith("sha256:") or "schemaVersion" not in json.loads(content):
            raise SetupError(f"the registry has no `{image.name}` after its build")
