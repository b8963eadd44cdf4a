"""The page in a real Chromium: what a user does there, what it survives, and what it never does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Chromium, chromium
from scripted_manager import Daemon, past, running, vm_status, wait_for
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from web_samples import GIB, LivingManager, living_actions, living_vm, record

from giveback.manager.http.server import Endpoint
from giveback.manager.settings.access import ApiPeer

ROOT = ApiPeer(1, 0)
EVIL = "<img src=x onerror=window.pwned=1>\"'&<script>window.pwned=2</script>"
IMAGES = Path(__file__).parents[4] / "docs/images"
PICTURES = os.environ.get("GIVEBACK_WRITE_PICTURES")
"""If set, the test writes the README's pictures again, to docs/images."""


class Page:
    """The daemon and the browser that all these tests share: both take seconds to start."""

    def __init__(self, browser: Chromium, folder: Path) -> None:
        self.browser = browser
        self.manager = LivingManager()
        self.endpoint = Endpoint(
            socket_path=str(folder / "api.sock"),
            web_listen="127.0.0.1:0",
            history=past(folder / "history.db"),
        )
        self.sessions = folder / "web-sessions.json"
        self.recorded_s = time.time()
        record(folder / "history.db", self.recorded_s)

    def address(self, daemon: Daemon) -> str:
        assert daemon.serving is not None
        assert daemon.serving.web_address is not None
        return f"http://127.0.0.1:{daemon.serving.web_address[1]}"

    def log_in(self, daemon: Daemon, *, read_only: bool = False) -> None:
        token = daemon.sessions.new_token(ROOT, os.geteuid(), read_only=read_only)
        self.browser.get("about:blank")
        self.browser.get(f"{self.address(daemon)}/#login={token}")
        self.browser.until_shown("live", "#state")

    def go(self, daemon: Daemon, place: str) -> None:
        self.browser.get(f"{self.address(daemon)}/{place}")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    with chromium(folder) as browser:
        yield Page(browser, folder)


@pytest.fixture
def daemon(page: Page) -> Iterator[Daemon]:
    """A new daemon on a port of its own, and the browser logged in there."""
    page.manager = LivingManager(began_s=page.recorded_s)
    with running(page.endpoint, page.manager, page.sessions) as served:
        page.log_in(served)
        yield served
        complaints = page.browser.complaints()
        page.browser.get("about:blank")
    assert complaints == []


def test_a_browser_without_a_session_is_told_what_to_run(page: Page) -> None:
    browser = page.browser
    with running(page.endpoint, page.manager) as served:
        page.go(served, "#/")
        browser.until_shown("giveback web", "main")
        assert browser.find_elements(By.CSS_SELECTOR, ".rows, canvas") == []
        page.go(served, "#login=" + "x" * 43)
        browser.until_shown("run `giveback web` again", "main")
        page.log_in(served)
        browser.until_shown("db-1", ".rows")
        assert "login" not in browser.current_url
        browser.refresh()
        browser.until_shown("db-1", ".rows")
        browser.get("about:blank")


def test_a_user_clicks_from_the_host_to_a_vm_and_back(page: Page, daemon: Daemon) -> None:
    browser = page.browser
    browser.until_shown("available", ".facts")
    browser.click('[data-sort="name"]')
    wait_for(lambda: "sort=name" in browser.current_url, "the order in the address")
    browser.until_shown("build-3", '.rows [aria-rowindex="1"]')
    browser.find_element(By.ID, "filter").send_keys("ci-")
    wait_for(lambda: "db-1" not in browser.shown(".rows"), "the filter")
    assert "filter=ci-" in browser.current_url
    browser.refresh()
    browser.until_shown("ci-runner-a", ".rows")
    assert "db-1" not in browser.shown(".rows")
    browser.click(".rows .td[data-column=resident_bytes]")
    browser.until_shown("ci-runner", "h1")
    browser.until_shown("= in use", ".falls")
    browser.until_shown("asked", ".events")
    wait_for(lambda: painted(browser) > 20000, "a chart that is drawn")
    browser.click('[data-range="15m"]')
    wait_for(lambda: "since=15m" in browser.current_url, "the time in the address")
    browser.back()
    browser.until_shown("ci-runner-a", ".rows")


def painted(browser: Chromium) -> int:
    """How many points of the chart have a colour."""
    return int(
        browser.value(
            "(() => { const c = document.querySelector('canvas'); if (!c) return 0;"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "let n = 0; for (let i = 3; i < d.length; i += 4) if (d[i]) n += 1; return n; })()"
        )
    )


