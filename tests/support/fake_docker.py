"""A `docker` command with buildx that builds nothing: it fetches URLs as BuildKit would, through the builder's proxy.

The test tells it what to do in state.json beside it; what it was called with is in calls.jsonl. It is an executable.
"""

from __future__ import annotations

import json
import os
import sys

# A recording starts this program ten times: what takes longer to import than these is imported where it is needed.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

HERE = sys.argv[0].rpartition("/")[0]
# Images are ids by name. `buildx create` pulls `pulled`, which containers have then: images' names by builder.
_STATE: dict[str, Any] = {
    "urls": [],
    "builders": [],
    "version": "v0.34.2",
    "images": {},
    "containers": {},
    "pulled": "sha256:pulled",
}


def install(directory: Path, **state: Any) -> Path:
    """Put the command into a directory, for PATH; returns it."""
    directory.mkdir()
    # As a module it is compiled once.
    here = __file__.rpartition("/")[0]
    program = f"import sys\nsys.path.insert(0, {here!r})\nfrom fake_docker import main\nmain()\n"
    (directory / "docker").write_text(f"#!{sys.executable} -IS\n{program}")
    (directory / "docker").chmod(0o755)
    (directory / "state.json").write_text(json.dumps({**_STATE, **state}))
    return directory


def calls(directory: Path) -> list[list[str]]:
    """What it was called with."""
    return [json.loads(line) for line in (directory / "calls.jsonl").read_text().splitlines()]


def state_of(directory: Path | str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(_read(f"{directory}/state.json"))
    return value


def _read(path: str) -> str:
    with open(path) as file:  # noqa: PTH123  pathlib is one of those that take long
        return file.read()


def _write(path: str, text: str, mode: str = "w") -> None:
    with open(path, mode) as file:  # noqa: PTH123
        file.write(text)


def main() -> None:
    arguments, state = sys.argv[1:], state_of(HERE)
    _write(f"{HERE}/calls.jsonl", json.dumps(arguments) + "\n", "a")
    command, builds = " ".join(arguments[:2]), False
    if command in state.get("fails", ()):
        sys.exit(f"{command} does not work")
    if command == "context inspect":
        print(state.get("endpoint", "unix:///var/run/docker.sock"))
    elif arguments[0] == "info":
        print("Debian GNU/Linux")
    elif command == "buildx create":
        state["builders"].append(_value(arguments, "--name"))
        options = [arguments[n + 1] for n, each in enumerate(arguments) if each == "--driver-opt"]
        state["options"] = dict(option.split("=", 1) for option in options)
        state["config"] = _read(_value(arguments, "--buildkitd-config"))
        state["images"][state["options"]["image"]] = state["pulled"]
        state["containers"][arguments[3]] = state["options"]["image"]
    elif command == "buildx inspect":
        print(f"Name: x\nNodes:\nBuildKit version: {state['version']}\n")
    elif command == "buildx ls":
        print("\n".join(["default", *state["builders"]]))
    elif command == "buildx rm":
        state["builders"].remove(arguments[-1])
        state["containers"].pop(arguments[-1], None)
    elif command == "container inspect":
        name = arguments[-1].removeprefix("buildx_buildkit_")[:-1]
        print(state["containers"][name] if name in state["containers"] else sys.exit("no such container"))
    elif command == "image inspect":
        print(state["images"][arguments[-1]] if arguments[-1] in state["images"] else sys.exit("no such image"))
    elif command == "image tag":
        state["images"][arguments[3]] = arguments[2]
    elif command == "image rm":
        if arguments[-1] in state["containers"].values():
            sys.exit("a container has it")
        state["removed"] = [*state.get("removed", ()), arguments[-1]]
        state["images"].pop(arguments[-1], None)
    elif command == "buildx version":
        print("github.com/docker/buildx v0.38.2 x")
    elif command == "compose version":
        print("Docker Compose version v5.3.1")
    elif arguments[0] == "compose" or "--print" in arguments:
        print(json.dumps(state["printed"]))
    elif command in ("buildx build", "buildx bake"):
        builds = True
        state["built"] = [*state.get("built", ()), _built(arguments)]
        _build(arguments, state)
    _write(f"{HERE}/state.json", json.dumps(state))
    sys.exit(state.get("code", 0) if builds and arguments[-1] != state.get("good") else 0)


def _value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def _built(arguments: list[str]) -> dict[str, Any]:
    """What is built: the directory, Bake's file, which is gone afterwards, and the names in the environment."""
    file = _read(_value(arguments, "--file")) if arguments[1] == "bake" else "null"
    return {
        "directory": os.getcwd(),  # noqa: PTH109
        "name": arguments[-1],
        "bake": json.loads(file),
        "environment": sorted(os.environ),
    }


def _build(arguments: list[str], state: dict[str, Any]) -> None:
    import hashlib
    import signal
    import ssl
    import time
    import urllib.error
    import urllib.request

    ca = next(line for line in state["config"].splitlines() if line.startswith("  ca = "))
    context = ssl.create_default_context(cafile=json.loads(ca.partition("=")[2])[0])
    proxies = urllib.request.ProxyHandler(
        {name: state["options"][f"env.{name.upper()}_PROXY"] for name in ("http", "https")}
    )
    opener = urllib.request.build_opener(proxies, urllib.request.HTTPSHandler(context=context))
    found = [{"uri": "pkg:docker/debian@12?platform=linux%2Famd64", "digest": {"sha256": "a" * 64}}]
    for url in state["urls"]:
        try:
            with opener.open(url) as response:
                found.append({"uri": url, "digest": {"sha256": hashlib.sha256(response.read()).hexdigest()}})
        except urllib.error.HTTPError as error:
            error.close()
    print("#1 [1/1] as BuildKit says it", file=sys.stderr)
    if state.get("kills"):
        os.kill(os.getppid(), signal.SIGKILL)
    if state.get("hangs"):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        _write(f"{HERE}/hanging", "")
        time.sleep(60)
    found += state.get("materials", [])
    _write_cache(arguments)
    _write(_value(arguments, "--metadata-file"), json.dumps({"buildx.build.provenance": {"materials": found}}))


def _write_cache(arguments: list[str]) -> None:
    """Push a cache as BuildKit does, whose one layer is the name of what was built."""
    if arguments[1] == "bake":
        target = json.loads(_read(_value(arguments, "--file")))["target"][arguments[-1]]
        export = target["cache-to"][0]
    else:
        export = _value(arguments, "--cache-to")
    host, _, name = export.partition("ref=")[2].partition("/")
    repository, _, tag = name.partition(":")
    import hashlib
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def send(method: str, path: str, data: bytes = b"") -> Any:
        request = urllib.request.Request(f"http://{host}{path}", data, method=method)
        with opener.open(request) as response:
            return response.headers

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        location = send("POST", f"/v2/{repository}/blobs/uploads/")["Location"]
        send("PUT", f"{location}?digest={digest}", data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(b"{}", "application/vnd.buildkit.cacheconfig.v0"),
        "layers": [put(arguments[-1].encode(), "application/vnd.oci.image.layer.v1.tar+zstd")],
    }
    send("PUT", f"/v2/{repository}/manifests/{tag}", json.dumps(manifest).encode())
