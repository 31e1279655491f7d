"""How well do peers recommend? RecTools and RePlay, trained on our split, asked about our users, measured as ours.

    python benchmarks/peer_quality.py MODEL LOG OUT.json --peers PEERS/bin/python --minutes 3

PEERS is made as benchmarks/peer_trainers.py says; runs/peers.sh does all models and data sets. They get the time of
ours and the same width, blocks and histories, and are asked for the best 100 of the whole catalogue.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from training import run, write_events

from everyitem.data.interactions import read_log
from everyitem.data.splits import Holdout, split_log
from everyitem.evaluate.heldout import sample
from everyitem.evaluate.run import evaluate
from everyitem.types import Histories, Ids, TopK

K = 100


class Answers:
    """A ranker that has its answers already, for users in the order in which they are asked about."""

    def __init__(self, items_UK: Ids) -> None:
        self.items_UK, self.asked = items_UK, 0

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = False) -> TopK:
        """The first k of the next users."""
        first, self.asked = self.asked, self.asked + len(histories)
        items_UK = self.items_UK[first : self.asked, :k]
        scores_UK = np.where(items_UK >= 0, -np.arange(items_UK.shape[1], dtype=np.float32), np.float32(-np.inf))
        return TopK(items_UK, scores_UK, np.full(len(items_UK), np.inf, np.float32), np.zeros(len(items_UK), np.int64))


def main() -> None:
    args = arguments()
    log = read_log(args.log)
    parts = split_log(log, "leave-one-out", seed=0)
    questions = sample(parts.test, args.max_users)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(parts.train.histories, folder / "events.parquet")
        write_questions(questions, folder / "asked.parquet")
        files = [str(folder / f"{file}.parquet") for file in ("events", "asked", "found")]
        options = ["--minutes", str(args.minutes), "--dim", str(args.dim), "--length", str(args.length), "--k", str(K)]
        said, peak_mb = run([str(args.peers), "benchmarks/peer_trainers.py", args.model, *files, *options])
        items_UK = answers(pl.read_parquet(folder / "found.parquet"), len(questions.rows))
    popularity = np.bincount(parts.train.histories.events(), minlength=log.num_items)
    found = evaluate(
        Answers(items_UK), questions.histories, questions.targets, num_items=log.num_items, popularity=popularity
    )
    counted = json.loads(said.strip().splitlines()[-1])
    training = {"training_seconds": counted["seconds"], "positions": counted["positions"], "peak_mb": peak_mb}
    settings = {"minutes": args.minutes, "length": args.length, "dim": args.dim, "versions": versions(args.peers)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found.to_json() | {"training": training, "settings": settings}, indent=1) + "\n")
    print(f"{args.model}: NDCG@10 {found.metrics()['ndcg@10'].value:.4f} of {found.users:,} users -> {args.out}")


def write_questions(questions: Holdout, path: Path) -> None:
    """The histories asked about; a question's number is its user."""
    rows = [row.tolist() for row in questions.histories]
    schema = {"user_id": pl.Int64, "history": pl.List(pl.Int64)}
    pl.DataFrame({"user_id": np.arange(len(rows)), "history": rows}, schema=schema).write_parquet(path)


def answers(found: pl.DataFrame, num_questions: int) -> Ids:
    """(U, 100) recommended positions, best first; -1 where a peer had no answer."""
    items_UK = np.full((num_questions, K), -1, np.int32)
    rank = found["rank"].to_numpy() - 1
    kept = rank < K
    items_UK[found["user_id"].to_numpy()[kept], rank[kept]] = found["item_id"].to_numpy()[kept]
    return items_UK


def versions(python: Path) -> dict[str, Any]:
    """Releases of what was measured."""
    program = (
        "import json, importlib.metadata as m; "
        "print(json.dumps({name: m.version(name) for name in ('RecTools', 'replay-rec', 'torch')}))"
    )
    found: dict[str, Any] = json.loads(subprocess.check_output([str(python), "-c", program], text=True))
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="as benchmarks/peer_trainers.py names it")
    parser.add_argument("log", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--peers", type=Path, required=True, help="the Python of an environment with the peers")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--max-users", type=int, default=20_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
