"""A server of weights on this machine that can be as bad as the real ones: slow, silent, cut short, or lying."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

WAYS = ("whole", "stalled", "cut", "other", "missing")


class WeightsServer:
    """Context manager; serves the same bytes under every name.

    Attributes:
        way: how the next answers go, one of `WAYS`.
        asked: paths that were asked for.
        begun: set when an answer has begun.
        release: lets those that stall end.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.way = "whole"
        self.asked: list[str] = []
        self.begun, self.release = threading.Event(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        way = self.way
        if way == "missing":
            handler.send_error(404)
            self.begun.set()
            return
        content = self.content[::-1] if way == "other" else self.content
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        half = len(content) // 2
        handler.wfile.write(content[:half])
        handler.wfile.flush()
        self.begun.set()
        if way == "cut":
            return
        if way == "stalled":
            self.release.wait()
        handler.wfile.write(content[half:])
