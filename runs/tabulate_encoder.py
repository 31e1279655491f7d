"""The sections of docs/results.md about the encoder, from the newest records: latency, training speed."""

from pathlib import Path

from speed_records import Row, newest

LATENCY = ("catalogue", "items", "dim", "blocks", "backbone", "precision", "length", "queries", "stage")
TRAINING = ("who", "items", "dim", "loss", "negatives")
LATENCY_HEAD = """
## From a history to a list

Made by `python benchmarks/latency.py --record`: ids of a history in, ids of the ten best items out, {items:,} items
with text ids, D = {dim}, {blocks} blocks, {queries} queries, one thread, median (p99) in milliseconds by the {clock}
clock; answers are checked before. `recommend` is the whole call, the stages below it are timed one by one. A session
has the rest of the history behind it: one more click is encoded alone. int8 and bf16 answer only where 99 % of the ten
best items stay.

"""
TRAINING_HEAD = """
## How fast is training?

Made by `python benchmarks/training.py --peers PEERS/bin/python --record`: targets predicted per second and the largest
resident memory, SASRec of the same size everywhere (two blocks, one head, histories of 50), one thread, medians of
rounds that take turns. Ours computes in bf16 where the CPU has it, which is part of the difference.

"""


def latency_section(records: Path) -> str:
    """Stages down, histories and precisions across; empty where nothing was measured."""
    rows = newest(records, "latency", LATENCY)
    if not rows:
        return ""
    columns = list(dict.fromkeys((row["backbone"], row["precision"], row["length"]) for row in rows))
    cells = {(row["stage"], (row["backbone"], row["precision"], row["length"])): row for row in rows}
    heads = [f"{backbone} {precision}, {length} events" for backbone, precision, length in columns]
    lines = [f"| ms | {' | '.join(heads)} |", f"|---{'|--:' * len(heads)}|"]
    for stage in dict.fromkeys(row["stage"] for row in rows):
        found = (cells.get((stage, column)) for column in columns)
        shown = ("" if row is None else f"{row['median_ms']:.2f} ({row['p99_ms']:.2f})" for row in found)
        lines.append(f"| {stage} | {' | '.join(shown)} |")
    return LATENCY_HEAD.format(**rows[0]) + "\n".join(lines) + "\n"


def training_section(records: Path) -> str:
    """Ways to train down, catalogues across; a ratio against the fastest peer with the same loss."""
    rows = newest(records, "training", TRAINING)
    if not rows:
        return ""
    lines = [
        "| | items | D | loss | positions/s | against the fastest peer | peak MB |",
        "|---|--:|--:|---|--:|--:|--:|",
    ]
    for row in rows:
        loss = row["loss"] + (f", {row['negatives']}" if row["negatives"] else "")
        lines.append(
            f"| {row['who']} | {row['items']:,} | {row['dim']} | {loss} | {row['positions_per_second']:,.0f} "
            f"| {_ratio(row, rows)} | {row['peak_mb']:,.0f} |"
        )
    return TRAINING_HEAD + "\n".join(lines) + "\n"


def _ratio(row: Row, rows: list[Row]) -> str:
    same = [r for r in rows if all(r[name] == row[name] for name in ("items", "dim", "loss", "negatives"))]
    peers = [r["positions_per_second"] for r in same if not r["who"].startswith("everyitem")]
    if not peers or not row["who"].startswith("everyitem"):
        return ""
    return f"{row['positions_per_second'] / max(peers):.1f} x"
