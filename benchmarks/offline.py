"""How many users does `everyitem recommend --users` answer per second, on how many cores, in how much memory?

    python benchmarks/offline.py MODEL LOG [--cores 1 2] [--copies 1 8] [--record]

Every run is a fresh process that may use so many cores. `copies` makes the log longer by giving its users new names:
time should grow with it, memory should not. Checked before anything is reported: the file is the same to the byte
whatever the cores, and has k items for every user. `cpu_seconds` tell whether others were at work on the machine: idle,
they are `seconds` times the cores that were kept busy. `peak_mb` is the largest resident size (VmHWM); `model_mb` of
it is what opening the model takes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
from recording import record
from rich.console import Console
from rich.table import Table

from everyitem.data.columns import scan_events

COLUMNS = (
    *("model", "log", "items", "users", "events", "k", "cores"),
    *("seconds", "users_per_second", "cpu_seconds", "peak_mb", "model_mb"),
)
RUN = """
import json, os, sys, time

def megabytes():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6

model, log, out, k, cores = *sys.argv[1:4], *map(int, sys.argv[4:])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
from everyitem.recommender import load
from everyitem.serve.offline import recommend_to_parquet
items = len(load(model).items)
opened, started, cpu = megabytes(), time.perf_counter(), time.process_time()
done = recommend_to_parquet(model, log, out, k=k)
print(json.dumps({"items": items, "users": done.users, "seconds": time.perf_counter() - started,
                  "cpu_seconds": time.process_time() - cpu,
                  "peak_mb": megabytes(), "model_mb": opened}))
"""


def main() -> None:
    args = arguments()
    table, rows = Table(*COLUMNS), []
    with tempfile.TemporaryDirectory() as folder:
        for copies in args.copies:
            log = Path(folder) / f"{copies}.parquet"
            num_events = write_copies(args.log, log, copies)
            files: set[bytes] = set()
            for cores in args.cores:
                found = run(args.model, log, Path(folder) / "out.parquet", args.k, cores)
                files.add((Path(folder) / "out.parquet").read_bytes())
                if len(files) != 1:
                    sys.exit(f"{cores} cores wrote other bytes than {args.cores[0]}")
                rate = found["users"] / found["seconds"]
                names = (args.model.name, args.log.name, found["items"], found["users"], num_events, args.k, cores)
                spent = (found["seconds"], rate, found["cpu_seconds"], found["peak_mb"], found["model_mb"])
                rows.append((*names, *spent))
                table.add_row(*(f"{value:,.0f}" if isinstance(value, float) else str(value) for value in rows[-1]))
    Console(width=140).print(table)
    if args.record:
        print(record(rows, "offline", COLUMNS))


def write_copies(source: Path, out: Path, copies: int) -> int:
    """The log with every user so many times; the number of its events."""
    events = scan_events(source).frame
    named = [events.with_columns(pl.format("{}-{}", "user_id", pl.lit(copy))) for copy in range(copies)]
    pl.concat(named).sink_parquet(out)
    return pl.scan_parquet(out).select(pl.len()).collect().item()


def run(model: Path, log: Path, out: Path, k: int, cores: int) -> dict[str, float]:
    """One job in a process of its own; what it says, checked for having k items for every user."""
    command = [sys.executable, "-c", RUN, *map(str, (model, log, out, k, cores))]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    written = pl.scan_parquet(out).group_by("user_id").len().collect()
    if len(written) != found["users"] or (written["len"] != k).any():
        sys.exit(f"{out} has {len(written)} users with {written['len'].unique().to_list()} items, not {k} each")
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument(
        "--record", action="store_true", help="append to benchmarks/record/<machine>/<date>-offline.tsv"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
