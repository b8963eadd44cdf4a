"""A real Chromium, driven by selenium: installed, or fetched without root as the other real peers are."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from typing import TYPE_CHECKING, Any

from peers import had
from scripted_manager import wait_for
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from giveback.errors import InputError
from giveback_lab.packages.apt import Apt, tree
from giveback_lab.packages.architecture import host_architecture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WATCH = """
window.violations = [];
document.addEventListener('securitypolicyviolation',
    (e) => window.violations.push(`${e.violatedDirective}: ${e.blockedURI} ${e.sourceFile}`));
window.faults = [];
addEventListener('error', (e) => window.faults.push(String(e.message)));
addEventListener('unhandledrejection', (e) => window.faults.push(String(e.reason)));
"""


class Chromium(webdriver.Chrome):
    """Chromium with what the tests ask of it."""

    downloads: Path

    def shown(self, css: str) -> str:
        """The text of an element; "" where there is none."""
        try:
            return "\n".join(one.text for one in self.find_elements(By.CSS_SELECTOR, css))
        except StaleElementReferenceException:
            return ""

    def click(self, css: str) -> None:
        """Click an element once it is there."""
        wait_for(lambda: self._clicked(css), f"a click on {css}")

    def _clicked(self, css: str) -> bool:
        try:
            self.find_element(By.CSS_SELECTOR, css).click()
        except WebDriverException:
            return False
        return True

    def until_shown(self, text: str, css: str = "body") -> None:
        """Wait until an element shows that text."""
        wait_for(lambda: text in self.shown(css), f"{text!r} in {css}")

    def value(self, script: str) -> Any:  # noqa: ANN401
        """What a script returns."""
        return self.execute_script(f"return {script}")

    def complaints(self) -> list[str]:
        """What the page did that it must not: breaches of its policy, errors, foreign requests."""
        origin = self.value("location.origin")
        asked = self.value("performance.getEntriesByType('resource').map((one) => one.name)")
        foreign = [url for url in asked if not url.startswith((origin, "blob:"))]
        return [*self.value("window.violations"), *self.value("window.faults"), *foreign]

    def watch(self) -> None:
        """Note what the page of this tab does that it must not, from its next load on."""
        self.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _WATCH})


@functools.cache
def _programs() -> tuple[str, str, dict[str, str]] | InputError:
    """The browser, its driver and their environment."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser and driver:
        return browser, driver, {}
    try:
        files = tree(Apt(), ("chromium", "chromium-driver", "fonts-dejavu-core"))
    except InputError as error:
        return error
    own = files / "usr/lib/chromium"
    libraries = files / "usr/lib" / host_architecture().triplet
    return str(own / "chromium"), str(own / "chromedriver"), {"LD_LIBRARY_PATH": str(libraries)}


@contextlib.contextmanager
def chromium(folder: Path, *, width: int = 1400, height: int = 1000) -> Iterator[Chromium]:
    """A new browser with a profile of its own."""
    binary, driver, environment = had("Chromium", _programs())
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    downloads = folder / "downloads"
    downloads.mkdir(exist_ok=True)
    for word in (
        "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--lang=en-US",
        "--force-device-scale-factor=1", "--hide-scrollbars", f"--window-size={width},{height}",
        f"--user-data-dir={folder / 'profile'}",
        # Root has no sandbox, and neither has a browser whose helper is not setuid.
        *(["--no-sandbox"] if os.geteuid() == 0 or environment else []),
    ):  # fmt: skip
        options.add_argument(word)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    service = Service(driver, env={**os.environ, **environment})
    browser = Chromium(options=options, service=service)
    try:
        browser.downloads = downloads
        browser.set_page_load_timeout(60)
        browser.watch()
        yield browser
    finally:
        browser.quit()
