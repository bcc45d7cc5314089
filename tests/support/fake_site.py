"""An `ssh` and a `docker` command for machines that are files: what a test changes in one is what is answered next.

    site = FakeSite(directory)
    site.add("arm-box", architecture="aarch64")
    host = Host(engine, DockerCLI(site.environment), places, ssh=Ssh(site.environment))

A machine without a file does not answer. `docker` knows what of buildx concerns nodes, as buildx 0.29 does it: a
platform is taken from the other nodes, and nothing is changed while one of the nodes does not answer.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


HERE = "unix:///x"


class FakeSite:
    """The commands and the machines, in a directory. `calls` has what docker and ssh were called with."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.buildx = directory, directory / "buildx"
        (directory / "bin").mkdir(parents=True)
        (directory / "machines").mkdir()
        for name in ("ssh", "ssh-keyscan", "docker"):
            # Each is started some dozen times in a test: what takes long to import is imported where it is needed.
            program = f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            program += f"from fake_site import main\nmain({name!r}, {str(directory)!r})\n"
            (directory / "bin" / name).write_text(program)
            (directory / "bin" / name).chmod(0o755)
        self.environment = {
            "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
            "HOME": str(directory),
            "BUILDX_CONFIG": str(directory / "buildx"),
        }

    def add(self, name: str, **state: Any) -> None:
        """Have a machine answer."""
        default = {"version": "28.0.0", "architecture": "x86_64", "id": name, "free": 1 << 40}
        self._file(name).write_text(
            json.dumps({**default, "images": {}, "untagged": [], "containers": {}, "volumes": [], "says": "", **state})
        )

    def remove(self, name: str) -> None:
        """Have a machine not answer any more."""
        self._file(name).rename(self._file(name).with_suffix(".gone"))

    def bring_back(self, name: str) -> None:
        self._file(name).with_suffix(".gone").rename(self._file(name))

    @contextmanager
    def machine(self, name: str) -> Iterator[dict[str, Any]]:
        """The state of a machine, to be changed."""
        state = json.loads(self._file(name).read_text())
        yield state
        self._file(name).write_text(json.dumps(state))

    def run(self, command: str, arguments: list[str], read: Callable[[], bytes]) -> None:
        """Answer a command on stdout and stderr, and exit where its code is not 0; `read` gives its standard input."""
        with (self.directory / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps([command, *arguments]) + "\n")
        if command == "ssh-keyscan":
            print(f"# {arguments[-1]}:22 SSH-2.0\n{arguments[-1]} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAA")
        elif command == "docker":
            _docker(self, arguments)
        elif arguments[0] == "-G":
            print(f"user x\nhostname {arguments[-1]}\nport 22")
        else:
            _ssh(self, arguments[arguments.index("--") + 1], shlex.split(arguments[-1]), read)

    def _file(self, name: str) -> Path:
        return self.directory / "machines" / f"{name}.json"

    @property
    def calls(self) -> list[list[str]]:
        file = self.directory / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def record(self) -> Path:
        """What buildx has on record of the builder."""
        return self.buildx / "instances" / "cross-builder"

    def made(self, mark: str, *platforms: str) -> None:
        """Have buildx know the builder of this host."""
        self.record.parent.mkdir(parents=True)
        node = {"Name": "cross-builder0", "Endpoint": HERE, "DriverOpts": {"env.OFFLINE_BUNDLE": mark}}
        node["Platforms"] = [_platform(each) for each in platforms]  # type: ignore[assignment]
        self.record.write_text(json.dumps({"Name": "cross-builder", "Driver": "docker-container", "Nodes": [node]}))

    def platforms(self) -> dict[str, list[str]]:
        """What buildx gives to each node."""
        nodes = json.loads(self.record.read_text())["Nodes"]
        return {
            node["Name"]: ["/".join((each["os"], each["architecture"])) for each in node["Platforms"]] for node in nodes
        }


def _platform(text: str) -> dict[str, str]:
    return dict(zip(("os", "architecture"), text.split("/")))


def main(command: str, directory: str) -> None:
    """Be one of the commands."""
    site = FakeSite.__new__(FakeSite)
    site.directory = Path(directory)
    site.buildx = Path(os.environ["BUILDX_CONFIG"])
    site.run(command, sys.argv[1:], sys.stdin.buffer.read)


def _ssh(site: FakeSite, name: str, words: list[str], read: Callable[[], bytes]) -> None:
    try:
        with site.machine(name) as state:
            if state["says"]:
                _end(state["says"], 255)
            _answer(state, words, read)
    except FileNotFoundError:
        _end(f"ssh: connect to host {name} port 22: Connection refused", 255)


def _end(message: str, code: int = 1) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)


