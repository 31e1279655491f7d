"""What is counted and timed, for Prometheus. With several workers, every one reports the sum over all of them.

The supervisor names a folder in PROMETHEUS_MULTIPROC_DIR before a worker starts; the client library then keeps every
number in a file there. No label holds what a user sent.
"""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess, registry

FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SHARES = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

REQUESTS = Counter("everyitem_requests", "Answered requests.", ["route", "status"])
REQUEST_SECONDS = Histogram("everyitem_request_seconds", "From the last header to the answer.", ["route"], buckets=FAST)
STAGE_SECONDS = Histogram(
    "everyitem_stage_seconds", "Of a request: history, queue; of a batch: model.", ["stage"], buckets=FAST
)
SCANNED = Histogram("everyitem_scanned_share", "Of the catalogue, scored in full for a request.", buckets=SHARES)
COST_SECONDS = Histogram("everyitem_search_seconds", "Of a search: predicted, actual.", ["kind"], buckets=FAST)
REFUSED = Counter("everyitem_refused", "Requests refused: queue, deadline, history, key, host.", ["reason"])
WAITING = Gauge("everyitem_queue_waiting", "Requests that wait for the model.", multiprocess_mode="livesum")
SERVING = Gauge("everyitem_serving", "Workers that serve a version.", ["model_version"], multiprocess_mode="livesum")
RELOADS = Counter("everyitem_reloads", "Versions of the model that were opened: served, refused.", ["result"])
EVENTS = Counter("everyitem_events", "Events that were stored.")


def exposition() -> bytes:
    """The text that Prometheus reads."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(registry.REGISTRY)
    collected = CollectorRegistry()
    multiprocess.MultiProcessCollector(collected)  # type: ignore[no-untyped-call]
    return generate_latest(collected)
