"""Which image the test build is made from."""

from __future__ import annotations

from typing import Any

import pytest

from installer.steps.smoke_test import _starts_shell, _was_built_with_shell


@pytest.mark.parametrize(
    ("config", "history", "expected"),
    [
        ({"Cmd": ["bash"]}, [], True),
        ({"Cmd": ["/bin/sh"]}, [], True),
        ({"Entrypoint": ["/app"], "Cmd": None}, [], False),
        ({"Cmd": ["python3"]}, [{"created_by": "RUN /bin/sh -c apt-get update # buildkit"}], True),
        ({"Cmd": ["/app"]}, [{"created_by": '/bin/sh -c #(nop)  CMD ["/app"]', "empty_layer": True}], False),
        ({}, [], False),
    ],
)
def test_which_images_have_a_shell(config: Any, history: Any, expected: bool) -> None:
    assert (_starts_shell(config) or _was_built_with_shell(history)) is expected
