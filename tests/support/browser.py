"""A headless Chromium, driven over the WebDriver protocol with nothing but the standard library."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@dataclass(frozen=True)
class Browser:
    """One session of chromedriver, at its address."""

    session: str

    def open(self, page: Path) -> None:
        self._post("url", url=page.resolve().as_uri())

    def run(self, script: str) -> Any:
        """What a script returns, which runs as the body of a function."""
        return self._post("execute/sync", script=script, args=[])

    def log(self) -> list[str]:
        """What the page wrote to the console since the last call, errors of any kind included."""
        return [entry["message"] for entry in self._post("se/log", type="browser")]

    def width(self, pixels: int, height: int = 900) -> None:
        """The window's size, that of a phone's too, which is less than a window may have."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=pixels, height=height, deviceScaleFactor=1, mobile=pixels < 600,
        )  # fmt: skip

    def scheme(self, name: str, media: str = "") -> None:
        """A colour scheme, "light" or "dark", and a medium, "screen" or "print"."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.devtools("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, file: Path, whole: bool = True) -> None:
        taken = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._post("goog/cdp/execute", cmd=command, params=parameters)

    def _post(self, path: str, **body: Any) -> Any:
        return post(f"{self.session}/{path}", body)


@contextmanager
def browser() -> Iterator[Browser]:
    """A session, ended with the processes behind it."""
    assert DRIVER is not None
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        found = (re.search(r"successfully on port (\d+)", line) for line in driver.stdout)
        address = f"http://127.0.0.1:{next(match[1] for match in found if match)}"
        options = {
            "binary": CHROMIUM,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        started = post(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})
        session = f"{address}/session/{started['sessionId']}"
        yield Browser(session)
        urllib.request.urlopen(urllib.request.Request(session, method="DELETE"), timeout=60).close()
    finally:
        driver.terminate()
        driver.communicate()


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["value"]
