"""How much memory does reading a log take at its peak?

    python benchmarks/log_memory.py [--events 60000000] [--ids int|text] [--no-times]

Generates a parquet file with random events, group by group, so that generating needs little memory itself. A fresh
process then reads it with `read_log` and is asked for its largest resident size (VmHWM), of which the size after the
imports is taken away. The answer is checked: numbers of events, users and items. `held` is what the `Log` keeps
afterwards: 4 bytes per event, 12 with times, plus ids and row bounds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 1_000_000
READ = """
import json, sys, time

def megabytes(name):
    return int(open("/proc/self/status").read().partition(name + ":")[2].split()[0]) * 1024 / 1e6

from everyitem.data.interactions import read_log
before, started = megabytes("VmHWM"), time.perf_counter()
log = read_log(sys.argv[1])
seconds = time.perf_counter() - started
arrays = [log.histories.items, log.histories.starts, log.histories.stops, log.times]
held = sum(array.nbytes for array in arrays if array is not None)
held += log.user_ids.estimated_size() + log.items.estimated_size()
print(json.dumps({
    "events": log.num_events, "users": log.num_users, "items": log.num_items, "seconds": seconds,
    "peak_mb": megabytes("VmHWM") - before,
    "held_mb": held / 1e6,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=60_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=2_000_000)
    parser.add_argument("--ids", choices=("int", "text"), default="int")
    parser.add_argument("--no-times", action="store_true", help="leave out the column datetime")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interactions.parquet"
        counts = generate(path, args)
        done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"reading failed (exit code {done.returncode}; -9 is: out of memory)\n{done.stderr}")
        found, size = json.loads(done.stdout), path.stat().st_size
    assert counts == {name: found[name] for name in counts}, (counts, found)
    print(f"{args.events:,} events, {found['users']:,} users, {found['items']:,} items, {args.ids} ids")
    print(f"file   {size / 1e6:9,.0f} MB  {size / args.events:6.1f} bytes per event")
    for name in ("peak", "held"):
        print(
            f"{name}   {found[f'{name}_mb']:9,.0f} MB  {found[f'{name}_mb'] * 1e6 / args.events:6.1f} bytes per event"
        )
    print(f"read in {found['seconds']:,.0f} s")


def generate(path: Path, args: argparse.Namespace) -> dict[str, int]:
    """Write the file; returns what a reader must find in it."""
    rng = np.random.default_rng(args.seed)
    seen = {"users": np.zeros(args.users, bool), "items": np.zeros(args.items, bool)}
    writer: pq.ParquetWriter | None = None
    for first in range(0, args.events, GROUP):
        rows = min(GROUP, args.events - first)
        users = rng.integers(0, args.users, rows)
        items = (args.items * rng.random(rows) ** 3).astype(
            np.int64
        )  # the first percent of the items has a fifth of it
        seen["users"][users] = True
        seen["items"][items] = True
        columns = {"user_id": _ids(users, args.ids, "u"), "item_id": _ids(items, args.ids, "i")}
        if not args.no_times:
            columns["datetime"] = pa.array(1_600_000_000 + rng.integers(0, 100_000_000, rows))
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return {"events": args.events} | {name: int(mask.sum()) for name, mask in seen.items()}


def _ids(numbers: np.ndarray, kind: str, letter: str) -> pa.Array:
    return pa.array(numbers) if kind == "int" else pa.array([f"{letter}{n:08d}" for n in numbers.tolist()])


if __name__ == "__main__":
    main()
