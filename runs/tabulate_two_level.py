"""The section of docs/results.md about two levels, from the records of `benchmarks/two_level.py` and `new_items.py`."""

import json
from pathlib import Path
from typing import Any

import polars as pl
from charts import draw_steps

HEAD = """
## Two-level softmax

Made by `benchmarks/two_level.py train` and `search`, with `--record`, and by `benchmarks/new_items.py`; answers were
checked before anything was timed. One thread; times are those of the processor, median, as the machine was shared.
"""
STEP = """
**A training step**: the loss of {positions} positions and its gradient, D = {dim}, clusters: the root of the items.
MB is what the process grows by beyond items and hidden states; in brackets the part of it that is the gradient of all
item vectors, whatever the loss. Adam over all item vectors comes on top, alike for all losses.

![time and memory against items](results/two-level.svg)

| items | {losses} | full / two-level | Adam ms |
|--:{dashes}|--:|--:|
"""
SEARCH = """
**A search**: the exact top-K under the two levels against the largest inner products of all items (`DenseIndex`), one
query at a time, D = {dim}; microseconds. Generated catalogues: `concentrated` and `diffuse` differ in how sharply
queries prefer what is near.

| catalogue | items | K | two-level | p95 | dense | dense / two-level | items scored |
|---|--:|--:|--:|--:|--:|--:|--:|
"""
NEW = """
**Items that training never saw**, {kind} items: {log}, {share:.0%} of the items ({items:,}) left out of training and
then added; {users:,} users whose last event is one of them, {known:,} others. NDCG@10 (Recall@10), seen items allowed.

| new items placed by | among all items | among the new ones | others' NDCG@10 |
|---|--:|--:|--:|
"""
WAYS = {
    "random": "chance: three of any",
    "text": "three similar titles",
    "neighbours": "what came before them for up to 3 users",
    "rebalanced": "three similar titles, clusters halved",
    "trained": "training with them",
}


def two_level_section(records: Path, results: Path) -> str:
    """Tables and a picture; empty where nothing was run."""
    parts = []
    steps = _newest(records, "two-level-train", ["items", "loss", "dim", "positions"])
    if steps is not None:
        parts.append(_steps(steps, results))
    found = _newest(records, "two-level-search", ["catalogue", "items", "k", "algorithm"])
    if found is not None:
        parts.append(_search(found))
    parts += [_new_items(json.loads(path.read_text())) for path in sorted((results / "new-items").glob("*.json"))]
    return HEAD + "".join(parts) if parts else ""


def _newest(records: Path, question: str, key: list[str]) -> pl.DataFrame | None:
    """The newest record; of rows about the same thing only the last, smallest catalogues first."""
    paths = sorted(records.glob(f"*/*-{question}.tsv"), key=lambda path: path.name)
    if not paths:
        return None
    return pl.read_csv(paths[-1], separator="\t").unique(key, keep="last", maintain_order=True).sort("items", key[0])


def _steps(rows: pl.DataFrame, results: Path) -> str:
    losses = rows["loss"].unique(maintain_order=True).sort(descending=True).to_list()
    draw_steps(rows.to_dicts(), results / "two-level.svg", "A training step and the size of the catalogue")
    lines = []
    for (items,), group in rows.group_by("items", maintain_order=True):
        of = {row["loss"]: row for row in group.to_dicts()}
        cells = [
            f"{_ms(of[x]['median_ms'])} ms, {of[x]['peak_mb']:,.0f} MB ({of[x]['gradient_mb']:,.0f})" for x in losses
        ]
        two, full = of["two-level softmax"], of["full softmax"]
        adam = _ms(two["adam_ms"])
        lines.append(f"| {items:,} | {' | '.join(cells)} | {full['median_ms'] / two['median_ms']:,.1f} | {adam} |\n")
    first = rows.row(0, named=True)
    head = STEP.format(**first | {"losses": " | ".join(losses), "dashes": "|--:" * len(losses)})
    return head + "".join(lines)


def _search(rows: pl.DataFrame) -> str:
    lines = []
    for (name, items, k), group in rows.sort("catalogue", "items", "k").group_by(
        "catalogue", "items", "k", maintain_order=True
    ):
        of = {row["algorithm"]: row for row in group.to_dicts()}
        two, dense = of["two-level"], of["dense"]
        times = " | ".join(
            f"{us:,.0f}" for us in (two["median_us"], two["p95_us"] or two["mean_us"], dense["median_us"])
        )
        ratio, scored = dense["median_us"] / two["median_us"], two["scored"]
        lines.append(f"| {name} | {items:,} | {k} | {times} | {ratio:.1f} | {scored:.1%} |\n")
    return SEARCH.format(dim=rows["dim"][0]) + "".join(lines)


def _new_items(found: dict[str, Any]) -> str:
    def cell(figures: dict[str, float]) -> str:
        return f"{figures['ndcg@10']:.4f} ({figures['recall@10']:.4f})"

    counts = {
        "items": found["new items"],
        "users": found["new users"],
        "known": found["known users"],
        "kind": found["settings"]["items"],
    }
    lines = [
        f"| {said} | {cell(found[way]['all'])} | {cell(found[way]['new'])} | "
        f"{'' if 'others' not in found[way] else format(found[way]['others']['ndcg@10'], '.4f')} |\n"
        for way, said in WAYS.items()
        if way in found
    ]
    lines.append(f"| *before they were added* | | | {found['before']['ndcg@10']:.4f} |\n")
    text = NEW.format(**counts, **{name: found[name] for name in ("log", "share")}) + "".join(lines)
    if "rebalanced" in found:
        (was, largest), (now, halved) = found["rebalanced"]["clusters, largest"]
        overlap = found["rebalanced"]["overlap@10"]
        text += (
            f"\nHalving took {was} clusters of up to {largest} items to {now} of up to {halved}; of the others' ten "
            f"best items {overlap:.1%} stayed.\n"
        )
    return text


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
