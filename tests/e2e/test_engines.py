"""The whole job on every engine, Python and kind of user that docs/hosts.md names."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.support.hosts import LAN, LOCAL, STATE
from tests.testbed import ORIGIN, Host, debian, start_origin

pytestmark = pytest.mark.e2e
ARCHIVE = "/media/usb/offline.tar"
CONTAINERD = {"features": {"containerd-snapshotter": True}}
CLASSIC = {"features": {"containerd-snapshotter": False}}
BUILD = ("docker", "buildx", "build", "--platform", "linux/amd64,linux/arm64")
DOCKERFILE = 'FROM busybox:1.35\nRUN uname -m > /built-for\nCMD ["cat", "/built-for"]\n'
OLD_BUILDX = """\
#!/bin/sh
case "$1" in
docker-cli-plugin-metadata) echo '{"SchemaVersion":"0.1.0","Vendor":"x","Version":"v0.10.4"}' ;;
*) echo "github.com/docker/buildx v0.10.4 c513d34" ;;
esac
"""


@pytest.fixture(scope="module")
def usb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an archive of busybox:1.35 and all tools."""
    start_origin()
    directory = tmp_path_factory.mktemp("usb")
    directory.chmod(0o755)
    bundle = Path(sys.executable).parent / "bundle"
    command = [bundle, "create", "-q", "busybox:1.35", "--mirror", f"docker.io={ORIGIN}"]
    subprocess.run([*command, "-o", directory / "offline.tar"], check=True)
    (directory / "parts").mkdir()
    cut = ["split", "-b", "100MiB", "-a", "3", "--numeric-suffixes=1"]
    subprocess.run([*cut, directory / "offline.tar", directory / "parts" / "offline.tar."], check=True)
    return directory


@dataclasses.dataclass
class Site:
    """A host, the user who works there, and how that user starts the archive's program."""

    host: Host
    user: Optional[str] = None
    shell: Optional[str] = None
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    archive: str = ARCHIVE

    def bundle(self, *words: str, code: int = 0) -> Any:
        """Run a command of the program in the archive; gives its JSON document."""
        command = [*words, "--json"]
        argv = ["python3", self.archive, *command]
        if self.shell:
            argv = [
                "sh",
                "-c",
                f"tar -xOf {ARCHIVE} install.sh | {self.shell} -s -- {self.archive} {' '.join(command)}",
            ]
        done = self.host.run(*argv, check=False, user=self.user, env=self.environment)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def out(self, *argv: str, **options: Any) -> str:
        return self.host.run(*argv, user=self.user, env=self.environment, **options).stdout.strip()

    def changes_nothing(self) -> None:
        """Installing again has nothing to do."""
        changed = {step["step"] for step in self.bundle("install")["steps"] if step["changed"]}
        # The kernel's table of emulators is one for all hosts of this machine, and others may be at work.
        assert not changed or changed == {"emulation", "test build"}

    def works(self, address: str = LOCAL) -> None:
        """An unmodified Dockerfile builds for both platforms, is pushed, and runs."""
        name = f"{address}/app:1"
        self.out(*BUILD, "-t", name, "--push", "-", input=DOCKERFILE)
        shown = self.out("docker", "buildx", "imagetools", "inspect", name)
        assert "Platform:    linux/amd64" in shown
        assert "Platform:    linux/arm64" in shown
        assert self.out("docker", "run", "--rm", name) == "x86_64"
        # What was bundled runs too, straight from the registry.
        base = f"{address}/library/busybox:1.35"
        assert self.out("docker", "run", "--rm", base, "uname", "-m") == "x86_64"
        self.out("docker", "image", "rm", name, base)

    def state(self) -> list[str]:
        """What installing could change of the host."""
        return self.host.run("sh", "-c", STATE).stdout.splitlines()


def put_in(host: Host, usb: Path) -> None:
    """The drive, as a careful host mounts it."""
    host.mount_in(usb, "/media/usb", readonly=True)
    host.run("mount", "-o", "remount,bind,ro,noexec,nosuid,nodev", "/media/usb")


