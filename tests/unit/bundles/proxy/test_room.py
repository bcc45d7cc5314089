"""Room for connections: who goes when there is none."""

from __future__ import annotations

import threading

from bundles.proxy.room import Room


def test_the_one_that_has_waited_longest_goes_and_none_that_works() -> None:
    room, ended = Room(3), list[str]()

    def end(name: str) -> None:
        ended.append(name)
        threading.Thread(target=room.leave, args=(name,)).start()

    for name in ("a", "b", "c"):
        assert room.enter()
        room.waits(name, lambda name=name: end(name))  # type: ignore[misc]
    room.works("a")
    room.waits("b", lambda: end("b"))  # again: it was asked for something meanwhile
    assert room.enter()
    assert ended == ["c"]
    assert room.enter()
    assert ended == ["c", "b"]


def test_where_all_work_the_next_waits_until_one_leaves_or_it_is_closed() -> None:
    room, entered = Room(1), list[bool]()
    assert room.enter()
    waiting = threading.Thread(target=lambda: entered.append(room.enter()))
    waiting.start()
    room.leave("a")
    waiting.join(20)
    assert entered == [True]
    closing = threading.Thread(target=lambda: entered.append(room.enter()))
    closing.start()
    room.close()
    closing.join(20)
    assert (entered, room.enter()) == ([True, False], False)
