"""install.sh against a docker command that only writes down what it is given: under dash and busybox."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from bundler.create import Options, create
from bundles.archive.docker_archive import SavedImage, docker_archive
from bundles.archive.reader import Archive
from bundles.cli.app import bundle
from bundles.cli.output import OutputFile
from bundles.oci.reference import Reference
from bundles.runtime.progress import Silent
from tests.support import ROOT
from tests.support.archives import AMD64, ARM64, PROGRAM, image, made

# A docker command that keeps what it is given; what it is asked for is in the files of the directory $FAKE.
DOCKER = """\
#!/bin/sh
case "$1 $2" in
"context inspect") cat "$FAKE/endpoint" ;;
"version -f") echo linux/amd64 ;;
"info -f") cat "$FAKE/security" ;;
"image inspect")
    case $4 in
    *Env*) printf 'LANG=C\nPATH=/opt/conda/bin:/usr/bin\n' ;;
    *) [ -e "$FAKE/loaded" ] && cat "$FAKE/id" ;;
    esac ;;
"load -q") cat >"$FAKE/loaded" ;;
"image rm") printf '%s\\n' "$3" >"$FAKE/removed" ;;
"run --rm")
    printf '%s\\n' "$@" >"$FAKE/run"
    printf '%s %s\\n' "${DOCKER_DEFAULT_PLATFORM-}" "${DOCKER_CONTENT_TRUST-}" >"$FAKE/asked"
    [ ! -x "$FAKE/inside" ] || "$FAKE/inside"
    exit 7 ;;
*) echo "fake docker: $*" >&2; exit 99 ;;
esac
"""
SHELLS = {"dash": ["/bin/dash"], "busybox": ["/bin/busybox", "sh"]}
# `make test` installs both.
INSTALLED = [
    pytest.param(name, marks=pytest.mark.skipif(not Path(command[0]).exists(), reason=f"{command[0]} is not installed"))
    for name, command in SHELLS.items()
]


@dataclasses.dataclass
class Site:
    """A place with an archive and a docker command, and the shell to run its script with."""

    directory: Path
    shell: list[str]

    def script(self, archive: Path) -> bytes:
        with tarfile.open(archive) as tar:
            member = tar.extractfile("install.sh")
            assert member
            return member.read()

    def run(self, script: bytes, *arguments: object, **environment: str) -> tuple[int, str]:
        """The exit code and stderr; the script comes from a pipe, as from tar."""
        done = subprocess.run(
            [*self.shell, "-s", "--", *map(str, arguments)],
            input=script,
            capture_output=True,
            cwd=self.directory,
            env={**self.environment, **environment},
            check=False,
            timeout=60,
        )
        return done.returncode, done.stderr.decode()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.directory}/bin:/usr/bin:/bin",
            "HOME": str(self.directory / "home"),
            "FAKE": str(self.directory),
            "TMPDIR": str(self.directory / "tmp"),
        }

    def said(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture(params=INSTALLED)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    for name in ("bin", "home", "tmp"):
        (tmp_path / name).mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    (tmp_path / "security").write_text("[name=seccomp,profile=builtin]\n")
    # A socket's path has at most 107 bytes.
    with socket.socket(socket.AF_UNIX) as listener, _Directory(tmp_path):
        listener.bind("docker.sock")
        (tmp_path / "endpoint").write_text(f"unix://{tmp_path}/docker.sock\n")
        yield Site(tmp_path, SHELLS[request.param])


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path, self._before = path, Path.cwd()

    def __enter__(self) -> None:
        os.chdir(self._path)

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive with a Python image for two host platforms, in a directory whose name has a space."""
    sample = made(image("python:3-slim", "python", (AMD64, ARM64), (3, 4)), image("debian:12"))
    (tmp_path / "usb stick").mkdir()
    sample.write(tmp_path / "usb stick" / "offline.tar")
    return tmp_path / "usb stick" / "offline.tar"


def test_a_signed_archive_has_its_places_too(site: Site, tmp_path: Path) -> None:
    sample = made(image("python:3-slim", "python", (AMD64, ARM64), (3, 4)), image("debian:12"))
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", key], check=True)
    options = Options(key=key, program=PROGRAM)
    archive = create(sample.spec, tmp_path / "offline.tar", sample.source, options, Silent()).written.path
    identity, expected = python_stream(archive)
    (site.directory / "id").write_text(identity)
    assert site.run(site.script(archive), archive, "install") == (7, "loading Python from the archive\n")
    assert (site.directory / "loaded").read_bytes() == expected


