"""A headless Chromium that opens a page and is asked about it, over its DevTools protocol."""

import asyncio
import base64
import itertools
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
"""The browser, None if there is none."""

START_S = 60.0


class Look:
    """What a page looks like at one size.

    Attributes:
        value: Of the expression.
        complaints: Errors on the console and exceptions.
        fetched: Addresses that the page asked for.
        png: The whole page.
    """

    def __init__(self, value: Any, complaints: list[str], fetched: list[str], png: bytes) -> None:
        self.value = value
        self.complaints = complaints
        self.fetched = fetched
        self.png = png


def look(page: Path, width: int, height: int, ready: str, ask: str, *, profile: Path,
         dark: bool = False) -> Look:  # fmt: skip
    """Open a page at a size (below 600 px as a phone), wait until `ready` holds, evaluate `ask`.

    Args:
        page: File to open.
        width, height: Of the window. [px]
        ready: JavaScript that is true once the page is complete.
        ask: JavaScript whose value is wanted.
        profile: Empty folder for the browser's own files.
        dark: Whether the reader prefers dark pages.
    """
    assert CHROMIUM is not None
    words = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-dev-shm-usage", "--remote-debugging-port=0", f"--user-data-dir={profile}",
        "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            port = _port(profile / "DevToolsActivePort", browser)
            return asyncio.run(_look(port, page, width, height, ready, ask, dark))
        finally:
            browser.terminate()


def _port(file: Path, browser: "subprocess.Popen[bytes]") -> int:
    """The port, which the browser writes when it is ready."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and browser.poll() is None:
        if file.exists() and (lines := file.read_text().split()):
            return int(lines[0])
        time.sleep(0.05)
    raise RuntimeError(f"{CHROMIUM} did not start (exit code {browser.poll()})")


class _Tab:
    """A tab, driven by numbered commands; what it reports meanwhile is kept."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=START_S)
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append(message)

    async def value(self, expression: str) -> Any:
        found = await self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


async def _look(
    port: int, page: Path, width: int, height: int, ready: str, ask: str, dark: bool
) -> Look:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            address = next(t for t in await answer.json() if t["type"] == "page")
        async with session.ws_connect(
            address["webSocketDebuggerUrl"], max_msg_size=0, timeout=aiohttp.ClientWSTimeout()
        ) as socket:
            tab = _Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.do(f"{domain}.enable")
            phone = width < 600
            await tab.do("Emulation.setDeviceMetricsOverride", width=width, height=height,
                         deviceScaleFactor=1, mobile=phone)  # fmt: skip
            await tab.do("Emulation.setTouchEmulationEnabled", enabled=phone)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await tab.do("Emulation.setEmulatedMedia", features=[scheme])
            await tab.do("Page.navigate", url=page.resolve().as_uri())
            end = time.monotonic() + START_S
            while not await tab.value(ready):
                assert time.monotonic() < end, f"never ready: {_complaints(tab.events)}"
                await asyncio.sleep(0.1)
            value = await tab.value(ask)
            shot = await tab.do("Page.captureScreenshot", captureBeyondViewport=True)
            return Look(
                value,
                _complaints(tab.events),
                [e["params"]["request"]["url"] for e in tab.events
                 if e["method"] == "Network.requestWillBeSent"],
                base64.b64decode(shot["data"]),
            )  # fmt: skip


def _complaints(events: list[dict[str, Any]]) -> list[str]:
    """Errors and exceptions, in the browser's words."""
    found = []
    for event in events:
        method, said = event["method"], event.get("params", {})
        if method == "Runtime.exceptionThrown":
            found.append(str(said["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
            found.append(str(said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] == "error":
            found.append(str(said["entry"]))
    return found