def _answer(state: dict[str, Any], words: list[str], read: Callable[[], bytes]) -> None:
    if words[0] == "df":
        print(f"Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/x 9 9 {state['free'] >> 10} 9% /")
    elif words[1] == "info":
        print(
            json.dumps(
                {
                    "ServerVersion": state["version"],
                    "Architecture": state["architecture"],
                    "OSType": "linux",
                    "DockerRootDir": "/var/lib/docker",
                    "ID": state["id"],
                    "Name": "x",
                    "ServerErrors": state.get("errors"),
                }
            )
        )
    elif words[1:3] == ["image", "inspect"]:
        found = state["images"].get(words[3])
        names = [name for name, image in state["images"].items() if image == words[3]]
        if names or words[3] in state["untagged"]:
            found = words[3]
        print(json.dumps([{"Id": found, "RepoTags": names}] if found else []))
    elif words[1:3] == ["container", "inspect"]:
        found = state["containers"].get(words[3])
        shown = found and {
            "Id": "1",
            "Name": f"/{words[3]}",
            "Image": found["image"],
            "State": {"Status": found["state"]},
            "Config": {"Env": found["environment"]},
        }
        print(json.dumps([shown] if found else []))
    elif words[1:3] == ["volume", "inspect"]:
        print(json.dumps([{"Name": words[3]}] if words[3] in state["volumes"] else []))
    elif words[1:3] == ["container", "ls"]:
        print("\n".join(state["containers"]))
    elif words[1] == "load":
        import io
        import tarfile

        with tarfile.open(fileobj=io.BytesIO(read())) as tar:
            (entry,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
            if entry["RepoTags"][0] in state["images"]:
                state["untagged"].append(state["images"][entry["RepoTags"][0]])
            state["images"][entry["RepoTags"][0]] = "sha256:" + entry["Config"].rpartition("/")[2]
    elif words[1] == "start":
        state["containers"][words[2]]["state"] = "running"
    elif words[1] == "rm":
        del state["containers"][words[-1]]
    elif words[1:3] == ["volume", "rm"]:
        state["volumes"].remove(words[3])
    elif words[1] == "rmi":
        # By its id an image goes with the name that it has, if that is its only one.
        names = [name for name, image in state["images"].items() if words[2] in (name, image)]
        for name in names if len(names) == 1 else ():
            del state["images"][name]
        state["untagged"] = [image for image in state["untagged"] if image != words[2]]
    else:
        _end(f"unknown: {words}")


def _docker(site: FakeSite, arguments: list[str]) -> None:
    if arguments[0] == "info":
        print("this x")
        return
    record = json.loads(site.record.read_text())
    nodes = record["Nodes"]
    if "--leave" in arguments:
        record["Nodes"] = [node for node in nodes if node["Name"] != _value(arguments, "--node")]
    elif "--append" in arguments:
        options = [arguments[n + 1].split("=", 1) for n, each in enumerate(arguments) if each == "--driver-opt"]
        platforms = _value(arguments, "--platform").split(",") if "--platform" in arguments else []
        new = {"Name": _value(arguments, "--node"), "Endpoint": arguments[-1], "DriverOpts": dict(options)}
        new["Platforms"] = [_platform(each) for each in platforms]  # type: ignore[assignment]
        for node in nodes:
            node["Platforms"] = [each for each in node["Platforms"] if each not in new["Platforms"]]
        nodes.append(new)
        _ask_all(site, nodes)
    elif arguments[1] == "build":
        wanted = _platform(_value(arguments, "--platform"))
        node = (
            nodes[0] if nodes[0]["Platforms"] is None else next(node for node in nodes if wanted in node["Platforms"])
        )
        _ask_all(site, [nodes[0], node])
        _boot(site, node)
        if "--metadata-file" in arguments:
            metadata = Path(_value(arguments, "--metadata-file"))
            metadata.write_text(json.dumps({"buildx.build.ref": f"cross-builder/{node['Name']}/abc"}))
    elif arguments[1] == "create":
        node = next(node for node in nodes if node["Name"] == _value(arguments, "--node"))
        node["Platforms"] = [_platform(each) for each in _value(arguments, "--platform").split(",")]
        _ask_all(site, nodes)
    elif arguments[1] == "inspect":
        _ask_all(site, nodes)
        for node in nodes:
            _boot(site, node)
    site.record.write_text(json.dumps(record))


def _ask_all(site: FakeSite, nodes: list[dict[str, Any]]) -> None:
    for node in nodes:
        name = node["Endpoint"].rpartition("@")[2]
        if name != HERE and not (site.directory / "machines" / f"{name}.json").exists():
            _end(f"failed to initialize builder cross-builder ({node['Name']}): error during connect")


def _boot(site: FakeSite, node: dict[str, Any]) -> None:
    if node["Endpoint"] == HERE:
        return
    with site.machine(node["Endpoint"].rpartition("@")[2]) as state:
        name, options = f"buildx_buildkit_{node['Name']}", node["DriverOpts"]
        mark = f"OFFLINE_BUNDLE={options['env.OFFLINE_BUNDLE']}"
        new = {"image": options["image"], "environment": [mark]}
        state["containers"].setdefault(name, new)["state"] = "running"
        if f"{name}_state" not in state["volumes"]:
            state["volumes"].append(f"{name}_state")


def _value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]
