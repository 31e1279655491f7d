"""Servers that benchmarks measure: ours as a user starts it, and two peers behind the same HTTP stack."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

K = 10
CORES = sorted(os.sched_getaffinity(0))


class _Process:
    """A server that prints where it listens."""

    def __init__(self, command: list[str]) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        cores = CORES[:-1] or CORES  # the last one is for who asks
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        line = self.process.stdout.readline()
        found = re.search(r"http://127.0.0.1:(\d+)", line)
        assert found, line + self.said()
        self.port = int(found[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children] or [self.process.pid]

    def resident_mb(self) -> float:
        """Of the largest worker, shared pages of the index included."""
        sizes = [re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in self.pids()]
        return max(int(size[1]) for size in sizes if size) / 1024


class Server(_Process):
    """`everyitem serve` on a free port, with a history store of its own."""

    def __init__(self, folder: Path, workers: int, *options: str) -> None:
        command = [sys.executable, "-c", "from everyitem.cli import main; main()", "serve", str(folder), "--port", "0"]
        super().__init__([*command, "--workers", str(workers), *options])
        self.workers = workers
        while self._metric("everyitem_serving{") < workers:
            time.sleep(0.1)

    def wait_for_version(self, name: str) -> None:
        """Until every worker serves it."""
        while self._metric(f'everyitem_serving{{model_version="{name}"}}') < self.workers:
            time.sleep(0.05)

    def answered(self) -> set[str]:
        """Request ids of the recommendations that the log says were answered."""
        lines = [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]
        return {line["request_id"] for line in lines if line.get("route") == "/v1/recommend" and line["status"] == 200}

    def _metric(self, start: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))


class Peer(_Process):
    """This file as a server: "constant" or "faiss"."""

    def __init__(self, kind: str, folder: Path) -> None:
        super().__init__([sys.executable, __file__, kind, str(folder)])


def constant(_: Path) -> Any:
    """Answers with a body of the size of ours: what HTTP, JSON and validation cost by themselves."""
    items = [{"item_id": f"item-{rank:07d}", "score": 1.25 / rank, "rank": rank} for rank in range(1, K + 1)]
    return lambda history, k: items[:k]


def faiss(folder: Path) -> Any:
    """The same encoder, then faiss's IndexPQ with the same codes, as one would write it in an afternoon."""
    from everyitem.recommender import load
    from everyitem.types import Histories

    recommender = load(folder)
    index, ids = recommender.index.to_faiss(), recommender.items["item_id"].to_list()
    position_of = {item_id: position for position, item_id in enumerate(ids)}

    def answer(history: list[Any], k: int) -> list[dict[str, Any]]:
        seen = [position_of[item] for item in history if item in position_of]
        query = recommender.encode(Histories.from_lists([seen]))
        scores, found = index.search(query, k + len(set(seen)))
        left = [(int(p), float(s)) for p, s in zip(found[0], scores[0], strict=True) if p not in seen][:k]
        return [{"item_id": ids[p], "score": s, "rank": rank} for rank, (p, s) in enumerate(left, 1)]

    return answer


def main() -> None:
    import socket

    import orjson
    import uvicorn
    from fastapi import FastAPI, Response

    from everyitem.serve.bodies import Recommend

    kind, folder = sys.argv[1], Path(sys.argv[2])
    answer = {"constant": constant, "faiss": faiss}[kind](folder)
    app = FastAPI()

    async def served(body: Recommend) -> Response:
        return Response(orjson.dumps({"items": answer(body.history, body.k)}), media_type="application/json")

    def served_on_a_thread(body: Recommend) -> Response:
        return Response(orjson.dumps({"items": answer(body.history, body.k)}), media_type="application/json")

    app.post("/v1/recommend")(served if kind == "constant" else served_on_a_thread)
    if kind == "faiss":
        import faiss as library

        library.omp_set_num_threads(1)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