def python_stream(path: Path) -> tuple[str, bytes]:
    """The id of the Python image for amd64, and what `docker load` should get."""
    with Archive(path) as opened:
        (item,) = opened.manifest.with_role("python")
        (content,) = (each for each in item.platforms if each.platform == AMD64)
        name = f"docker.io/library/bundle-python:{content.manifest.digest.hex[:12]}"
        image = opened.read_image(content.manifest)
        saved = docker_archive([SavedImage(content.manifest, image, Reference.parse(name))])
        return str(image.config.digest), b"".join(saved.stream(opened, lambda count: None))


def test_docker_gets_the_python_image_and_nothing_else_of_the_archive(site: Site, archive: Path) -> None:
    identity, expected = python_stream(archive)
    (site.directory / "id").write_text(identity)
    code, stderr = site.run(site.script(archive), archive, "install", "--registry", "a b'c:5000")
    assert (code, stderr) == (7, "loading Python from the archive\n")
    assert (site.directory / "loaded").read_bytes() == expected
    words = site.said("run").splitlines()
    image_at = next(n for n, word in enumerate(words) if word == identity)
    assert words[image_at + 1 :] == [str(archive), "install", "--registry", "a b'c:5000"]
    # The archive is below a directory that the container has whole.
    top = f"/{archive.parts[1]}"
    assert f"type=bind,src={top},dst={top},readonly" in words
    assert f"type=bind,src={site.directory}/home/.docker,dst={site.directory}/home/.docker" in words
    assert words[words.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    # Nothing is left behind.
    assert site.said("removed").startswith("docker.io/library/bundle-python:")
    assert list((site.directory / "tmp").iterdir()) == []
    assert list((site.directory / "home").iterdir()) == []


def test_an_image_that_is_there_already_is_neither_loaded_nor_removed(site: Site, archive: Path) -> None:
    identity, _ = python_stream(archive)
    (site.directory / "id").write_text(identity)
    (site.directory / "loaded").write_text("before")
    assert site.run(site.script(archive), archive, "verify") == (7, "")
    assert site.said("loaded") == "before"
    assert not (site.directory / "removed").exists()


def mounts(site: Site) -> dict[str, bool]:
    """What the container was given: each place, at the same place in there, and whether it may be written to."""
    found = {}
    for word in site.said("run").splitlines():
        if word.startswith("type=bind,"):
            fields = dict(field.partition("=")[::2] for field in word.split(","))
            assert fields["dst"].startswith("/"), word
            assert fields["dst"] not in found, "Docker refuses a second mount at the same place"
            found[fields["dst"]] = "readonly" not in fields
            assert fields["src"] == fields["dst"] or fields["dst"] in ("/host", "/run/bundle"), word
    return found


@pytest.mark.parametrize(
    ("arguments", "writes"),
    [
        (["want"], [""]),
        (["want", "-o", "here.json"], [""]),
        (["want", "-o", "a/here.json"], ["a"]),
        (["want", "-oa/here.json"], ["a"]),
        (["want", "-qo", "a/here.json"], ["a"]),
        (["want", "--output=a/here.json", "--log-file", "b c/log"], ["a", "b c"]),
        (["want", "--log-file=b c/log"], ["", "b c"]),
        (["inspect", "--html", "../list.html"], [".."]),
        (["inspect", "--html=a/list.html"], ["a"]),
        (["inspect", "--html", "LINK/list.html"], ["b c"]),
        (["export", "debian:12", "--to", "docker-archive:a/debian.tar"], ["a"]),
        (["export", "debian:12", "--to=oci-archive:b c/debian.tar"], ["b c"]),
        (["export", "debian:12", "--to", "docker-archive:-"], []),
        (["verify", "--log-file", "log"], [""]),
        (["verify", "--log-file", "/dev/stderr"], []),
        (["inspect", "--json"], []),
        (["install"], []),
        (["check", "a", "--platform", "linux/amd64"], []),
    ],
)
def test_only_what_writes_a_file_may_write_and_only_there(
    site: Site, archive: Path, arguments: list[str], writes: list[str]
) -> None:
    (site.directory / "id").write_text(python_stream(archive)[0])
    work = site.directory / "work"
    for name in ("a", "b c"):
        (work / name).mkdir(parents=True)
    (work / "a" / "link").symlink_to("../b c")
    arguments = [word.replace("LINK", "a/link") for word in arguments]
    script = site.script(archive)
    at = dataclasses.replace(site, directory=work)
    code, stderr = at.run(
        script, archive, *arguments, FAKE=str(site.directory), HOME=str(site.directory / "home"),
        TMPDIR=str(site.directory / "tmp"), PATH=f"{site.directory}/bin:/usr/bin:/bin",
    )  # fmt: skip
    assert (code, "error" in stderr) == (7, False), stderr
    found = mounts(site)
    own = {"/run/bundle", "/etc/docker", "/usr/local/lib/docker/cli-plugins", str(site.directory / "docker.sock")}
    own |= {str(site.directory / "home" / name) for name in (".docker", ".local/state/bundle")}
    given = {place for place, writable in found.items() if writable} - own
    assert given == {os.path.normpath(work / name) for name in writes}
    words = site.said("run").splitlines()
    assert words[words.index("--workdir") + 1] == str(work)


def test_every_directory_of_the_host_is_where_it_is(site: Site, archive: Path) -> None:
    """Else a path, or a link, leads to another file in the container, or to none; /tmp most of all."""
    (site.directory / "id").write_text(python_stream(archive)[0])
    assert site.run(site.script(archive), archive, "check", ".")[0] == 7
    found = mounts(site)
    own = {"bin", "dev", "etc", "host", "lib", "lib32", "lib64", "libx32", "opt", "proc", "run", "sbin", "sys", "usr"}
    expected = {f"/{entry.name}" for entry in Path("/").iterdir() if entry.is_dir() and entry.name not in own}
    assert {place for place in found if place.count("/") == 1} == expected | {"/host"}
    assert "/tmp" in found
    assert "--tmpfs" not in site.said("run")
    words = site.said("run").splitlines()
    assert "TMPDIR=/run/bundle" in words
    assert ("SYS_PTRACE" in words) is (os.geteuid() == 0)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory below one of which the container has its own."""
    path = Path("/etc") / f"bundle test {os.getpid()}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory there")
def test_what_is_named_below_a_directory_of_the_containers_own_is_seen(
    site: Site, archive: Path, elsewhere: Path
) -> None:
    (site.directory / "id").write_text(python_stream(archive)[0])
    for name in ("signers", "Dockerfile", "stick.tar"):
        (elsewhere / name).write_text("x")
    (elsewhere / "parts").mkdir()
    (site.directory / "Containerfile").symlink_to(elsewhere / "Dockerfile")
    (elsewhere / "away").symlink_to(site.directory)
    script = site.script(archive)
    for words, place in (
        (["verify", "--allowed-signers", elsewhere / "signers"], elsewhere / "signers"),
        (["verify", f"--allowed-signers={elsewhere}/signers"], elsewhere / "signers"),
        (["install", "--parts", elsewhere / "parts"], elsewhere / "parts"),
        (["check", elsewhere / "Dockerfile"], elsewhere / "Dockerfile"),
        (["check", elsewhere], elsewhere),
        (["check", "Containerfile"], site.directory / "Containerfile"),
        (["check", elsewhere / "away" / "Containerfile"], elsewhere),
        (["diff", elsewhere / "stick.tar", archive], elsewhere / "stick.tar"),
        (["check", f"../../../../../..{elsewhere}/Dockerfile"], elsewhere / "Dockerfile"),
    ):
        assert site.run(script, archive, *words)[0] == 7
        found = mounts(site)
        assert found[str(place)] is False, words
    # Called there, and with the archive there.
    shutil.copy(archive, elsewhere / "offline.tar")
    at = dataclasses.replace(site, directory=elsewhere)
    environment = {"FAKE": str(site.directory), "HOME": str(site.directory / "home"), "PATH": f"{site.directory}/bin"}
    environment["PATH"] += ":/usr/bin:/bin"
    environment["TMPDIR"] = str(site.directory / "tmp")
    assert at.run(script, "offline.tar", "check", "Dockerfile", **environment)[0] == 7
    assert mounts(site)[str(elsewhere)] is False
    assert at.run(script, "offline.tar", "want", **environment)[0] == 7
    assert mounts(site)[str(elsewhere)] is True
    bare = dataclasses.replace(site, directory=Path("/usr/lib"))
    assert bare.run(script, archive, "check", "Dockerfile", **environment)[0] == 7
    words = site.said("run").splitlines()
    assert words[words.index("--workdir") + 1] == "/host/usr/lib"
    (site.directory / "run").unlink()
    for words_ in (
        ["want"],
        ["want", "-o", "/lib/x"],
        ["inspect", "--html", "/usr/bin/x"],
        ["verify", "--log-file=/x"],
    ):
        code, stderr = bare.run(script, archive, *words_, **environment)
        assert (code, "the container has files of its own in `/" in stderr) == (2, True), stderr
        assert not (site.directory / "run").exists()


@pytest.mark.parametrize(
    "word", ["/", "/etc", "/etc/", "/etc//", "/etc/.", "/etc/..", "/etc/./passwd", "/usr/../etc", "//etc/passwd", "."]
)
def test_no_word_puts_a_directory_over_the_containers_own(site: Site, archive: Path, word: str) -> None:
    (site.directory / "id").write_text(python_stream(archive)[0])
    assert site.run(site.script(archive), archive, "check", word)[0] == 7
    found = {os.path.normpath(place) for place in mounts(site)}
    assert not found & {"/", "/bin", "/dev", "/etc", "/lib", "/proc", "/run", "/sys", "/usr", "/usr/bin", "/usr/lib"}


@pytest.mark.parametrize("command", ["install", "join"])
def test_a_directory_that_is_missing_is_made_and_no_other_is_given(site: Site, archive: Path, command: str) -> None:
    (site.directory / "id").write_text(python_stream(archive)[0])
    home, script = site.directory / "home", site.script(archive)
    # What only looks makes nothing, and has nothing of the home to write to.
    for words in (["status"], ["uninstall", "--plan"], ["want"]):
        assert site.run(script, archive, *words)[0] == 7
        assert not [place for place, writable in mounts(site).items() if writable and place.startswith(str(home))]
    made = [home / ".local/state/bundle", home / ".local/state", home / ".local", home / ".docker"]
    inside = site.directory / "inside"
    inside.write_text('#!/bin/sh\nls -ld "$FAKE/home/.docker" >"$FAKE/mode"\n')
    inside.chmod(0o755)
    assert site.run(script, archive, command)[0] == 7
    assert site.said("mode").startswith("drwx------")
    given = {place for place, writable in mounts(site).items() if writable and place.startswith(str(home))}
    assert given == {str(made[0]), str(made[3])}
    assert "BUNDLE_MADE=" + "\n".join(map(str, made)) + "\n" in site.said("run")
    assert list(home.iterdir()) == []
    # What was put there stays.
    inside.write_text('#!/bin/sh\n: >"$FAKE/home/.docker/config.json"\n')
    assert site.run(script, archive, command)[0] == 7
    assert [path.name for path in home.rglob("*")] == [".docker", "config.json"]


@pytest.mark.parametrize(("options", "came"), [(("--password-stdin",), "hunter2\n"), ((), "")])
def test_a_password_on_standard_input_comes_through(
    site: Site, archive: Path, options: tuple[str, ...], came: str
) -> None:
    """Where the script is a file; one that comes through a pipe is what stands there itself."""
    (site.directory / "id").write_text(python_stream(archive)[0])
    script, inside = site.directory / "install.sh", site.directory / "inside"
    script.write_bytes(site.script(archive))
    inside.write_text('#!/bin/sh\ncat >"$FAKE/stdin"\n')
    inside.chmod(0o755)
    done = subprocess.run(
        [*site.shell, str(script), str(archive), "join", "registry.lan:5000", *options],
        input=b"hunter2\n",
        capture_output=True,
        cwd=site.directory,
        env=site.environment,
        check=False,
        timeout=60,
    )
    assert done.returncode == 7, done.stderr.decode()
    assert site.said("stdin") == came
    assert ("--interactive" in site.said("run").split()) == bool(options)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives away what it makes")
def test_what_root_makes_in_a_home_is_given_to_its_owner(site: Site, archive: Path) -> None:
    (site.directory / "id").write_text(python_stream(archive)[0])
    home = site.directory / "home"
    os.chown(home, 1234, 2345)
    inside = site.directory / "inside"
    inside.write_text('#!/bin/sh\ncd "$FAKE/home" && find . | xargs stat -c "%n %u:%g %a" >"$FAKE/owners"\n')
    inside.chmod(0o755)
    assert site.run(site.script(archive), archive, "install", XDG_STATE_HOME=f"{home}/a//./b-c")[0] == 7
    assert sorted(site.said("owners").splitlines()) == [
        ". 1234:2345 755",
        *(f"./{name} 1234:2345 700" for name in (".docker", "a", "a/b-c", "a/b-c/bundle")),
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives away what it makes")
@pytest.mark.parametrize("site", INSTALLED[:1], indirect=True)  # busybox has a mkdir of its own
def test_a_link_in_the_place_of_what_root_made_gives_nothing_away(site: Site, archive: Path) -> None:
    (site.directory / "id").write_text(python_stream(archive)[0])
    home, theirs = site.directory / "home", site.directory / "theirs"
    os.chown(home, 1234, 1234)
    (theirs / "state" / "bundle").mkdir(parents=True)
    (theirs / "state" / "bundle" / "receipt.json").touch()
    # Its owner is quick: as soon as the directory is there, it is a link.
    mkdir = site.directory / "bin" / "mkdir"
    mkdir.write_text(
        '#!/bin/sh\n/bin/mkdir "$@"\n[ ! -d "$HOME/.local" ] || [ -L "$HOME/.local" ] || '
        '{ mv "$HOME/.local" "$HOME/old"; ln -s "$FAKE/theirs" "$HOME/.local"; }\n'
    )
    mkdir.chmod(0o755)
    assert site.run(site.script(archive), archive, "install")[0] == 7
    assert (home / ".local").is_symlink()
    assert [path.stat().st_uid for path in (theirs, theirs / "state", theirs / "state" / "bundle")] == [0, 0, 0]


def test_what_was_emptied_in_the_container_is_removed_at_the_end(site: Site, archive: Path) -> None:
    (site.directory / "id").write_text(python_stream(archive)[0])
    (site.directory / "home/.docker/cli-plugins").mkdir(parents=True)
    (site.directory / "home/.local/state").mkdir(parents=True)
    inside = site.directory / "inside"
    inside.write_text(
        "#!/bin/sh\nshared=$(ls -d $FAKE/tmp/*)\n"
        "printf '%s\\n' $FAKE/home/.docker/cli-plugins $FAKE/home/.docker $FAKE/home/.local >$shared/empty\n"
    )
    inside.chmod(0o755)
    assert site.run(site.script(archive), archive, "uninstall")[0] == 7
    assert sorted(path.name for path in (site.directory / "home").rglob("*")) == [".local", "state"]


def test_variables_of_the_caller_change_nothing(site: Site, archive: Path) -> None:
    (site.directory / "id").write_text(python_stream(archive)[0])
    (site.directory / "elsewhere" / "usb stick").mkdir(parents=True)
    code, stderr = site.run(
        site.script(archive),
        "usb stick/offline.tar",
        "verify",
        CDPATH=f"{site.directory}/elsewhere:.",
        DOCKER_DEFAULT_PLATFORM="linux/arm64",
        DOCKER_CONTENT_TRUST="1",
    )
    assert (code, stderr) == (7, "loading Python from the archive\n")
    assert f"{archive}\nverify" in site.said("run")
    assert site.said("asked") == " 0\n"


@pytest.mark.parametrize(
    ("place", "own"),
    [
        *(("/develop", False), ("/library/a", False), ("/system", False), ("/processes", False), ("/usb", False)),
        *(("/dev", True), ("/dev/shm", True), ("/lib", True), ("/lib/a", True), ("/lib64", True), ("/lib64/a", True)),
        *(("/proc/1", True), ("/sys", True), ("/sys/fs", True), ("/", True), ("/host", True), ("/host/a", True)),
        *(("/etc", True), ("/etc/a", False), ("/run", True), ("/run/media/ann", False), ("/tmp", False)),
        *(("/usr", True), ("/usr/src", True), ("/usr/src/a", False), ("/usr/lib/python3/a", True)),
        *(("/usr/local", True), ("/usr/local/src", True), ("/usr/local/src/a", False), ("/usr/local/lib/a", True)),
        # Of an image whose PATH has /opt/conda/bin.
        *(("/opt", True), ("/opt/conda", True), ("/opt/conda/bin", True), ("/opt/app", False), ("/opt/con", False)),
    ],
)
@pytest.mark.parametrize("shell", INSTALLED)
def test_what_is_the_containers_own_is_known(shell: str, place: str, own: bool) -> None:
    """The function alone: a test cannot make directories at the root."""
    text = (ROOT / "installer" / "install.sh").read_text()
    function = text[text.index("own() {") : text.index("mount_once() {")]
    program = f"image_path=/opt/conda/bin:/usr/bin\n{function}\nown {place} && echo own || echo free"
    done = subprocess.run([*SHELLS[shell], "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "own\n" if own else "free\n"), done.stderr


@pytest.mark.parametrize("size", [10 * 512, 40 * 512, 150 * 512])
def test_parts_are_read_in_a_row(site: Site, archive: Path, size: int) -> None:
    identity, expected = python_stream(archive)
    script = site.script(archive)
    data = archive.read_bytes()
    archive.unlink()
    for number, start in enumerate(range(0, len(data), size), 1):
        archive.with_name(f"offline.tar.{number:03}").write_bytes(data[start : start + size])
    (site.directory / "id").write_text(identity)
    last = archive.with_name(f"offline.tar.{number:03}")
    for name in ("offline.tar", "offline.tar.001", last.name):
        (site.directory / "loaded").unlink(missing_ok=True)
        assert site.run(script, f"usb stick/{name}", "install")[0] == 7
        assert (site.directory / "loaded").read_bytes() == expected
        assert f"{last}\ninstall" in site.said("run")
    archive.with_name("offline.tar.001").rename(archive.with_name("gone"))
    code, stderr = site.run(script, last, "install")
    assert code == 3, stderr


def test_what_is_wrong_is_said_with_an_exit_code(site: Site, archive: Path) -> None:
    script = site.script(archive)
    (site.directory / "id").write_text("sha256:" + "0" * 64)

    def fails(code: int, message: str, *arguments: object, **environment: Any) -> None:
        found, stderr = site.run(script, *arguments, **environment)
        assert (found, message in stderr) == (code, True), stderr
        assert stderr.startswith(("error: ", "loading"))
        assert not (site.directory / "run").exists()

    fails(2, "expected an archive and a command", archive)
    fails(3, "no such file", site.directory / "none.tar", "install")
    fails(3, "the Python image in the archive is damaged", archive, "install")
    assert site.said("removed").startswith("docker.io/library/bundle-python:")
    (site.directory / "security").write_text("[name=seccomp,profile=builtin name=rootless]\n")
    fails(4, "the engine is rootless", archive, "install")
    (site.directory / "endpoint").write_text("ssh://somewhere\n")
    fails(4, "the engine is on another machine (`ssh://somewhere`)", archive, "install")
    (site.directory / "endpoint").write_text("unix:///nowhere/docker.sock\n")
    fails(4, "Docker is not running", archive, "install")
    os.truncate(archive, archive.stat().st_size - 1)
    fails(3, "is not whole, or another archive", archive, "install")
    with archive.open("ab") as file:
        file.write(b"x")
    (site.directory / "tools").mkdir()
    for tool in ("awk", "basename", "dirname", "ls", "sed"):
        (site.directory / "tools" / tool).symlink_to(str(shutil.which(tool)))
    fails(4, "there is no docker command", archive, "install", PATH=f"{site.directory}/tools")


def test_without_a_python_image_the_script_says_so(site: Site, tmp_path: Path) -> None:
    made(image("debian:12")).write(tmp_path / "small.tar")
    script = site.script(tmp_path / "small.tar")
    code, stderr = site.run(script, "small.tar", "install")
    assert code == 4
    assert "this archive has no Python image for linux/amd64" in stderr
    assert "--with-python" in stderr


@pytest.mark.e2e
def test_shellcheck_finds_nothing(archive: Path) -> None:
    script = ROOT / "installer" / "install.sh"
    with tarfile.open(archive) as tar:
        member = tar.extractfile("install.sh")
        assert member
        for text in (script.read_bytes(), member.read()):
            done = subprocess.run(["shellcheck", "-s", "sh", "-"], input=text, capture_output=True, check=False)
            assert (done.returncode, done.stdout.decode()) == (0, "")


def test_every_option_that_names_a_file_to_write_is_known_to_the_script() -> None:
    text = (ROOT / "installer" / "install.sh").read_text()
    function = text[text.index("write_words() {") : text.index("bind() {")]
    known = set(re.findall(r"--[a-z-]+(?=\)| \||=)|(?<![-\w])-[a-z](?= \||\))", function))
    context = click.Context(bundle)
    written = {
        name
        for command in map(functools.partial(bundle.get_command, context), bundle.list_commands(context))
        if command is not None and command.callback is not None
        for option in command.params
        if isinstance(option.type, OutputFile) and command.name not in ("create", "lock", "record")
        for name in option.opts
    }
    assert written == {"--html", "--log-file", "--output", "-o"}
    assert written <= known