@pytest.mark.parametrize(
    ("suite", "config", "engine", "store", "python", "user", "address"),
    [
        ("bookworm", None, "20.10.24", "classic", "3.11", None, LOCAL),
        ("trixie", None, "26.1", "classic", "3.13", "ann", LOCAL),
        ("sid", None, "28.5", "classic", "3.14", None, LOCAL),
        ("sid", CONTAINERD, "28.5", "containerd", "3.14", "ann", LOCAL),
        ("docker29", None, "29.", "containerd", "3.14", "ann", LOCAL),
        ("docker29", None, "29.", "containerd", "3.14", None, LAN),
        ("docker29", CLASSIC, "29.", "classic", "3.14", "ann", LOCAL),
        ("docker29", CLASSIC, "29.", "classic", "3.14", None, LAN),
    ],
    ids=[
        *("20.10", "26.1", "28.5", "28.5-containerd"),
        *("29-containerd", "29-containerd-lan", "29-classic", "29-classic-lan"),
    ],
)
def test_the_job_on_every_engine(
    usb: Path, suite: str, config: Any, engine: str, store: str, python: str, user: Optional[str], address: str
) -> None:
    with Host(suite=suite, name=f"engine-{suite}", daemon_config=config) as host:
        put_in(host, usb)
        if user:
            host.add_user(user, ("docker",))
        site = Site(host, user)
        assert host.run("docker", "version", "-f", "{{.Server.Version}}").stdout.startswith(engine)
        assert host.run("python3", "--version").stdout.startswith(f"Python {python}.")
        driver = site.out("docker", "info", "-f", "{{.Driver}} {{.DriverStatus}}")
        assert ("io.containerd.snapshotter.v1" in driver) == (store == "containerd")
        before = site.state()
        assert site.bundle("install", "--registry", address, "--yes")["changed"]
        assert "running" in site.out("docker", "buildx", "inspect", "cross-builder")
        site.works(address)
        site.changes_nothing()
        assert site.bundle("status")["healthy"]
        assert site.bundle("uninstall", "--data", "--yes")["notes"] == []
        assert sorted(set(before) ^ set(site.state())) == []


def test_the_systems_containerd_has_the_images(usb: Path) -> None:
    """As the packages of Docker 29 install it: containerd is a service of its own, with a directory of its own."""
    with Host(suite="docker29", name="containerd", engine=False) as host:
        put_in(host, usb)
        host.run("mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", "/var/lib/containerd")
        start = "containerd >/dev/null 2>&1 & until [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done"
        host.run("sh", "-c", start, timeout=30)
        host.start_docker()
        site = Site(host)
        refused = site.bundle("install", code=4)
        assert [problem["subject"] for problem in refused["error"]["problems"]] == [
            "disk space for /var/lib/containerd"
        ]
        host.run("mount", "-o", "remount,size=3g", "/var/lib/containerd")
        before = site.state()
        assert site.bundle("install")["changed"]
        site.works()
        site.changes_nothing()
        assert site.bundle("status")["healthy"]
        host.run("mount", "-o", "remount,size=1g", "/var/lib/containerd")
        (finding,) = site.bundle("doctor", code=4)["findings"]
        assert "are free for /var/lib/containerd" in finding["message"]
        assert site.bundle("uninstall", "--data", "--yes")["notes"] == []
        assert sorted(set(before) ^ set(site.state())) == []


def without_python(host: Host) -> None:
    """Take python3 away, but for the testbed's own runc, which is written in it."""
    host.run(
        "sh",
        "-c",
        "p=$(readlink -f /usr/bin/python3); mv $p /usr/lib/hidden-python; rm /usr/bin/python3*; "
        "[ ! -e /usr/local/sbin/runc ] || sed -i '1s,.*,#!/usr/lib/hidden-python,' /usr/local/sbin/runc",
    )
    assert host.run("python3", check=False).returncode == 127


