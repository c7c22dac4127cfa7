"""Figures of a server in Prometheus's text format; with several processes, of all of them together."""

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
PICTURES = (1, 2, 4, 8, 16, 32)
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # the client library's own name for it


class Metrics:
    """What is counted and measured. Labels are few: methods and verdicts, never names that a request chose."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        more = {"registry": registry}
        self.requests = Counter("admodels_requests", "Answers by HTTP status", ["path", "status"], **more)
        self.pictures = Counter("admodels_pictures", "Pictures scored", ["method", "verdict"], **more)
        self.seconds = Histogram(
            "admodels_request_seconds", "From a request's head to its answer", ["path"], buckets=SECONDS, **more
        )
        self.batches = Histogram("admodels_batch_pictures", "Pictures scored together", buckets=PICTURES, **more)
        self.scoring = Histogram("admodels_batch_seconds", "Time to score a batch", buckets=SECONDS, **more)
        self.waiting = Gauge(
            "admodels_pictures_here", "Being read, waiting or scored", multiprocess_mode="livesum", **more
        )
        self.models = Gauge("admodels_models_held", "Models in memory", multiprocess_mode="livesum", **more)

    def text(self) -> bytes:
        """All of them."""
        registry = self._registry
        if os.environ.get(MULTIPROCESS):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)
