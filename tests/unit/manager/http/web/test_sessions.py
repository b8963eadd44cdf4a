"""Tokens and sessions: how long they hold, and how many of one user there may be."""

from __future__ import annotations

from pathlib import Path

from giveback.manager.http.web import sessions
from giveback.manager.http.web.sessions import Session, Sessions
from giveback.manager.settings.access import ApiPeer


class Clock:
    """Two clocks that stand until they are moved."""

    def __init__(self) -> None:
        self.now_s, self.wall_s = 0.0, 1e9

    def made(self, path: Path | None = None) -> Sessions:
        return Sessions(path, lambda: self.now_s, lambda: self.wall_s)


def logged_in(kept: Sessions, uid: int = 5) -> tuple[Session, str, str]:
    found = kept.log_in(kept.new_token(ApiPeer(1, uid), uid, read_only=False), uid, "x")
    assert found is not None
    return found


def test_a_token_ends_with_its_time() -> None:
    clock = Clock()
    kept = clock.made()
    token = kept.new_token(ApiPeer(1, 5), 5, read_only=False)
    clock.now_s = sessions.TOKEN_S
    assert kept.log_in(token, 5, "") is None


def test_a_session_ends_with_its_time_also_where_the_clock_is_set() -> None:
    clock = Clock()
    kept = clock.made()
    _, cookie, key = logged_in(kept)
    for wall_s, holds in (
        (1e9 + 1, True),
        (1e9 - 3600, True),
        (1e9 + sessions.SESSION_S - 1, True),
    ):
        clock.wall_s = wall_s
        assert (kept.find(cookie, key, 5) is not None) == holds
    clock.wall_s = 1e9 + sessions.SESSION_S
    assert kept.find(cookie, key, 5) is None
    assert kept.listed() == ()


def test_one_user_takes_no_others_room() -> None:
    kept = Clock().made()
    _, cookie, key = logged_in(kept, 7)
    token = kept.new_token(ApiPeer(1, 7), 7, read_only=False)
    for _ in range(2 * sessions.SESSIONS_OF_ONE_MOST):
        logged_in(kept, 5)
        kept.new_token(ApiPeer(1, 5), 5, read_only=False)
    assert kept.find(cookie, key, 7) is not None
    assert kept.log_in(token, 7, "") is not None
    assert sum(one.uid == 5 for one in kept.listed()) == sessions.SESSIONS_OF_ONE_MOST
    for uid in range(100, 100 + 2 * sessions.SESSIONS_MOST):
        logged_in(kept, uid)
    assert len(kept.listed()) == sessions.SESSIONS_MOST


def test_the_file_has_no_secret_and_brings_the_session_back(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "sessions.json"
    kept = clock.made(path)
    session, cookie, key = logged_in(kept)
    kept.save()
    assert cookie not in path.read_text()
    assert key not in path.read_text()
    assert clock.made(path).find(cookie, key, 5) == session
    assert clock.made(path).find(cookie, "other", 5) is None
    assert clock.made(path).find(cookie, key, 6) is None
    assert [one.name for one in tmp_path.iterdir()] == ["sessions.json"]