def only_busybox(host: Host) -> str:
    """Put busybox's tools before the system's; gives the PATH."""
    host.copy_in(debian.BUSYBOX.make() / "busybox-amd64", "/opt/busybox/busybox")
    host.run("sh", "-c", "cd /opt/busybox && chmod 755 busybox && ./busybox --install -s . && rm -f docker* python*")
    return "/opt/busybox:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.mark.parametrize(
    ("suite", "config", "shell", "user", "archive"),
    [
        ("bookworm", None, "busybox sh", None, "/media/usb/parts/offline.tar.002"),
        ("sid", CONTAINERD, "dash", "ann", ARCHIVE),
        ("docker29", None, "dash", "ann", ARCHIVE),
    ],
    ids=["20.10-busybox-parts", "28.5-containerd-dash", "29-containerd-dash"],
)
def test_without_python(usb: Path, suite: str, config: Any, shell: str, user: Optional[str], archive: str) -> None:
    with Host(suite=suite, name=f"bare-{suite}", daemon_config=config) as host:
        put_in(host, usb)
        without_python(host)
        if user:
            host.add_user(user, ("docker",))
        site = Site(host, user, shell, {"PATH": only_busybox(host)} if "busybox" in shell else {}, archive)
        assert site.bundle("install")["changed"]
        site.works()
        site.changes_nothing()
        # Nothing stays of the way in: no image, no container, no file; and what is there is the user's.
        assert "bundle-python" not in site.out("docker", "images", "-a")
        assert "python3" not in site.out("docker", "ps", "-a", "--no-trunc")
        assert site.out("ls", "-A", "/tmp") == ""
        home = site.out("sh", "-c", "echo $HOME")
        assert site.out("find", home, "!", "-user", user or "root") == ""
        refused = site.bundle("install", "--builder", "1st", code=2)
        assert "builder" in refused["error"]["message"]


# Bears the name of the engine, comes before it in every listing by name, and would end at a signal.
DECOY = """\
cp /bin/sleep /opt/dockerd
/opt/dockerd 1000 >/dev/null 2>&1 </dev/null &
echo $! >/opt/decoy.pid
"""


def test_without_python_a_path_means_what_it_means_on_the_host(usb: Path) -> None:
    with Host(suite="sid", name="paths") as host:
        put_in(host, usb)
        without_python(host)
        host.add_user("ann", ("docker",))
        host.run("sh", "-c", DECOY)

        def run(place: str, *words: str, user: Optional[str] = "ann", code: int = 0) -> str:
            command = f"cd {place} && tar -xOf {ARCHIVE} install.sh | dash -s -- {ARCHIVE} {shlex.join(words)}"
            environment = {"CDPATH": "/", "DOCKER_DEFAULT_PLATFORM": "linux/arm64"}
            done = host.run("sh", "-c", command, check=False, user=user, env=environment)
            assert done.returncode == code, done.stdout + done.stderr
            return str(done.stdout + done.stderr)

        def files(place: str) -> str:
            return str(host.run("find", place, "-printf", "%p %y %u\n").stdout)

        before = files("/home/ann")
        run("/tmp", "install", "--plan")
        assert files("/home/ann") == before
        run("/tmp", "install")
        for place in ("/etc/job", "/srv/job", "/run/job"):
            host.run("sh", "-c", f"mkdir {place}; chmod 777 {place}; echo 'FROM busybox:1.35' >{place}/Dockerfile")
        host.run("sh", "-c", "ln -s /etc/job/Dockerfile /srv/job/link; ln -s /srv/job /run/job/to; cp /srv/job/* /tmp")
        for place, named in (
            ("/tmp", "Dockerfile"),
            ("/tmp", "link"),
            ("/tmp", "/etc/job"),
            ("/tmp", "/run/job/to/link"),
            ("/srv/job", "../job/link"),
            ("/run/job", "to/Dockerfile"),
            ("/etc/job", "."),
            ("/usr/lib", "../../etc/job/Dockerfile"),
            ("/", "tmp/Dockerfile"),
        ):
            assert "builds here: every image is there" in run(place, "check", named), (place, named)
        for place, words, written in (
            ("/tmp", ["want"], "/tmp/want.json"),
            ("/tmp", ["inspect", "--html", "list.html"], "/tmp/list.html"),
            ("/home/ann", ["verify", "--log-file", "/srv/job/log"], "/srv/job/log"),
            ("/", ["want", "-o", "/run/job/want.json"], "/run/job/want.json"),
            ("/etc/job", ["inspect", "--html=../../tmp/list2.html"], "/tmp/list2.html"),
        ):
            run(place, *words)
            assert host.run("stat", "-c", "%U", written).stdout.strip() == "ann"
            # The shortest is the log of a verification.
            assert host.path(written).stat().st_size > 20
        assert "has files of its own in `/usr/lib`" in run("/usr/lib", "want", code=2)
        # The engine is told, and nobody else of its name.
        assert "would be done" not in run("/tmp", "install", "--registry", "192.168.10.10:5000", "--yes", user=None)
        assert host.run("sh", "-c", "kill -0 $(cat /opt/decoy.pid)", check=False).returncode == 0
        assert "192.168.10.10:5000" in host.run("docker", "info").stdout
        run("/tmp", "uninstall", "--yes", user=None)
        assert "192.168.10.10:5000" not in host.run("docker", "info").stdout
        assert host.run("sh", "-c", "kill -0 $(cat /opt/decoy.pid)", check=False).returncode == 0
        run("/tmp", "uninstall", "--yes")
        assert files("/home/ann") == before
        assert host.run("find", "/root/.docker", "/root/.local", check=False).stdout == ""