def test_the_keyboard_reaches_all(page: Page, daemon: Daemon) -> None:
    browser = page.browser
    browser.until_shown("db-1", ".rows")
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys("/")
    assert browser.value("document.activeElement.id") == "filter"
    browser.find_element(By.ID, "filter").send_keys("db", Keys.ESCAPE)
    wait_for(lambda: "mail" not in browser.shown(".rows"), "the filter")
    rows = browser.find_element(By.CSS_SELECTOR, ".rows")
    rows.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
    browser.until_shown("db-1", "h1")
    browser.find_element(By.TAG_NAME, "body").send_keys("w")
    browser.until_shown("What if", "h1")
    browser.find_element(By.TAG_NAME, "body").send_keys("g")
    browser.until_shown("db-1", ".rows")


def test_what_changes_is_shown_without_a_reload(page: Page, daemon: Daemon) -> None:
    page.manager.vms = [vm_status("alpha", 1, resident_bytes=GIB)]
    browser = page.browser
    browser.until_shown("alpha", ".rows")
    browser.until_shown("1.00 GiB", '.rows .td[data-column="resident_bytes"]')
    page.manager.vms = [vm_status("alpha", 1, resident_bytes=3 * GIB), vm_status("beta", 2)]
    browser.until_shown("3.00 GiB", '.rows .td[data-column="resident_bytes"]')
    browser.until_shown("beta", ".rows")
    page.manager.vms = []
    browser.until_shown("No VM runs on this host", ".table")


def test_a_vm_is_only_ever_text(page: Page, daemon: Daemon) -> None:
    """Names come from command lines of strangers: nothing that they hold becomes part of the page."""
    browser = page.browser
    evil = replace(
        living_vm(1, 0.0, EVIL), condition_text=EVIL, doctor=(EVIL,), reporting=EVIL,
        guest_source=EVIL, errors={EVIL: 1},
    )  # fmt: skip
    page.manager.vms = [evil]
    page.manager.say(
        vms=(evil,),
        problems=(EVIL,), vm_problems=(EVIL,),
        actions=tuple(replace(one, vm=evil.key, reason=EVIL, verdict=EVIL) for one in living_actions(9e8)),
    )  # fmt: skip
    browser.until_shown(EVIL, ".rows")
    browser.until_shown(EVIL, ".problems")
    browser.click(".rows .td[data-column=name] a")
    browser.until_shown(EVIL, "h1")
    browser.until_shown(EVIL, ".findings")
    browser.until_shown(EVIL, ".events")
    page.go(daemon, "#/what-if?gib=2")
    browser.until_shown(EVIL, "table.plain")
    page.go(daemon, f"#/vm/{EVIL}")
    assert browser.find_elements(By.CSS_SELECTOR, "main img, main script, body > script") == []
    assert browser.value("window.pwned === undefined")


def test_a_vms_page_looks_closer_and_says_where_it_cannot(page: Page, daemon: Daemon) -> None:
    browser = page.browser
    gone = living_vm(0, 0.0, "gone")
    page.manager.vms = [replace(living_vm(1, 0.0, "here"), pid=os.getpid()), gone]
    page.go(daemon, f"#/vm/{page.manager.vms[0].key.replace('/', '%2F')}")
    browser.until_shown("→", ".findings")
    page.go(daemon, f"#/vm/{gone.key.replace('/', '%2F')}")
    browser.until_shown("A closer look failed", ".stack")
    browser.until_shown("Nothing that the daemon noticed", ".stack")
    page.go(daemon, "#/vm/qemu%2Fnever%2F1")
    browser.until_shown("No such VM runs now", "main")


def test_the_policy_stops_what_would_run_all_the_same(page: Page, daemon: Daemon) -> None:
    browser = page.browser
    stopped = browser.execute_async_script(
        """
        const done = arguments[0], found = [];
        document.addEventListener('securitypolicyviolation', (e) => found.push(e.violatedDirective));
        try { document.body.innerHTML = '<b>x</b>'; found.push('innerHTML'); } catch { found.push('types'); }
        const script = document.createElement('script');
        try { script.text = 'window.pwned = 1'; document.head.append(script); } catch { found.push('types'); }
        fetch('http://127.0.0.1:1/').catch(() => 0);
        new Image().src = 'http://localhost:1/x.png';
        setTimeout(() => { const all = [...new Set(found)]; window.violations = []; done(all); }, 500);
        """
    )
    assert {"types", "connect-src", "img-src"} <= set(stopped)
    assert "innerHTML" not in stopped
    assert browser.value("window.pwned === undefined")
    # Messages that the test itself caused do not count against the page.
    page.go(daemon, "#/sessions")
    browser.refresh()


