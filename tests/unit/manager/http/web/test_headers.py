"""Where a browser believes to be, and whose page asks: what any header may say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.manager.http.web import headers


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:9836",
        "LOCALHOST:1",
        "127.0.0.1:9836",
        "127.9.9.9",
        "[::1]:80",
        "[::1]",
    ],
)
def test_this_machines_names_are_its_own(host: str) -> None:
    assert headers.is_loopback(host)
    assert not headers.may_be_rebound(host)


@pytest.mark.parametrize(
    "host",
    ["", ":", ":80", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "1.2.3.4",
     "8.8.8.8", "localhost:", "localhost:x", "localhost:80:80", "127.0.0.1@evil.example", "[::2]:80",
     "localhost:999999", "localhost:٣"],
)  # fmt: skip
def test_other_names_are_not(host: str) -> None:
    assert not headers.is_loopback(host)


@given(st.text(max_size=40))
def test_any_host_is_judged(host: str) -> None:
    headers.is_loopback(host)
    headers.may_be_rebound(host)
    assert headers.cookie_name(host).startswith("giveback-")


@given(
    st.dictionaries(
        st.sampled_from(["origin", "sec-fetch-site", "host", "cookie"]), st.text(max_size=60)
    )
)
def test_any_headers_are_judged_and_what_acts_names_its_origin(said: dict[str, str]) -> None:
    headers.cookie_value(said)
    if headers.is_same_origin(said, is_read=False):
        assert said["origin"] == f"http://{said.get('host', '')}"
        assert said.get("sec-fetch-site", "none") in ("none", "same-origin")


def test_a_cookie_is_found_by_the_port_of_its_address() -> None:
    said = {"host": "localhost:8080", "cookie": "a=1; giveback-80=x; giveback-8080=right=; b"}
    assert headers.cookie_value(said) == "right="
    assert headers.cookie_value({**said, "host": "localhost"}) == "x"
    assert headers.cookie_value({**said, "host": "localhost:1"}) == ""
