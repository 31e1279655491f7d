"""Does `everyitem serve` keep its promises under load? Answers are checked against the library before it is timed.

    python benchmarks/serving.py MODEL LOG                       # a minute of each
    python benchmarks/serving.py MODEL LOG --seconds 600 --reloads 200 --sigterms 50 --record

MODEL is copied first. Load is open-loop, 16 connections, histories of real users (LOG), k = 10; latency counts from
when a request was due. It comes from the last core of this machine; servers have all others. `--steps` picks: steady
(100 and 200 requests/s), overload (five times what it can do, 256 connections), reload (new versions under load; every
answer is held against its version's oracle), sigterm (restarts under load; what the log says was answered must have
arrived), peers (closed loop: ours, an endpoint that answers with a constant, and the same encoder before faiss's
IndexPQ).
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from load import Answer, closed_loop, open_loop, summary
from recording import record
from rich.console import Console
from rich.table import Table
from server_process import CORES, Peer, Server

from everyitem.data.interactions import read_log
from everyitem.recommender import Recommender, load
from everyitem.serve.version import name_of

K = 10
CHECKED = 100
COLUMNS = (
    "step",
    "items",
    "workers",
    "rate",
    "seconds",
    "per_second",
    "p50",
    "p95",
    "p99",
    "p999",
    "errors",
    "refused",
    "note",
)
STEPS = ("steady", "overload", "reload", "sigterm", "peers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, nargs="*", default=[100.0, 200.0])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument(
        "--reload-seconds", type=float, default=600.0, help="after so long no more versions are written"
    )
    parser.add_argument("--sigterms", type=int, default=5)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    os.sched_setaffinity(0, CORES[-1:])
    console, rows = Console(width=120), []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        shutil.copytree(args.model, folder, ignore=shutil.ignore_patterns("training"))
        bench = Bench(folder, args, real_histories(load(folder), args.log), console)
        for step in args.steps:
            for row in getattr(bench, step)():
                rows.append(row)
                console.print(shown(rows[-1:]))
                if args.record:
                    record([list(row.values())], "serving", COLUMNS)
    console.print(shown(rows))


class Bench:
    """One model folder, its clients' bodies, and the steps."""

    def __init__(self, folder: Path, args: argparse.Namespace, histories: list[list[Any]], console: Console) -> None:
        self.folder, self.args, self.histories, self.console = folder, args, histories, console
        self.bodies = [json.dumps({"history": history, "k": K}).encode() for history in histories]
        self.items = load(folder).index.num_items

    def steady(self) -> Any:
        """What it is for: so many requests a second, for as long as asked."""
        with Server(self.folder, self.args.workers) as server:
            check(server.port, self.bodies, self.histories, load(self.folder))
            for rate in self.args.rate:
                answers = asyncio.run(open_loop(server.port, self.bodies, rate, self.args.seconds))
                yield self.row(
                    "steady", answers, self.args.seconds, rate, f"RSS {server.resident_mb():.0f} MB a worker"
                )

    def overload(self) -> Any:
        """Five times what four connections get answered, over 256; then half of it, to see how soon all is well."""
        seconds = min(60.0, self.args.seconds)
        with Server(self.folder, self.args.workers) as server:
            calm = asyncio.run(closed_loop(server.port, self.bodies, 5.0, connections=4))
            capacity = sum(answer.status == 200 for answer in calm) / 5.0
            before = server.resident_mb()
            answers = asyncio.run(open_loop(server.port, self.bodies, 5 * capacity, seconds, connections=256))
            refused = [answer for answer in answers if answer.status == 503]
            assert all(answer.retry_after for answer in refused)
            slow = np.percentile([answer.service_seconds for answer in refused] or [0.0], 99) * 1e3
            note = f"refused within {slow:.0f} ms (p99), RSS {before:.0f} -> {server.resident_mb():.0f} MB"
            yield self.row("overload x5", answers, seconds, 5 * capacity, note)
            after = asyncio.run(open_loop(server.port, self.bodies, 0.5 * capacity, 10.0))
            late = [a.number / (0.5 * capacity) for a in after if a.seconds > 0.025 or a.status != 200]
            note = f"last answer above 25 ms came {max(late, default=0.0):.1f} s after it"
            yield self.row("recovery", after, 10.0, 0.5 * capacity, note)

    def reload(self) -> Any:
        """Two states of the catalogue in turn, with and without the items that are best for the first histories."""
        rate = self.args.rate[0]
        bodies, histories = self.bodies[:20], self.histories[:20]
        with Server(self.folder, self.args.workers) as server:
            check(server.port, bodies, histories, load(self.folder))
            resident = server.resident_mb()
            oracles: dict[str, list[list[Any]]] = {}
            done = threading.Event()
            until = time.monotonic() + self.args.reload_seconds
            turns = itertools.takewhile(lambda _: time.monotonic() < until, range(self.args.reloads))
            changing = threading.Thread(target=change, args=(self.folder, turns, histories, oracles, server, done))
            changing.start()
            answers: list[Answer] = []
            while not done.is_set():
                answers += asyncio.run(open_loop(server.port, bodies, rate, 10.0))
            changing.join()
            mixed = sum(not is_of_its_version(a, oracles, len(bodies)) for a in answers if a.status == 200)
            seen = len({a.content["model_version"] for a in answers if a.status == 200})
            grown = f"RSS {resident:.0f} -> {server.resident_mb():.0f} MB"
            note = f"{len(oracles)} versions, {seen} seen in answers, {mixed} mixed, {grown}"
            yield self.row("reload", answers, len(answers) / rate, rate, note)

    def sigterm(self) -> Any:
        """Ended under load, again and again: what the log says was answered must have arrived."""
        lost, all_answers, rate = 0, [], self.args.rate[0]
        for _ in range(self.args.sigterms):
            with Server(self.folder, self.args.workers) as server:
                threading.Timer(1.0, server.process.send_signal, (signal.SIGTERM,)).start()
                answers = asyncio.run(open_loop(server.port, self.bodies, rate, 1.5))
                assert server.process.wait(30) == 0
                arrived = {a.content["request_id"] for a in answers if a.status == 200}
                lost += len(server.answered() - arrived)
                all_answers += [answer for answer in answers if answer.status]
        seconds = len(all_answers) / rate
        yield self.row(
            "sigterm", all_answers, seconds, rate, f"{self.args.sigterms} times, {lost} answers did not arrive"
        )

    def peers(self) -> Any:
        """As many requests as 16 connections can wait for, from each in turn."""
        seconds = min(20.0, self.args.seconds)
        with Server(self.folder, 1, "--max-wait-ms", "10000") as server:
            yield self.row(
                "ours, closed loop", asyncio.run(closed_loop(server.port, self.bodies, seconds)), seconds, None, ""
            )
        for name in ("constant", "faiss"):
            with Peer(name, self.folder) as peer:
                answers = asyncio.run(closed_loop(peer.port, self.bodies, seconds))
                yield self.row(f"{name}, closed loop", answers, seconds, None, f"RSS {peer.resident_mb():.0f} MB")

    def row(self, step: str, answers: list[Answer], seconds: float, rate: float | None, note: str) -> dict[str, Any]:
        """What is shown and recorded of a step."""
        found = summary(answers, seconds)
        refused = found.statuses.get(503, 0)
        errors = len(answers) - refused - found.statuses.get(200, 0)
        numbers = (found.per_second, found.p50, found.p95, found.p99, found.p999)
        values = (step, self.items, self.args.workers, rate, seconds, *numbers, errors, refused, note)
        return dict(zip(COLUMNS, values, strict=True))


