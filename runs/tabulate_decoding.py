"""The section of docs/results.md about items that are written token by token, from the files of `efficient_ids.sh`."""

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

from everyitem.evaluate.report import styled

HEAD = """
## Single-step decoding against items written token by token

Made by `EVERYITEM_DATA=... runs/efficient_ids.sh WORK <data set> decoding` (`benchmarks/decoding.py`): the same
backbone and split for all rows of a data set, vectors alone. Single-step models answer in one pass and search an index;
semantic ids and titles are written token by token, with kept keys and values and beams that share their prompt. One
user at a time on one thread, history in, top-10 out, in turns of twenty users; the ratio is to the fastest single-step
way. Passes: calls of the model per recommendation. Proved: users for whom no better item exists, as the search itself
says; found: share of the exact top-10 that it holds.

"""
METRICS = ("ndcg@10", "recall@10")
COLUMNS = ("way", "NDCG@10", "Recall@10", "ms median", "ms p95", "ratio", "passes", "items scored", "proved", "found")


def decoding_section(folder: Path, pictures: Path) -> str:
    """A table and a picture per data set; empty where nothing was run."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    for name, result in found.items():
        _chart(name, result["methods"], pictures / f"decoding-{name}.svg")
    return HEAD + "\n".join(_table(name, result) for name, result in found.items()) if found else ""


def _table(name: str, result: dict[str, Any]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|---{'|--:' * (len(COLUMNS) - 1)}|"]
    lines += [f"| {way} | {' | '.join(_cells(row))} |" for way, row in result["methods"].items()]
    users = f"{result['quality_users']:,} users for quality, {result['users']:,} timed; {result['machine']}"
    picture = f"\n![{name}](results/decoding-{name}.svg)\n"
    return f"{name}: {users}.\n\n" + "\n".join(lines) + "\n" + picture


def _chart(name: str, methods: dict[str, Any], path: Path) -> None:
    """Quality over time, and how sure of it we are; of beams the narrowest."""
    import altair as alt
    import polars as pl

    common = sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*methods, strict=False)))
    # a model's beams come by width, the exact search last
    first = {way if way.endswith("bigrec") else way.split(" ")[0]: way for way in reversed(methods)}
    shown = {way: row for way, row in methods.items() if way in first.values()}
    points = [
        row["ndcg@10"]
        | {"way": way[common:], "ms": row["median_ms"], "kind": "written" if row["calls"] > 1 else "one pass"}
        for way, row in shown.items()
    ]
    colour = alt.Color(
        "kind:N", title=None, scale=alt.Scale(domain=["one pass", "written"], range=["#c8553d", "#5b7a99"])
    )
    time = alt.X("ms:Q", title="milliseconds per recommendation, median", scale=alt.Scale(type="log"))
    base = alt.Chart(pl.DataFrame(points)).properties(width=620, height=360, title=name)
    bars = base.mark_rule(opacity=0.5).encode(time, alt.Y("low:Q", title="NDCG@10"), alt.Y2("high:Q"), colour)
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(time, alt.Y("value:Q"), colour)
    names = base.mark_text(align="left", dx=7, dy=-6, fontSize=11).encode(time, alt.Y("value:Q"), text="way:N")
    styled(bars + dots + names).save(str(path))


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        *(f"{row[m]['value']:.4f} ± {(row[m]['high'] - row[m]['low']) / 2:.4f}" for m in METRICS),
        f"{row['median_ms']:.2f}",
        f"{row['p95_ms']:.2f}",
        f"{row['ratio']:.1f}",
        f"{row['calls']:.1f}",
        f"{row['scored']:,.0f}",
        "" if row["proved"] is None else f"{row['proved']:.0%}",
        "" if row["found"] is None else f"{row['found']:.1%}",
    ]