def test_the_buildx_plugin_goes_where_it_is_needed(usb: Path) -> None:
    with Host(suite="trixie", name="plugins") as host:
        put_in(host, usb)
        host.run("mkdir", "-p", "/root/.docker/cli-plugins")
        old = host.path("/root/.docker/cli-plugins/docker-buildx")
        old.write_text(OLD_BUILDX)
        old.chmod(0o755)
        site = Site(host)
        plan = {step["step"]: step["changes"] for step in site.bundle("install", "--plan")["steps"]}
        assert [(change["action"], change["name"]) for change in plan["buildx"]] == [
            ("copy", "/root/.local/state/bundle/docker-buildx.replaced"),
            ("install", "/root/.docker/cli-plugins/docker-buildx"),
        ]
        refused = site.bundle("install", "--system", code=4)
        (problem,) = refused["error"]["problems"]
        assert problem["hint"] == "rm /root/.docker/cli-plugins/docker-buildx"
        site.bundle("install")
        assert "v0.10.4" not in site.out("docker", "buildx", "version")
        assert host.path("/root/.local/state/bundle/docker-buildx.replaced").read_text() == OLD_BUILDX
        # For everybody: another user has it, too, and then needs none of its own.
        host.run("rm", "-r", "/root/.docker/cli-plugins")
        site.bundle("install", "--system")
        assert site.out("stat", "-c", "%a %U", "/usr/local/lib/docker/cli-plugins/docker-buildx") == "755 root"
        host.add_user("ann", ("docker",))
        ann = Site(host, "ann")
        done = {step["step"]: step["changes"] for step in ann.bundle("install", "--builder", "anns")["steps"]}
        assert done["buildx"] == []
        assert not host.path("/home/ann/.docker/cli-plugins").exists()
        ann.works()


def files(host: Host) -> dict[str, str]:
    """Every file of the host's own disk, with its owner; Docker's data is elsewhere."""
    listed = host.run("find", "/", "-xdev", "-not", "-path", "/tmp*", "-printf", "%p\t%U:%G %y %s %T@\n").stdout
    return dict(line.split("\t", 1) for line in listed.splitlines())