def real_histories(recommender: Recommender, log: Path) -> list[list[Any]]:
    """Of a thousand users, in ids."""
    events = read_log(log)
    some = np.sort(np.random.default_rng(0).permutation(events.num_users)[:1000])
    rows = events.histories.select(some).last(200).translate(recommender.positions_in(events.items["item_id"]))
    return [recommender.items["item_id"].gather(row).to_list() for row in rows if len(row)]


def check(port: int, bodies: list[bytes], histories: list[list[Any]], recommender: Recommender) -> None:
    """Every answer has the library's ids and scores."""
    for answer in asyncio.run(closed_loop(port, bodies[:CHECKED], 3.0, connections=1)):
        assert answer.status == 200, answer
        expected = recommender.answer([histories[answer.number % min(CHECKED, len(bodies))]], K).frame
        found = answer.content["items"]
        assert [item["item_id"] for item in found] == expected["item_id"].to_list(), answer
        assert [np.float32(item["score"]) for item in found] == expected["score"].to_list(), answer
        if answer.number >= CHECKED:
            return


def change(
    folder: Path,
    turns: Iterable[int],
    histories: list[list[Any]],
    oracles: dict[str, list[list[Any]]],
    server: Server,
    done: Any,
) -> None:
    """Write version after version, each once the one before is served, and note what each must answer."""
    whole, some = load(folder), load(folder)
    best = whole.answer(histories, 1).frame["item_id"].unique().to_list()
    some.remove_items(best)
    expected = [ranked(whole, histories), ranked(some, histories)]
    oracles[name_of(whole.metadata)] = expected[0]
    for number in turns:
        written, other = (whole, some) if number % 2 else (some, whole)
        written.save(folder)
        other.metadata = written.metadata  # it may be saved next: nobody else has changed the folder
        name = name_of(written.metadata)
        oracles[name] = expected[1 - number % 2]
        server.wait_for_version(name)
    whole.save(folder)  # as it was before
    oracles[name_of(whole.metadata)] = expected[0]
    done.set()


def ranked(recommender: Recommender, histories: list[list[Any]]) -> list[list[Any]]:
    return [recommender.answer([history], K).frame["item_id"].to_list() for history in histories]


def is_of_its_version(answer: Answer, oracles: dict[str, list[list[Any]]], count: int) -> bool:
    found = [item["item_id"] for item in answer.content["items"]]
    return found == oracles[answer.content["model_version"]][answer.number % count]


def shown(rows: list[dict[str, Any]]) -> Table:
    table = Table(*(name for name in COLUMNS if name not in ("items", "workers")), title="serving, milliseconds")
    for row in rows:
        cells = (value for name, value in row.items() if name not in ("items", "workers"))
        table.add_row(*("" if c is None else f"{c:,.1f}" if isinstance(c, float) else str(c) for c in cells))
    return table


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
