"""What does it cost to write an item token by token? Single-step against beam search, with the same backbone.

    python benchmarks/decoding.py LOG OUT.json SINGLE_STEP... --multi-token MODEL... [--titles MODEL] [--users 300]

SINGLE_STEP and MODEL are model folders of `everyitem train` on LOG with the same backbone; those of semantic ids are
searched with every width of `--widths` and exactly. `--titles` is a language model that writes titles: by a beam over
the titles that exist, and as BIGRec: freely, then grounded. Answers are checked before anything is timed: a single-step
row against the scores of the whole catalogue, a written row against the scores of its own items, an exact one against
every item, written out. Then the ways take turns on the same users, twenty users a turn, one at a time on one thread:
history in, top-10 out. The ratio is to the fastest single-step way.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from everyitem.bench.timing import clocked
from everyitem.data.interactions import Log, read_log
from everyitem.data.splits import Holdout
from everyitem.evaluate.heldout import sample, split_for
from everyitem.evaluate.run import evaluate
from everyitem.index import BeamIndex
from everyitem.index.prompts import Prompts
from everyitem.learn.bigrec import BIGRec
from everyitem.learn.titles import TitleRanker, load_titles
from everyitem.recommender import Recommender, load
from everyitem.types import Floats, Histories, TopK

K = 10
CHECKED, WRITTEN_OUT = 20, 2
TURN = 20
AT_ONCE = 1024
"""Items that a model writes out together where every item is asked for."""
TOLERANCE = 1e-3
"""Between scores of the same item computed together with others and alone: what BLAS may change."""
COLUMNS = ("method", "ndcg@10", "recall@10", "median_ms", "p95_ms", "ratio", "scored", "proved", "found")


class Titles:
    """A language model that writes titles which exist, with the methods of a `Recommender`."""

    memory = None

    def __init__(self, folder: Path, log: Log, width: int) -> None:
        model, text, told = load_titles(folder, log)
        ranker = TitleRanker(model, text.titles, text.start, length=told["length"], beam=width)
        self.index, self.encode, self.rank = ranker.index, ranker.prompts, ranker.rank
        self.metadata = {"settings": told}


class Grounded:
    """The same model as BIGRec: it writes freely, and the nearest titles are found."""

    index = memory = None

    def __init__(self, folder: Path, log: Log) -> None:
        model, text, told = load_titles(folder, log)
        self.ranker = BIGRec(model, text.titles, text.start, length=told["length"])
        self.rank, self.metadata = self.ranker.rank, {"settings": told}
        self.calls = 0
        model.get_decoder().register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1


Way = Recommender | Titles | Grounded


class Counted:
    """Prompts that count the calls of the model."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts, self.calls = prompts, 0

    def __len__(self) -> int:
        return len(self.prompts)

    def read(self) -> Iterator[Any]:
        """One call per part."""
        for part in self.prompts.read():
            self.calls += 1
            yield part

    def step(self, *given: Any) -> Any:
        """One call."""
        self.calls += 1
        return self.prompts.step(*given)


def main() -> None:
    args = arguments()
    log = read_log(args.log)
    ways: dict[str, Way] = {path.name: load(path) for path in args.single_step}
    for path in args.multi_token:
        ways |= {f"{path.name} {name}": way for name, way in searches(load(path), args.widths, not args.skip_exact)}
    test = split_for(load(args.single_step[0]), log).test
    if args.titles:
        name = args.titles.name
        ways |= {f"{name} beam-{width}": Titles(args.titles, log, width) for width in args.widths[:1]}
        ways[f"{name} bigrec"] = Grounded(args.titles, log)
    users, asked = sample(test, args.users), sample(test, args.quality_users, seed=1)
    for name, model in track(list(ways.items()), "checking"):
        check(name, model, users.histories)
    exact = {name: model for name, model in ways.items() if name.endswith(" exact")}
    best = {name.removesuffix(" exact"): answers(model, users.histories) for name, model in exact.items()}
    times = timed(ways, users.histories)
    fastest = min(np.median(times[path.name]) for path in args.single_step)
    rows = {}
    for name, model in track(list(ways.items()), "quality"):
        found = answers(model, users.histories)
        rows[name] = quality(model, asked, log.num_items) | {
            "median_ms": float(np.median(times[name])),
            "p95_ms": float(np.quantile(times[name], 0.95)),
            "ratio": float(np.median(times[name]) / fastest),
            "scored": float(np.mean(found.scored)),
            "proved": None if isinstance(model, Grounded) else float(np.mean(found.bound <= found.scores[:, -1])),
            "found": overlap(found, best.get(name.rsplit(" ", 1)[0])),
            **written(model, users.histories),
        }
    show(rows)
    result = {"methods": rows, "users": len(users.rows), "quality_users": len(asked.rows), "machine": machine()}
    result |= {"settings": {name: settings_of(model) for name, model in ways.items()}}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def settings_of(model: Way) -> dict[str, Any]:
    """Without the path of the language model."""
    told = dict(model.metadata["settings"])
    if told.get("language_model"):
        told["language_model"] = Path(told["language_model"]).name
    return told