@pytest.mark.parametrize("groups", [("docker",), ()], ids=["uses-docker", "needs-sudo"])
def test_under_sudo_files_are_where_and_whose_they_should_be(usb: Path, groups: tuple[str, ...]) -> None:
    with Host(suite="sid", name="sudo") as host:
        put_in(host, usb)
        host.add_user("ann", groups)
        uid = host.run("id", "-u", "ann").stdout.strip()
        sudo = {"SUDO_UID": uid, "SUDO_GID": uid, "SUDO_USER": "ann", "HOME": "/root"}
        site = Site(host, None, None, sudo)
        planned = site.bundle("install", "--plan", "--registry", "192.168.10.10:5000", "--yes")
        before = files(host)
        site.bundle("install", "--registry", "192.168.10.10:5000", "--yes")
        after = files(host)
        changed = {path for path in after if after[path] != before.get(path)} | (before.keys() - after.keys())
        said = [f"{change['name']} {change['detail']}" for step in planned["steps"] for change in step["changes"]]
        named = {planned["receipt"]} | {word.strip(",;()") for text in said for word in text.split() if word[0] == "/"}
        home = "/home/ann" if groups else "/root"
        # A directory changes with what is in it; docker buildx keeps its records beside the file that we write there.
        allowed = (f"{home}/.docker/buildx", str(Path(planned["receipt"]).parent), *named)
        parents = {str(parent) for path in named for parent in Path(path).parents}
        strays = [path for path in changed if path not in parents and not path.startswith(allowed)]
        assert strays == [], sorted(named)
        assert site.out("ls", "-A", "/tmp") == ""
        assert planned["receipt"] == f"{home}/.local/state/bundle/receipt.json"
        assert "/etc/docker/daemon.json" in changed
        owner = f"{uid}:{uid}" if groups else "0:0"
        owners = {path: after[path].split()[0] for path in changed if path.startswith(home) and path in after}
        assert {path for path, who in owners.items() if who != owner} == set()
        if groups:
            ann = Site(host, "ann")
            assert "cross-builder*" in ann.out("docker", "buildx", "ls")
            ann.out(*BUILD, "-t", "192.168.10.10:5000/app:1", "--push", "-", input=DOCKERFILE)


def test_a_user_without_root_gets_the_exact_commands(usb: Path) -> None:
    with Host(suite="sid", name="modest") as host:
        put_in(host, usb)
        host.add_user("ann", ("docker",))
        host.add_user("eve")
        ann = Site(host, "ann")
        refused = ann.bundle("install", "--registry", "192.168.10.10:5000", "--yes", code=4)
        (problem,) = refused["error"]["problems"]
        assert problem["subject"] == "/etc/docker/daemon.json"
        command = problem["hint"].removeprefix("run this, then install again: ")
        assert command.startswith("sudo ") or "&& sudo " in command or "| sudo " in command, command
        assert host.run("docker", "ps", "-aq").stdout == ""
        # What it says is what works: run as root, sudo being no program here.
        host.path("/usr/local/bin/sudo").write_text('#!/bin/sh\nexec "$@"\n')
        host.run("chmod", "755", "/usr/local/bin/sudo")
        host.run("sh", "-c", command)
        assert ann.bundle("install", "--registry", "192.168.10.10:5000", "--yes")["changed"]
        ann.out(*BUILD, "-t", "192.168.10.10:5000/app:1", "--push", "-", input=DOCKERFILE)
        stranger = Site(host, "eve").bundle("install", code=4)
        assert "no permission to use Docker" in stranger["error"]["problems"][0]["message"]
        assert stranger["error"]["problems"][0]["hint"].startswith("sudo usermod -aG docker")


