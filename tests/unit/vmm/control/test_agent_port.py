"""`giveback enable` refuses options that would have no effect."""

from __future__ import annotations

import pytest

from giveback.cli import main


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--agent-port", "--off"), "leave --off and --period"),
        (("--agent-port", "--period", "5"), "leave --off and --period"),
        (("--port-socket", "/run/port"), "it needs --agent-port"),
    ],
)
def test_options_without_an_effect_are_refused(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["enable", "web", *words]) == 2
    assert says in capsys.readouterr().err
