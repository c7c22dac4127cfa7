"""How long a page without a server takes, in headless Chromium: until it can judge, for the first picture, and later.

python -m tests.deploy.measure_page SITE PICTURE...
"""

import functools
import os
import statistics
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from playwright.sync_api import Browser, sync_playwright

from admodels.deploy.page import HEADERS
from tests.conftest import chromium

N_VISITS, N_ROUNDS = 3, 3


class Isolated(SimpleHTTPRequestHandler):
    """Static files with the headers that a page needs for threads."""

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_):
        pass


def visit(browser: Browser, url: str, pictures: list[str]) -> tuple[float, float, str]:
    """Seconds until the page is ready and for its first picture; and what it says of its speed after many."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    started = time.perf_counter()
    page.goto(url)
    page.wait_for_selector("body[data-state=ready]", timeout=60_000)
    ready = time.perf_counter() - started
    started, n = time.perf_counter(), 0
    for given in ([pictures[0]], *[pictures] * N_ROUNDS):
        page.set_input_files("#files", given)
        n += len(given)
        page.wait_for_function("n => document.querySelectorAll('.row').length >= n", arg=n, timeout=600_000)
        if n == 1:
            first = time.perf_counter() - started
    said = page.inner_text("#speed")
    context.close()
    return ready, first, said


def main() -> None:
    site, *pictures = sys.argv[1:]
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Isolated, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = chromium(playwright.chromium)
        found = [visit(browser, f"http://127.0.0.1:{server.server_port}/", pictures) for _ in range(N_VISITS)]
        print(f"Chromium {browser.version}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        browser.close()
    ready, first = (statistics.median(row[i] for row in found) for i in (0, 1))
    print(f"ready after {ready:.2f} s, first picture {first:.2f} s after that (medians of {N_VISITS} visits)")
    print(found[-1][2])
    server.shutdown()


if __name__ == "__main__":
    main()