def test_what_if_asks_the_arbiter_and_its_button_reclaims(page: Page, daemon: Daemon) -> None:
    browser = page.browser
    page.go(daemon, "#/what-if?gib=8")
    browser.until_shown("8.00 GiB can come", ".summary")
    browser.until_shown("20 MiB cold", "table.plain")
    number = browser.find_element(By.CSS_SELECTOR, "input.number")
    number.clear()
    number.send_keys("2.5")
    browser.until_shown("2.50 GiB can come", ".summary")
    assert "gib=2.5" in browser.current_url
    assert page.manager.asked == []
    browser.click("#reclaim")
    browser.until_shown("Reclaim 2.50 GiB?", "dialog")
    browser.click("dialog button:not(.primary)")
    assert page.manager.asked == []
    browser.click("#reclaim")
    browser.click("dialog .primary")
    browser.until_shown("came in 0.5 s", ".summary")
    assert page.manager.asked == [("reclaim", int(2.5 * GIB), 30, ())]
    page.manager.has_bytes = 0
    number.clear()
    number.send_keys("4")
    browser.until_shown("No VM can be asked", ".summary")


def test_who_may_only_read_sees_no_button(page: Page) -> None:
    browser = page.browser
    with running(page.endpoint, LivingManager(), page.sessions) as served:
        page.log_in(served, read_only=True)
        page.go(served, "#/what-if?gib=1")
        browser.until_shown("You may only read", "main")
        browser.until_shown("can come", ".summary")
        assert browser.find_elements(By.ID, "reclaim") == []
        refused = browser.execute_async_script(
            "const done = arguments[0]; import('/static/app/api.js')"
            ".then((api) => api.post('/v1/reclaim', { goal_bytes: 1 << 30 }))"
            ".then(() => done('done'), (e) => done(e.status));"
        )
        assert refused == 403
        browser.get("about:blank")


def test_it_says_that_the_daemon_is_gone_and_comes_back_with_it(page: Page) -> None:
    browser = page.browser
    with running(page.endpoint, LivingManager(), page.sessions) as served:
        page.log_in(served)
        browser.until_shown("db-1", ".rows")
        port = int(page.address(served).rpartition(":")[2])
    browser.until_shown("No connection", "#banner")
    assert "db-1" in browser.shown(".rows")
    again = replace(page.endpoint, web_listen=f"127.0.0.1:{port}")
    with running(again, LivingManager([vm_status("after", 7)]), page.sessions):
        browser.until_shown("after", ".rows")
        browser.until_shown("live", "#state")
        assert browser.shown("#banner") == ""
        browser.get("about:blank")


def test_a_damaged_history_costs_the_past_alone_and_a_clock_that_is_set_back_nothing(
    page: Page, tmp_path: Path
) -> None:
    browser = page.browser
    (tmp_path / "history.db").write_bytes(b"no database" * 999)
    damaged = replace(page.endpoint, history=past(tmp_path / "history.db"))
    manager = LivingManager()
    with running(damaged, manager, page.sessions) as served:
        page.log_in(served)
        browser.until_shown("db-1", ".rows")
        browser.until_shown("latest", ".tip")
        manager.back_s = 90000.0
        day = time.strftime("%-m/%-d/%Y", time.localtime(time.time() - manager.back_s))
        browser.until_shown(day, ".tip")
        assert browser.complaints() == []
        browser.get("about:blank")


def test_tabs_share_one_stream_and_another_takes_over(page: Page, daemon: Daemon) -> None:
    browser = page.browser
    browser.until_shown("db-1", ".rows")
    first = browser.current_window_handle
    for _ in range(3):
        browser.switch_to.new_window("tab")
        browser.watch()
        page.go(daemon, "#/")
        browser.until_shown("db-1", ".rows")
    assert streams(daemon) == 1
    last = browser.current_window_handle
    browser.switch_to.window(first)
    browser.close()
    browser.switch_to.window(last)
    page.manager.vms = [vm_status("takeover", 5)]
    browser.until_shown("takeover", ".rows")
    wait_for(lambda: streams(daemon) == 1, "one stream")
    for handle in browser.window_handles:
        if handle != last:
            browser.switch_to.window(handle)
            browser.until_shown("takeover", ".rows")
            browser.close()
    browser.switch_to.window(last)


def streams(daemon: Daemon) -> int:
    assert daemon.serving is not None
    return sum(
        connection.scope is not None and connection.scope["path"] == "/web/live"
        for guard in daemon.serving.guards
        for connection in list(guard.connections)
        if connection.cycle is not None and not connection.cycle.response_complete
    )