def searches(model: Recommender, widths: list[int], exactly: bool) -> Iterator[tuple[str, Recommender]]:
    """The same model with an index per way to search."""
    ways = [(f"beam-{width}", width, False) for width in widths] + [("exact", max(widths), True)] * exactly
    for name, width, exact in ways:
        index = BeamIndex(model.index.tokens_IM, width=width, exact=exact)
        yield name, Recommender(model.encoder, index, model.items, model.metadata)


def answers(model: Way, histories: Histories) -> TopK:
    """One user at a time: what an exact search reads is kept for a whole batch."""
    found = [model.rank(histories.select(np.array([row])), K) for row in range(len(histories))]
    return TopK(*(np.concatenate(part) for part in zip(*found, strict=True)))


def check(name: str, model: Way, histories: Histories) -> None:
    """Raise unless the answers are what they say they are."""
    if isinstance(model, Grounded):
        return  # tests/learn/test_bigrec.py
    some = histories.select(slice(0, CHECKED))
    query, found = model.encode(some), answers(model, some)
    if isinstance(model.index, BeamIndex):
        alone = model.index.scores(query, found.items)
        if np.abs(alone - found.scores).max() > TOLERANCE:
            raise SystemExit(f"{name}: scores differ from those of the items alone: nothing is timed")
        if not model.index.exact:
            return
        few = histories.select(slice(0, WRITTEN_OUT))
        score_UI = written_out(model.index, lambda: model.encode(few))
        found = answers(model, few)
    else:
        everything = np.tile(np.arange(model.index.num_items), (len(some), 1))
        score_UI = model.index.scores(query, everything)
    best = -np.sort(-score_UI, axis=1)[:, : found.scores.shape[1]]
    if model.memory is None and np.abs(best - found.scores).max() > TOLERANCE:
        raise SystemExit(f"{name}: misses items that score higher: nothing is timed")


def written_out(index: BeamIndex, prompts: Callable[[], Prompts]) -> Floats:
    """(U, I) scores of every item."""
    parts = np.split(np.arange(index.num_items), range(AT_ONCE, index.num_items, AT_ONCE))
    rows = len(prompts())
    return np.concatenate([index.scores(prompts(), np.tile(part, (rows, 1))) for part in parts], axis=1)


def timed(ways: dict[str, Way], histories: Histories) -> dict[str, Floats]:
    """Milliseconds per user: the ways take turns, some users at a time.

    Every turn begins with a call that does not count: a server that has one model has it in its caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    users = [histories.select(np.array([row])) for row in range(len(histories))]
    for first in track(range(0, len(users), TURN), "timing"):
        turn = users[first : first + TURN]
        for name, model in ways.items():
            answers(model, turn[0])
            seconds[name] += clocked([partial(answers, model, user) for user in turn], budget=600).tolist()
    return {name: 1e3 * np.array(values) for name, values in seconds.items()}


def written(model: Way, histories: Histories) -> dict[str, float]:
    """Of a model that writes: passes per recommendation."""
    counting = histories.select(slice(0, 100))
    if isinstance(model, Grounded):
        before = model.calls
        answers(model, counting)
        return {"calls": (model.calls - before) / len(counting)}
    if not isinstance(model.index, BeamIndex):
        return {"calls": 1.0}
    calls = []
    for row in range(len(counting)):
        counted = Counted(model.encode(histories.select(np.array([row]))))
        model.index.top_k(counted, K)
        calls.append(counted.calls)
    return {"calls": float(np.mean(calls))}


def quality(model: Way, asked: Holdout, num_items: int) -> dict[str, float]:
    exact = isinstance(model.index, BeamIndex) and model.index.exact  # what it reads is kept for a whole batch
    found = evaluate(model, asked.histories, asked.targets, num_items=num_items, ks=(5, 10), batch=1 if exact else 64)
    return {name: found.metrics()[name]._asdict() for name in ("ndcg@5", "ndcg@10", "recall@5", "recall@10")}


def overlap(found: TopK, best: TopK | None) -> float | None:
    """Share of the exact top-K that was found; None for a way that is exact by itself."""
    if best is None:
        return None
    pairs = zip(found.items, best.items, strict=True)
    return float(np.mean([len(np.intersect1d(one, other)) / len(other) for one, other in pairs]))


def machine() -> str:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, one thread"


def show(rows: dict[str, dict[str, Any]]) -> None:
    table = Table(*COLUMNS, "calls")
    for name, row in rows.items():
        cells = [row[column]["value"] if "@" in column else row[column] for column in (*COLUMNS[1:], "calls")]
        table.add_row(name, *("" if cell is None else f"{cell:,.4g}" for cell in cells))
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("single_step", type=Path, nargs="+")
    parser.add_argument("--multi-token", type=Path, nargs="+", required=True)
    parser.add_argument("--titles", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--skip-exact", action="store_true", help="a model that is unsure reads most of the trie")
    parser.add_argument("--users", type=int, default=300, help="timed, and compared with the exact answers")
    parser.add_argument("--quality-users", type=int, default=2000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
