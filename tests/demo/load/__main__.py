"""The figures of a load test, on this machine: the clients share its cores with the server.

python -m tests.demo.load --clients 20 --seconds 60 --requests 2000
"""

import argparse
import tempfile
from pathlib import Path

from .run import prepare, run, serve

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Load test of the app's API.")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60, help="at least so long")
    parser.add_argument("--requests", type=int, default=2000, help="and at least so many requests")
    parser.add_argument("--pictures", type=int, default=1, help="in each request")
    parser.add_argument("--image-size", type=int, default=256)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        work, alone = prepare(Path(home), {"image_size": asked.image_size})
        print(f"the library's predict in a loop: {alone:.1f} pictures a second")
        for endpoint in ("/score", "/inspect"):
            with serve(Path(home)) as server:
                found = run(server, work, endpoint, asked.clients, asked.seconds, asked.requests, asked.pictures)
            memory = ", ".join(f"{at}: {size / 2**20:.0f}" for at, size in found.memory.items())
            print(
                f"{endpoint}: {found.n_requests} requests of {asked.clients} clients in {found.seconds:.0f} s; "
                f"median {found.median_rate:.1f} pictures a second, {found.median_rate / alone:.0%} of the library; "
                f"latency p50 {found.latency(50):.2f} s, p95 {found.latency(95):.2f} s; "
                f"{len(found.errors)} errors, {found.n_wrong} wrong scores; MiB of the server after requests: {memory}"
            )
            for error in found.errors[:3]:
                print("   ", error)
