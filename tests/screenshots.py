"""Takes the pictures of the docs, from the made-up state of `tests.page`: `python -m tests.screenshots docs`."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from playwright.sync_api import sync_playwright

from console.web.__main__ import listen
from tests.page import page

#: Name, width and height in CSS pixels, colour scheme, and how far down.
SHOTS = (
    ("page-light", 1180, 1452, "light", "#main"),
    ("page-dark", 1180, 1452, "dark", "#main"),
    ("page-phone", 360, 900, "dark", "#main"),
)


@contextmanager
def served() -> Iterator[str]:
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(page(password=None), log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


def main(folder: Path) -> None:
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, width, height, scheme, place in SHOTS:
            size = {"width": width, "height": height}
            shot = browser.new_page(viewport=size, color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            shot.goto(f"{url}{place}")
            shot.get_by_text("for the provider").first.wait_for()
            shot.evaluate("document.activeElement.blur()")
            shot.screenshot(path=folder / f"{name}.png")
            shot.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
