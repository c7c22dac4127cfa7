"""The figures of a load test, on this machine: the clients share its cores with the server.

python -m tests.demo.load --clients 20 --seconds 60 --requests 2000
python -m tests.demo.load --endpoint /v1/score --no-page --clients 1 --clients 20 --requests 10000
"""

import argparse
import tempfile
from itertools import product
from pathlib import Path

from .run import HTTP, prepare, run, serve

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Load test of the app's API.")
    parser.add_argument("--endpoint", action="append", help="by default /score and /inspect of the app")
    parser.add_argument("--no-page", action="store_true", help="`python -m admodels serve`, which has /v1/score only")
    parser.add_argument("--ray", action="store_true", help="the same on Ray Serve, with two replicas")
    parser.add_argument("--clients", type=int, action="append", help="20 by default")
    parser.add_argument("--seconds", type=float, default=60, help="at least so long")
    parser.add_argument("--requests", type=int, default=2000, help="and at least so many requests")
    parser.add_argument("--pictures", type=int, default=1, help="in each request")
    parser.add_argument("--image-size", type=int, default=256)
    asked = parser.parse_args()
    page = not (asked.no_page or asked.ray)
    endpoints = asked.endpoint or (["/score", "/inspect"] if page else [HTTP])
    arguments = ("--ray", "--replicas", "2") if asked.ray else ()
    with tempfile.TemporaryDirectory() as home:
        work, alone = prepare(Path(home), {"image_size": asked.image_size})
        print(f"the library's predict in a loop: {alone:.1f} pictures a second", flush=True)
        for endpoint, n_clients in product(endpoints, asked.clients or [20]):
            with serve(Path(home), *arguments, page=page) as server:
                found = run(server, work, endpoint, n_clients, asked.seconds, asked.requests, asked.pictures)
            memory = ", ".join(f"{at}: {size / 2**20:.0f}" for at, size in found.memory.items())
            print(
                f"{endpoint}: {found.n_requests} requests of {n_clients} clients in {found.seconds:.0f} s; "
                f"median {found.median_rate:.1f} pictures a second, {found.median_rate / alone:.0%} of the library; "
                f"latency p50 {1000 * found.latency(50):.0f} ms, p95 {1000 * found.latency(95):.0f} ms; "
                f"{len(found.errors)} errors, {found.n_wrong} wrong scores; MiB of the server after requests: {memory}",
                flush=True,
            )
            for error in found.errors[:3]:
                print("   ", error)
