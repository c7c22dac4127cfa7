"""A stand-in for the service that gives a ZeroGPU Space its GPUs: it answers as told, and notes what it is asked."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


class Device:
    """The service, on a port of its own.

    Attributes:
        answers: to the next requests for a GPU: a status with what it says, or a list of events of a queue, of which
            a `threading.Event` is waited for. When there are none left, a GPU is given at once.
        asked: path and parameters of each request, as they came.
    """

    def __init__(self):
        self.answers = deque()
        self.asked = []
        self._came = threading.Condition()
        device = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                at = urlsplit(self.path)
                with device._came:
                    device.asked.append((at.path, dict(parse_qsl(at.query))))
                    device._came.notify_all()
                answer = 200, {}
                if at.path == "/schedule":
                    answer = device.answers.popleft() if device.answers else (200, gpu())
                if isinstance(answer, list):
                    self._stream(answer)
                else:
                    self._say(*answer)

            def _say(self, status, what):
                body = json.dumps(what).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self, events):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for event in events:
                    if isinstance(event, threading.Event):
                        event.wait()
                        continue
                    said = f"{event}\n\n".encode()
                    self.wfile.write(f"{len(said):x}\r\n".encode() + said + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"

    def of(self, path):
        """The parameters of each request to this path."""
        return [parameters for at, parameters in self.asked if at == path]

    def wait_for(self, path, n):
        """Wait until this path was asked for n times."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.of(path)) >= n, timeout=60), f"{path}: {self.asked}"


def gpu(idle=False):
    """What is said of a GPU that is given; idle where the process that had it last may go on."""
    return {"idle": idle, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "allowed"}