def test_an_engine_elsewhere_is_refused_and_another_local_context_works(usb: Path) -> None:
    config = {"hosts": ["unix:///var/run/docker.sock", "tcp://127.0.0.1:2375"]}
    with Host(suite="sid", name="contexts", daemon_config=config) as host:
        put_in(host, usb)
        for environment, named in (
            ({"DOCKER_HOST": "tcp://127.0.0.1:2375"}, "`tcp://127.0.0.1:2375` (DOCKER_HOST)"),
            ({"DOCKER_CONTEXT": "far"}, "`ssh://ann@far` (the context `far`)"),
        ):
            host.run("docker", "context", "create", "far", "--docker", "host=ssh://ann@far", check=False)
            refused = Site(host, None, None, environment).bundle("install", code=4)
            assert f"Docker's engine is at {named}, not on this host" in refused["error"]["message"]
            assert "python3 offline.tar install" in refused["error"]["hint"]
            assert (
                Site(host, None, "dash", environment)
                .host.run(
                    "sh",
                    "-c",
                    f"tar -xOf {ARCHIVE} install.sh | dash -s -- {ARCHIVE} install",
                    check=False,
                    env=environment,
                )
                .returncode
                == 4
            )
        assert host.run("docker", "ps", "-aq").stdout == ""
        assert not host.path("/root/.local/state/bundle").exists()
        host.run("ln", "-s", "/var/run/docker.sock", "/srv/other.sock")
        host.run("docker", "context", "create", "other", "--docker", "host=unix:///srv/other.sock")
        Site(host, None, None, {"DOCKER_CONTEXT": "other"}).bundle("install")


@pytest.mark.parametrize(("address", "data"), [(LOCAL, "/srv/registry"), (LAN, "bundle-registry")])
def test_an_engine_that_maps_the_users_of_containers(usb: Path, address: str, data: str) -> None:
    with Host(name="userns", daemon_config={"userns-remap": "default"}) as host:
        put_in(host, usb)
        site = Site(host)
        assert "name=userns" in site.out("docker", "info", "-f", "{{.SecurityOptions}}")
        before = site.state()
        assert site.bundle("install", "--registry", address, "--data", data, "--yes")["changed"]
        site.works(address)
        site.changes_nothing()
        assert site.bundle("doctor")["healthy"]
        # The registry is for others: it is nobody on the host as long as its data is Docker's own.
        mode = site.out("docker", "inspect", "-f", "{{.HostConfig.UsernsMode}}", "registry")
        assert mode == ("host" if data.startswith("/") else "")
        assert site.bundle("uninstall", "--data", "--yes")["notes"] == []
        assert site.state() == before


def test_an_engine_that_asks_a_proxy_for_everything_is_named_until_it_asks_the_registry_itself(usb: Path) -> None:
    proxies = {"http-proxy": "http://192.168.10.77:3128", "https-proxy": "http://192.168.10.77:3128"}
    with Host(name="proxy", daemon_config={"proxies": proxies}) as host:
        put_in(host, usb)
        site = Site(host)
        before = site.state()
        done = host.run("python3", ARCHIVE, "install", "--registry", LAN, "--yes", check=False)
        assert done.returncode == 4
        assert "through the proxy 192.168.10.77:3128, and 192.168.10.10:5000 is not among" in done.stderr
        assert site.state() == before
        # As the message says.
        proxies["no-proxy"] = "192.168.10.10"
        host.path("/etc/docker/daemon.json").write_text(json.dumps({"proxies": proxies}))
        host.stop_docker()
        host.start_docker()
        assert site.bundle("install", "--registry", LAN, "--yes")["changed"]
        site.works(LAN)
        assert site.bundle("doctor")["healthy"]
        # Somebody takes it away again, and doctor does not call that mended.
        settings = json.loads(host.path("/etc/docker/daemon.json").read_text())
        del settings["proxies"]["no-proxy"]
        host.path("/etc/docker/daemon.json").write_text(json.dumps(settings))
        host.stop_docker()
        host.start_docker()
        for command in (("doctor",), ("doctor", "--fix", "--yes")):
            assert [finding["check"] for finding in site.bundle(*command, code=4)["findings"]] == ["network"]


def test_an_engine_without_a_bridge_is_named(usb: Path) -> None:
    with Host(name="nobridge", daemon_config={"bridge": "none"}) as host:
        put_in(host, usb)
        site = Site(host)
        before = site.state()
        for address in (LOCAL, LAN):
            done = host.run("python3", ARCHIVE, "install", "--registry", address, "--yes", check=False)
            assert done.returncode == 4
            assert '`"bridge": "none"`' in done.stderr
        assert site.state() == before
