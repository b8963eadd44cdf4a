"""The client for `giveback web`, over the daemon's unix socket."""

from __future__ import annotations

from giveback.manager.http.client import Client
from giveback.manager.http.web.records import WebSessions, WebToken


class WebClient(Client):
    """A client that sends one request at a time; it raises as `Client` does."""

    def token(self, browser_uid: int, *, read_only: bool = False) -> WebToken:
        """Return a token for one browser of this user, and the page's address."""
        body = {"browser_uid": browser_uid, "read_only": read_only}
        return self._asked(WebToken, "POST", "/web/token", body)

    def sessions(self) -> WebSessions:
        """Return the sessions that the caller may end."""
        return self._asked(WebSessions, "GET", "/web/sessions")

    def revoke(self, number: str) -> None:
        """End a session."""
        self._asked(dict, "POST", "/web/revoke", {"id": number})
