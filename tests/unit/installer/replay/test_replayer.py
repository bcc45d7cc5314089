"""The replay: what was recorded and nothing else, out of a registry's blobs."""

from __future__ import annotations

import contextlib
import http.client
import json
import shlex
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import click
import pytest
from click.core import ParameterSource

from bundles.archive.tape.answer import Answer
from bundles.cli.app import bundle as commands
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.proxy.certificates import Authority
from bundles.proxy.listener import listen
from bundles.proxy.server import ProxyServer
from bundles.registry.auth import Credential
from installer.replay.blobs import Blobs
from installer.replay.library import Library
from installer.replay.registry import Registry
from installer.replay.replayer import Replayer
from tests.support.fake_registry import FakeRegistry
from tests.support.images import noise
from tests.support.proxy_client import ProxyClient
from tests.support.tapes import REPOSITORY, page, pages, put_tape

PACKAGE = noise("package", 700_000)


class Replay:
    """A service in this process, and what it has written."""

    def __init__(self, server: ProxyServer, client: ProxyClient, log: list[str]) -> None:
        self.server, self.client, self.log = server, client, log

    def state(self) -> Any:
        """What the service says of itself."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)) as connection:
            connection.request("GET", "/")
            return json.loads(connection.getresponse().read())

    def until(self, holds: Callable[[Any], bool]) -> None:
        """Wait for a state."""
        while not holds(self.state()):
            time.sleep(0.01)


@pytest.fixture
def serve(tmp_path: Path, registry: FakeRegistry) -> Iterator[Callable[..., Replay]]:
    servers: list[ProxyServer] = []

    def start(*tapes: Sequence[Digest], host: str = "", logins: Sequence[Credential] = ()) -> Replay:
        log: list[str] = []
        blobs = Blobs(Registry(host or registry.host, logins=logins, rest=0), REPOSITORY, patience=0)
        library = Library(blobs, tapes, log.append, backoff=0.01)
        authority = Authority(tmp_path / "ca")
        servers.append(ProxyServer(listen(0), authority, Replayer(library, blobs, log.append, "name")))
        return Replay(servers[-1], ProxyClient(servers[-1].port, authority.certificate), log)

    yield start
    for server in servers:
        server.close()


def test_what_was_recorded_comes_out_of_the_registrys_blobs(
    registry: FakeRegistry, serve: Callable[..., Replay]
) -> None:
    texts = {"http://deb.example/dists/InRelease": b"release", "https://files.example/a.deb": PACKAGE}
    replay = serve([put_tape(registry, "app", *pages(texts))])
    for url, text in texts.items():
        came = replay.client.get(url)
        assert (came.status, came.body, came.headers["content-type"]) == (200, text, "text/plain")
    part = replay.client.get("https://files.example/a.deb", range="bytes=300000-")
    assert (part.status, part.body) == (206, PACKAGE[300_000:])
    head = replay.client.ask("HEAD", "https://files.example/a.deb")
    assert (head.status, head.headers["content-length"], head.body) == (200, "700000", b"")
    assert replay.log == []


def test_a_registry_without_ranges_gives_parts_too(
    fake: Callable[..., FakeRegistry], serve: Callable[..., Replay]
) -> None:
    registry = fake(ranges=False)
    digest = put_tape(registry, "app", page("http://h.example/a", PACKAGE))
    part = serve([digest], host=registry.host).client.get("http://h.example/a", range="bytes=300000-300009")
    assert (part.status, part.body) == (206, PACKAGE[300_000:300_010])


def test_what_was_not_recorded_ends_at_once_and_is_written_down_once(
    registry: FakeRegistry, serve: Callable[..., Replay]
) -> None:
    replay = serve([put_tape(registry, "app", page("https://h.example/a", b"a"))])
    for _ in range(2):
        came = replay.client.get("https://h.example/b?token=opensesame#x")
        assert (came.status, came.reason) == (404, "not recorded")
        assert b"GET https://h.example/b?token=- was not recorded" in came.body
        assert b"bundle record" in came.body
    assert replay.client.ask("POST", "https://h.example/a", b"x").status == 404
    assert replay.log == ["not recorded: GET https://h.example/b?token=-", "not recorded: POST https://h.example/a"]


def test_what_is_asked_for_again_later_is_written_down_again(serve: Callable[..., Replay]) -> None:
    """However much was before it: `status` goes by the end of the log."""
    replay = serve()
    urls = [f"http://h.example/{number}" for number in range(40)]
    for url in [*urls, *urls[-10:], urls[0], urls[0]]:
        assert replay.client.get(url).status == 404
    assert replay.log == [f"not recorded: GET {url}" for url in [*urls, urls[0]]]


def typed(line: str) -> tuple[str, list[str]]:
    """The command that a line runs, and what it gets there, as the command line itself takes it."""
    program, *words = shlex.split(line)
    if program == "python3":
        words = [*words[1:], words[0]]
    parent = click.Context(commands, **commands.context_settings)
    command = commands.get_command(parent, words[0])
    assert command
    # A command remembers which options help has: those of its first parent.
    context = command.make_context(words[0], words[1:], parent=parent)
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    return words[0], sorted(f"{name} {context.params[name]}" for name in given if context.params[name])


def test_what_to_type_after_a_miss_can_be_typed(serve: Callable[..., Replay]) -> None:
    _, there, here = serve().client.get("http://h.example/a").body.decode().splitlines()
    lines = [*there.partition("): ")[2].split(";"), here.partition(": ")[2]]
    assert [typed(line) for line in lines] == [
        ("record", ["path app.record", "what WHAT"]),
        ("create", ["path offline.tar", "records (PosixPath('app.record'),)"]),
        ("upgrade", ["archive offline.tar"]),
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        "/v2/",
        "/v2/library/x/manifests/1",
        "/v2/a/b/c/manifests/sha256:" + "0" * 64,
        "/v2/x/blobs/sha256:" + "0" * 64,
        "/v2/x/referrers/sha256:" + "0" * 64 + "?artifactType=a",
        "/v2/x/tags/list",
    ],
)
def test_an_image_that_buildkit_looks_for_is_no_page_that_was_missed(
    serve: Callable[..., Replay], method: str, path: str
) -> None:
    replay = serve()
    url = f"https://registry-1.docker.io{path}"
    assert replay.client.ask(method, url, user_agent="buildkit/v0.34").status == 404
    assert replay.log == []
    # Who else asks for it is a step.
    assert replay.client.ask(method, url, user_agent="curl/8").status == 404
    assert replay.log == [f"not recorded: {method} {url}"]


@pytest.mark.parametrize(
    "url",
    [
        "https://h.example/api/v2/x/manifests/1",
        "https://h.example/v2/file.tar.gz",
        "https://h.example/v2/releases/download/1/file",
        "https://h.example/v2",
        "https://h.example/a?b=/v2/x/manifests/1",
    ],
)
def test_a_page_that_only_looks_like_an_image_is_one_that_was_missed(serve: Callable[..., Replay], url: str) -> None:
    """BuildKit fetches what ADD names, too."""
    replay = serve()
    assert replay.client.get(url, user_agent="buildkit/v0.34").status == 404
    assert replay.log == [f"not recorded: GET {url}"]


def test_what_was_sent_is_compared_whatever_its_size(registry: FakeRegistry, serve: Callable[..., Replay]) -> None:
    sent = noise("sent", 3_000_000)
    content = Descriptor.of("text/plain", b"a")
    answer = Answer("POST", "https://h.example/a", 200, {"content-type": "text/plain"}, content, body=Digest.of(sent))
    client = serve([put_tape(registry, "app", (answer, b"a"))]).client
    assert client.ask("POST", "https://h.example/a", sent).body == b"a"
    assert client.ask("POST", "https://h.example/a", sent[:-1]).status == 404


def test_redirects_and_errors_come_as_they_were(registry: FakeRegistry, serve: Callable[..., Replay]) -> None:
    answers = [
        (Answer("GET", "https://h.example/a", 302, {"location": "https://cdn.example/a?sig=-"}), b""),
        page("https://cdn.example/a?sig=-", b"a"),
        (Answer("GET", "https://h.example/none", 404, {}), b""),
    ]
    replay = serve([put_tape(registry, "app", *answers)])
    moved = replay.client.get("https://h.example/a")
    assert (moved.status, moved.headers["location"]) == (302, "https://cdn.example/a?sig=-")
    assert replay.client.get(moved.headers["location"]).body == b"a"
    none = replay.client.get("https://h.example/none")
    assert (none.status, none.reason, replay.log) == (404, "Not Found", [])


def test_the_first_tape_that_has_a_page_counts_and_a_cut_one_is_one(
    registry: FakeRegistry, serve: Callable[..., Replay]
) -> None:
    new = [
        put_tape(registry, "new", page("http://h.example/a", b"new", asked={"accept": "x"})),
        put_tape(registry, "new.2", page("http://h.example/a", b"new, too", asked={"accept": "y"})),
    ]
    texts = {"http://h.example/a": b"old", "http://h.example/b": b"b"}
    old = put_tape(registry, "old", *(page(url, text, asked={"accept": ""}) for url, text in texts.items()))
    client = serve(new, [old]).client
    assert client.get("http://h.example/a", accept="y").body == b"new, too"
    assert client.get("http://h.example/a", accept="z").body in (b"new", b"new, too")
    assert client.get("http://h.example/b").body == b"b"


def test_this_very_request_on_any_tape_goes_before_one_with_other_headers(
    registry: FakeRegistry, serve: Callable[..., Replay]
) -> None:
    url = "http://h.example/simple/"
    one = put_tape(registry, "one", page(url, b"html", asked={"accept": "text/html"}))
    two = put_tape(registry, "two", page(url, b"json", asked={"accept": "application/json"}))
    client = serve([one], [two]).client
    assert client.get(url, accept="application/json").body == b"json"
    assert client.get(url, accept="text/html").body == b"html"
    # What neither has is the first tape's.
    assert client.get(url, accept="text/plain").body == b"html"


def test_among_answers_with_other_headers_a_good_one_on_any_tape_goes_before_an_error(
    registry: FakeRegistry, serve: Callable[..., Replay]
) -> None:
    asked = {"accept": "x"}
    refused = [(Answer(method, f"http://h.example/{method}", 404, {}, asked=asked), b"") for method in ("GET", "HEAD")]
    good = [page(f"http://h.example/{method}", b"good", asked=asked) for method in ("GET", "HEAD")]
    client = serve([put_tape(registry, "one", *refused)], [put_tape(registry, "two", *good)]).client
    assert client.get("http://h.example/GET", accept="y").body == b"good"
    # HEAD by what GET was.
    assert client.ask("HEAD", "http://h.example/HEAD", accept="y").status == 200
    # The error is the answer where it is to this very request.
    assert client.get("http://h.example/GET", accept="x").status == 404


def test_a_tape_that_is_gone_is_passed_over(registry: FakeRegistry, serve: Callable[..., Replay]) -> None:
    gone = Digest.of(b"gone")
    replay = serve([gone], [put_tape(registry, "app", page("http://h.example/a", b"a"))])
    assert replay.client.get("http://h.example/a").body == b"a"
    assert replay.log == [f"the tape {gone} is not on the registry: passed over"]


def test_a_tape_that_is_none_is_passed_over(registry: FakeRegistry, serve: Callable[..., Replay]) -> None:
    none = registry.tag(REPOSITORY, "x", registry.image())
    replay = serve([none.digest], [put_tape(registry, "app", page("http://h.example/a", b"a"))])
    assert replay.client.get("http://h.example/a").body == b"a"
    assert "cannot be used" in replay.log[0]


def test_a_registry_that_is_started_later_is_waited_for(registry: FakeRegistry, serve: Callable[..., Replay]) -> None:
    """As after a reboot. The request that comes meanwhile waits, too."""
    digest = put_tape(registry, "app", page("http://h.example/a", b"a"))
    starting = registry.fault("GET", "/manifests/", times=-1, status=503)
    replay = serve([digest])
    bodies: list[bytes] = []
    asking = threading.Thread(target=lambda: bodies.append(replay.client.get("http://h.example/a").body))
    asking.start()
    while not replay.log:
        time.sleep(0.01)
    assert bodies == []
    starting.times = 0
    asking.join()
    assert bodies == [b"a"]
    assert len(replay.log) == 1
    assert replay.log[0].startswith("waiting: ")


@pytest.mark.parametrize(
    "part, fault",
    [
        *(
            (part, fault)
            for part in ("/manifests/", "/blobs/")
            for fault in ({"cut_after": 30}, {"close": True}, {"status": 500})
        ),
        # Without a length announced, it is the descriptor that shows it.
        ("/blobs/", {"no_length": True, "shorter": 30}),
    ],
)
def test_a_tape_of_which_the_transfer_breaks_off_is_read_again(
    registry: FakeRegistry, serve: Callable[..., Replay], part: str, fault: dict[str, int]
) -> None:
    digest = put_tape(registry, "app", page("http://h.example/a", b"a"))
    registry.fault("GET", part, times=2, **fault)
    assert serve([digest]).client.get("http://h.example/a").body == b"a"


def test_a_tape_that_came_damaged_once_is_looked_for_again(
    registry: FakeRegistry, serve: Callable[..., Replay]
) -> None:
    digest = put_tape(registry, "app", page("http://h.example/a", b"a"))
    fault = registry.fault("GET", "/blobs/", times=-1, corrupt=True)
    replay = serve([digest])
    assert replay.client.get("http://h.example/a").status == 404
    assert "cannot be used" in replay.log[0]
    assert replay.state()["damaged"] == [str(digest)]
    fault.times = 0
    replay.until(lambda state: not state["damaged"])
    assert replay.client.get("http://h.example/a").body == b"a"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_tape_that_the_registry_fails_to_give_holds_up_no_other(
    registry: FakeRegistry, serve: Callable[..., Replay], order: tuple[int, ...]
) -> None:
    good, bad = (put_tape(registry, name, page(f"http://h.example/{name}", b"x")) for name in ("good", "bad"))
    fault = registry.fault("GET", f"/manifests/{bad}", times=-1, status=500)
    replay = serve(*([[good], [bad]][n] for n in order))
    assert replay.client.get("http://h.example/good").body == b"x"
    # It may well have been recorded: that is for the doctor, and nothing to record anew.
    assert replay.client.get("http://h.example/bad").status == 503
    # No tape has images.
    image = "https://registry-1.docker.io/v2/library/x/manifests/1"
    assert replay.client.get(image, user_agent="buildkit/v0.34").status == 404
    assert (replay.state()["missing"], replay.state()["unavailable"]) == ([], [str(bad)])
    assert [line for line in replay.log if "not recorded" in line] == []
    assert len(replay.log) == 1
    # Nobody has to ask for it: it comes back by itself.
    fault.times = 0
    replay.until(lambda state: state["answers"] == 2)
    assert replay.client.get("http://h.example/bad").body == b"x"


def test_a_tape_for_which_the_login_is_refused_comes_with_the_right(
    fake: Callable[..., FakeRegistry], serve: Callable[..., Replay]
) -> None:
    registry = fake(auth="basic", users={"anna": "opensesame"}, members={"anna": "another-project"})
    digest = put_tape(registry, "app", page("http://h.example/a", b"a"))
    replay = serve([digest], host=registry.host, logins=[Credential("anna", "opensesame")])
    # Nobody waits for it, and nobody should record it anew.
    came = replay.client.get("http://h.example/a")
    assert (came.status, replay.state()["refused"]) == (503, [str(digest)])
    refusal = f"`{registry.host}` refused the login for `{REPOSITORY}`"
    assert replay.state()["refusal"] == refusal
    assert replay.log == [f"waiting for a login or a right: {refusal}"]
    registry.members = {}
    replay.until(lambda state: state["answers"] == 1)
    assert replay.client.get("http://h.example/a").body == b"a"
    assert (replay.state()["refused"], replay.state()["refusal"]) == ([], None)


def test_damaged_content_never_comes_whole(registry: FakeRegistry, serve: Callable[..., Replay]) -> None:
    answer, text = page("http://h.example/a", PACKAGE)
    replay = serve([put_tape(registry, "app", (answer, text))])
    assert answer.content
    for fault in ({"corrupt": True}, {"cut_after": 400_000}):
        registry.fault("GET", f"/blobs/{answer.content.digest}", **fault)
        with pytest.raises(http.client.IncompleteRead):
            replay.client.get("http://h.example/a")
    assert [line.partition(": ")[0] for line in replay.log] == ["lost", "lost"]


def test_content_that_is_gone_is_said(registry: FakeRegistry, serve: Callable[..., Replay]) -> None:
    answer, text = page("http://h.example/a", b"a")
    replay = serve([put_tape(registry, "app", (answer, text))])
    assert answer.content
    registry.repository(REPOSITORY).blobs.discard(answer.content.digest)
    came = replay.client.get("http://h.example/a")
    assert came.status == 502
    assert came.body.decode() == (
        f"http://h.example/a was recorded, and {answer.content.digest} is not on `{registry.host}`: bundle doctor\n"
    )
    assert len(replay.log) == 1
