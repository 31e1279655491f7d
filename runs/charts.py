"""The pictures of docs/results.md about speed, drawn from records. Computes nothing but what is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from everyitem.evaluate.report import styled

Row = dict[str, Any]
OURS, PAPERS, PEERS = "#c8553d", "#3f6f9f", "#8a949f"
KIND = {
    **{"planner": OURS, "bounded_scan": "#e08e45", "block_prune": "#f0b429"},
    **{"pqtopk": PAPERS, "recjpq": "#7fb0d6", "recjpqprune": "#1f3d5c"},
    **{"faiss IndexPQ": "#4c7a4c", "PQTopK, NumPy": "#8fb98f", "PQTopK, torch": "#5b8f7b"},
    **{"dense, C++": "#8a6d9c", "dense, torch": "#b79bc9"},
}


def draw_growth(rows: Sequence[Row], path: Path, title: str) -> None:
    """Milliseconds per query against the size of the catalogue, both in logarithms, a panel per catalogue."""
    data = pl.DataFrame(
        [
            {name: row[name] for name in ("catalogue", "items", "algorithm")} | {"ms": row["median_us"] / 1e3}
            for row in rows
            if row["algorithm"] in KIND
        ]
    )
    shown = [name for name in KIND if name in set(data["algorithm"])]
    colour = alt.Color("algorithm:N", sort=shown, title=None).scale(domain=shown, range=[KIND[name] for name in shown])
    x = alt.X("items:Q", title="items").scale(type="log").axis(format="~s", values=[10**n for n in range(3, 10)])
    y = alt.Y("ms:Q", title="ms per query (median)").scale(type="log").axis(format="~g")
    lines = alt.Chart().mark_line(strokeWidth=2.2).encode(x, y, colour)
    points = alt.Chart().mark_point(filled=True, size=42).encode(x, y, colour)
    panel = alt.layer(lines, points, data=data).properties(width=360, height=340)
    chart = panel.facet(
        alt.Facet("catalogue:N", title=None),
        columns=2,
        spacing=36,
        title=alt.Title(title, subtitle="one query at a time on one thread; K = 10, M = 8, D = 512"),
    )
    styled(chart).save(str(path))


def draw_steps(rows: Sequence[Row], path: Path, title: str) -> None:
    """Milliseconds and megabytes of a training step against the size of the catalogue, a panel each."""
    panels = {"median_ms": "ms per step", "peak_mb": "MB per step"}
    data = pl.DataFrame(
        [
            {"items": row["items"], "loss": row["loss"], "panel": said, "value": row[name]}
            for row in rows
            for name, said in panels.items()
        ]
    )
    scale = alt.Scale(domain=["two-level softmax", "full softmax", "sampled softmax"], range=[OURS, PAPERS, PEERS])
    colour = alt.Color("loss:N", title=None, scale=scale)
    x = alt.X("items:Q", title="items").scale(type="log").axis(format="~s", values=[10**n for n in range(3, 8)])
    y = alt.Y("value:Q", title=None).scale(type="log").axis(format="~g")
    lines = alt.Chart().mark_line(strokeWidth=2.2).encode(x, y, colour)
    points = alt.Chart().mark_point(filled=True, size=42).encode(x, y, colour)
    panel = alt.layer(lines, points, data=data).properties(width=320, height=280)
    facets = panel.facet(alt.Facet("panel:N", title=None), columns=2, spacing=36, title=alt.Title(title))
    styled(facets.resolve_scale(y="independent")).save(str(path))


def draw_code_sizes(rows: Sequence[Row], path: Path, title: str) -> None:
    """NDCG@10 with its interval against bytes per item, a line per width and number of sub-items."""
    data = pl.DataFrame([{name: row[name] for name in ("D", "bytes", "value", "low", "high")} for row in rows])
    colour = alt.Color("D:N", title=None, sort=data["D"].unique(maintain_order=True).to_list())
    x = alt.X("bytes:Q", title="bytes per item, codebooks included").scale(type="log").axis(format="~s", tickCount=5)
    y = alt.Y("value:Q", title="NDCG@10").scale(zero=True)
    lines = alt.Chart(data).mark_line(strokeWidth=2).encode(x, y, colour)
    points = alt.Chart(data).mark_point(filled=True, opacity=1, size=50).encode(x, y, colour)
    rules = alt.Chart(data).mark_rule(opacity=0.5).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), colour)
    title_ = alt.Title(title, subtitle="bars: 95 % bootstrap interval over users")
    styled(alt.layer(lines, rules, points).properties(width=480, height=320, title=title_)).save(str(path))


def draw_recall(rows: Sequence[Row], path: Path, title: str) -> None:
    """Recall against the time of approximate searches, a line per kind; exact ones stand at 1."""
    data = pl.DataFrame(
        [
            {
                "family": _family(row["algorithm"]) if row["recall"] is not None else row["algorithm"],
                "recall": 1.0 if row["recall"] is None else row["recall"],
                "us": row["median_us"],
                "exact": row["recall"] is None,
            }
            for row in rows
            if row["recall"] is not None or row["algorithm"] in ("planner", "pqtopk", "faiss IndexPQ")
        ]
    )
    colour = alt.Color("family:N", title=None, sort=data["family"].unique(maintain_order=True).to_list())
    x = alt.X("us:Q", title="microseconds per query (median)").scale(type="log").axis(format="~s", tickCount=5)
    y = alt.Y("recall:Q", title="recall@10").scale(domain=[0, 1.02], clamp=True)
    lines = alt.Chart(data).mark_line(strokeWidth=2).encode(x, y, colour, order="us:Q")
    shape = alt.Shape("exact:N", legend=None).scale(domain=[False, True], range=["circle", "diamond"])
    size = alt.condition(alt.datum.exact, alt.value(130), alt.value(50))
    points = alt.Chart(data).mark_point(filled=True, opacity=1).encode(x, y, colour, shape=shape, size=size)
    title_ = alt.Title(title, subtitle="one query at a time on one thread; diamonds are exact")
    styled(alt.layer(lines, points).properties(width=480, height=320, title=title_)).save(str(path))


def draw_falling(results: Sequence[dict[str, Any]], path: Path, algorithm: str = "recjpqprune") -> None:
    """How sub-items' scores fall from the best of every split: the slowest 5 % of the users against the others.

    The line at the height of a group's gap says how far a search must look before nothing else can enter.
    """
    curves, gaps = [], []
    for result in results:
        found = result["users"][algorithm]
        for group in ("slowest", "others"):
            label = f"{group}: {found[group]['median_us']:,.0f} us" if len(results) == 1 else group
            low, middle, high = found[group]["curve"]
            head = {"model": result["catalogue"], "users": label}
            curves += [
                head | {"rank": rank + 1, "low": a, "share": b, "high": c}
                for rank, a, b, c in zip(found["ranks"], low, middle, high, strict=True)
            ]
            gaps.append(head | {"threshold": 1 - found[group]["gap"]})
    models = [result["catalogue"] for result in results]
    # one table for all layers, as a faceted chart needs: rows of gaps have no rank
    data = pl.concat([pl.DataFrame(curves), pl.DataFrame(gaps)], how="diagonal")
    scale = alt.Scale(range=[PEERS, OURS])
    colour = alt.Color("users:N", title=None, scale=scale, sort="ascending")
    x = (
        alt.X("rank:Q", title="rank of the sub-item in its split")
        .scale(type="log", domain=[1, 256])
        .axis(format="d", values=[1, 4, 16, 64, 256])
    )
    band = (
        alt.Chart()
        .mark_area(opacity=0.22)
        .encode(x, alt.Y("low:Q", title="score: 1 best, 0 mean"), alt.Y2("high:Q"), colour)
    )
    line = alt.Chart().mark_line(strokeWidth=2.2).encode(x, alt.Y("share:Q"), colour)
    rule = alt.Chart().mark_rule(strokeDash=[5, 4], strokeWidth=1.4).encode(alt.Y("threshold:Q"), colour)
    chart = alt.layer(band, line, rule, data=data).properties(width=240, height=230)
    faceted = chart.facet(
        alt.Facet("model:N", sort=models, title=None),
        columns=3,
        spacing=36,
        title=alt.Title(
            f"Who is slow with {algorithm}?",
            subtitle="sub-items' scores summed over splits: median, 10-90 % of users; dashed: the K-th best item",
        ),
    )
    styled(faceted).save(str(path))


def _family(algorithm: str) -> str:
    """The name without the setting that was swept: numbers go."""
    words = [
        word
        for word in algorithm.split()
        if not word.isdigit() and word not in ("ef", "nprobe", "expansion", "of", "leaves")
    ]
    name = " ".join(words)
    return "faiss PQ fast scan" if "x4fs" in name else name
