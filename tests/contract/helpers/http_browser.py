"""A browser as far as the daemon sees one: its headers, its cookie and its key."""

from __future__ import annotations

import http.client
import json
from typing import Any


class Browser:
    """Headers as a browser sends them, and the two secrets once it has logged in."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{self.port}"
        self.cookie = self.key = ""

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """The code, the headers and the body; headers named "" are left out."""
        said = {"Host": self.host, "Sec-Fetch-Site": "same-origin"}
        if method == "POST":
            said |= {"Origin": f"http://{self.host}", "Content-Type": "application/json"}
        if self.cookie:
            said |= {"Cookie": f"giveback-{self.port}={self.cookie}", "X-Giveback-Key": self.key}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True)
        data = b"" if body is None else json.dumps(body).encode()
        for name, value in {**said, "Content-Length": str(len(data))}.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        found = {name.lower(): value for name, value in answer.getheaders()}
        is_json = "json" in found.get("content-type", "")
        return answer.status, found, json.loads(text) if is_json else text.decode()

    def log_in(self, token: str) -> tuple[int, dict[str, str], Any]:
        code, headers, said = self.ask("POST", "/web/login", {"token": token})
        if code == 200:
            self.cookie = headers["set-cookie"].split(";")[0].partition("=")[2]
            self.key = said["key"]
        return code, headers, said