def test_a_browser_that_slept_catches_up(page: Page, daemon: Daemon) -> None:
    browser = page.browser
    browser.until_shown("db-1", ".rows")
    browser.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "frozen"})
    # Its stream dies meanwhile, as over a sleep of an hour.
    assert daemon.serving is not None
    for guard in daemon.serving.guards:
        for connection in list(guard.connections):
            daemon.do(connection.abort)
    page.manager.vms = [vm_status("morning", 5)]
    browser.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "active"})
    browser.until_shown("morning", ".rows")
    browser.until_shown("live", "#state")


def test_a_thousand_vms_are_few_elements_and_all_can_be_reached(page: Page, daemon: Daemon) -> None:
    browser = page.browser
    page.manager.vms = [living_vm(number, 0.0, f"vm-{number:04}") for number in range(1000)]
    wait_for(lambda: "1000" in browser.shown("main"), "a thousand VMs")
    browser.click('[data-sort="name"]')
    browser.until_shown("vm-0000", ".rows")
    assert 10 < len(browser.find_elements(By.CSS_SELECTOR, ".rows .tr")) < 80
    browser.find_element(By.CSS_SELECTOR, ".rows").send_keys(Keys.END)
    browser.until_shown("vm-0999", ".rows")
    assert len(browser.find_elements(By.CSS_SELECTOR, ".rows .tr")) < 80
    page.manager.vms = [living_vm(number, 400.0, f"vm-{number:04}") for number in range(1000)]
    text = living_vm(999, 400.0).resident_bytes
    assert text is not None
    shown = f"{text / GIB:.2f} GiB" if text >= GIB else f"{text / (1 << 20):.0f} MiB"
    browser.until_shown(shown, ".rows .tr.selected")


def saved(browser: Chromium, title: str, kind: str) -> Path:
    """Press a button, and wait for its file, which gets its name once it is whole."""
    file = browser.downloads / f"giveback-{title}.{kind}"
    browser.click(f'[aria-label="Save {title} as {kind.upper()}"]')
    wait_for(file.exists, f"{file.name} in {[path.name for path in browser.downloads.iterdir()]}")
    return file


def test_what_is_shown_can_be_saved(page: Page, daemon: Daemon) -> None:
    browser = page.browser
    page.manager.vms = [living_vm(0, 0.0, "=1+1"), living_vm(1, 0.0, 'a "b", c')]
    browser.until_shown("=1+1", ".rows")
    wait_for(lambda: painted(browser) > 20000, "a chart that is drawn")
    # One after the other: a browser asks before it saves two files for one click.
    files = [saved(browser, "host", kind) for kind in ("png", "csv", "json")]
    files.append(saved(browser, "vms", "csv"))
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert files[1].read_text().startswith("at_s,total_bytes,available_bytes,")
    assert len(json.loads(files[2].read_text())["points"]) > 100
    text = files[3].read_text()
    assert "'=1+1" in text
    assert '"a ""b"", c"' in text


SHAPES = [
    ("light", 1400, 1000, "#/"), ("dark", 1400, 1100, "#/vm/qemu%2Fdb-1%2F2002"),
    ("dark", 390, 844, "#/"), ("light", 390, 844, "#/vm/qemu%2Fdb-1%2F2002"),
    ("light", 390, 844, "#/what-if?gib=8"), ("light", 800, 900, "#/"),
]  # fmt: skip


@pytest.mark.parametrize(("theme", "width", "height", "place"), SHAPES)
def test_it_fits_screens_and_themes(
    page: Page, daemon: Daemon, tmp_path: Path, theme: str, width: int, height: int, place: str
) -> None:
    browser = page.browser
    try:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        media = {"name": "prefers-color-scheme", "value": theme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [media]})
        page.go(daemon, place)
        browser.until_shown("can come" if "what-if" in place else "GiB", "main")
        if "what-if" not in place:
            wait_for(lambda: painted(browser) > 8000, "a chart that is drawn")
        assert browser.value("document.documentElement.scrollWidth") <= width
        ground = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(n) for n in ground[4:-1].split(",")) > 384) == (theme == "light")
        folder = IMAGES if PICTURES else tmp_path
        name = {"#/": "web", "#/what-if?gib=8": "web-what-if"}.get(place, "web-vm")
        if not PICTURES or width == 1400:
            folder.mkdir(exist_ok=True)
            browser.save_screenshot(str(folder / f"{name}.png"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
