"""The section of docs/results.md about pruned language models, from the files that `runs/prunerec.sh` wrote."""

import json
from pathlib import Path
from typing import Any

from everyitem.evaluate.report import Row, styled, write_bar_chart

METHODS = ("teacher", "prunerec", "paper", "random", "wanda", "magnitude", "taylor", "shortgpt")
METRICS = ("recall@20", "ndcg@20")
HEAD = """
## Pruned language models: {set}

Made by `EVERYITEM_DATA=... runs/prunerec.sh WORK {set}`. The teacher is a Qwen2-shaped model with a tokenizer of its
own, trained from nothing for {minutes:g} minutes ({updates:,} updates, {passes:.2f} passes over the titles of all
training histories); it recommends by writing the next title, beam 20 over titles that exist. Every method prunes it to
the same sizes and restores each stage for {restored:g} minutes with the teacher's answers, on one thread of a
shared core. {users:,} test users, whole catalogue, leave one out; ± is half the 95 % interval. "of teacher":
Recall@20 and NDCG@20 over the teacher's. inside: parameters without the embeddings. Updates: of every restoration.
Perplexity: of the last cut, and in the end. ms: reading one row without beam, at the time of pruning.

"""
READING = """
`paper`: importances as the published code computes them. `shortgpt`: PruneRec's width, layers by block influence.
`at-once`: one cut, then one restoration as long as three. Seeds are numbered.
"""


LATENCY = """
## What pruning wins at the shape of a real language model

Made by `benchmarks/prunerec_latency.py --out docs/results/prunerec/latency.json`: {shape}'s shape with random weights,
cut to {sizes}: {share:.1%} of the parameters outside the embeddings. float32, one thread, median of the
processor's time, whole and pruned in turns. The output table, which is not cut in tokens, is part of both.

"""


def prunerec_section(folder: Path, pictures: Path) -> str:
    """Tables and pictures of every data set there is; empty where nothing was run."""
    sections = [_section(path, pictures) for path in sorted(folder.glob("*")) if (path / "teacher.json").is_file()]
    latency = folder / "latency.json"
    return "".join(sections) + (_latency(json.loads(latency.read_text())) if latency.is_file() else "")


def _latency(record: dict[str, Any]) -> str:
    sizes = ", ".join(f"{size:,} {name.replace('_', '-')}" for name, size in record["sizes"].items())
    lines = ["| | whole ms | pruned ms | ratio |", "|---|--:|--:|--:|"]
    for label, name in ((f"read {record['prompt']} tokens", "reading_ms"), ("write one token", "writing_ms")):
        whole, pruned = record[name]
        lines.append(f"| {label} | {whole:.1f} | {pruned:.1f} | {whole / pruned:.1f} |")
    return LATENCY.format(**record | {"sizes": sizes}) + "\n".join(lines) + "\n"


def _section(folder: Path, pictures: Path) -> str:
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    pruned = {name: one for name, one in found.items() if "prunerec" in one}
    if not pruned:
        return ""
    teacher = found["teacher"]
    settings = next(iter(pruned.values()))["prunerec"]["settings"]
    head = HEAD.format(set=folder.name, restored=settings["minutes"], users=teacher["users"], **teacher["training"])
    order = [name for name in METHODS if name in found] + sorted(set(found) - set(METHODS))
    lines = [
        "| model | parameters | inside | share | updates | perplexity cut | restored | Recall@20 | NDCG@20 "
        "| of teacher | ms |"
    ]
    lines.append("|---" + "|--:" * 10 + "|")
    lines += [_other(name, one) for name, one in teacher.get("others", {}).items()]
    before = next(iter(pruned.values()))["prunerec"]["before"]
    lines += [_line(name, found[name], teacher, before) for name in order]
    names = [*teacher.get("others", {}), *order]
    everything = teacher.get("others", {}) | found
    rows = [Row(name, metric, **everything[name][metric]) for metric in METRICS for name in names]
    write_bar_chart(rows, pictures / f"prunerec-{folder.name}.svg", title=folder.name, highlight="prunerec")
    _activity_chart(teacher["activity"], pictures / f"prunerec-activity-{folder.name}.svg")
    kinds = {"": "Recall and NDCG", "activity-": "who is active"}
    links = "".join(f"\n![{said}](results/prunerec-{kind}{folder.name}.svg)\n" for kind, said in kinds.items())
    return head + "\n".join(lines) + "\n" + READING + links


def _line(name: str, one: dict[str, Any], teacher: dict[str, Any], before: dict[str, Any]) -> str:
    kept = " / ".join(f"{one[metric]['value'] / max(teacher[metric]['value'], 1e-12):.0%}" for metric in METRICS)
    quality = [_estimate(one[metric]) for metric in METRICS]
    if "prunerec" not in one:
        sizes = f"{before['parameters']:,} | {before['parameters_without_embeddings']:,} | 100.0%"
        return f"| {name} | {sizes} | | | {before['perplexity']:.1f} | {' | '.join(quality)} | 100% | |"
    report = one["prunerec"]
    after, cut = report["after"], report["stages"][-1]["cut"]
    inside = after["parameters_without_embeddings"]
    cells = [
        f"{after['parameters']:,}",
        f"{inside:,}",
        f"{inside / before['parameters_without_embeddings']:.1%}",
        " + ".join(f"{stage['updates']:,}" for stage in report["stages"] if "updates" in stage),
        f"{cut['perplexity']:.1f}",
        f"{after['perplexity']:.1f}",
        *quality,
        kept,
        f"{before['prefill_ms']['median']:.1f} -> {after['prefill_ms']['median']:.1f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _other(name: str, one: dict[str, Any]) -> str:
    return f"| *{name}* | | | | | | | {' | '.join(_estimate(one[metric]) for metric in METRICS)} | | |"


def _estimate(one: dict[str, float]) -> str:
    return f"{one['value']:.4f} ± {(one['high'] - one['low']) / 2:.4f}"


def _activity_chart(activity: dict[str, dict[str, list[float]]], path: Path) -> None:
    """The paper's long tail: which share of all activity the most active dimensions have, before and after training."""
    import altair as alt
    import polars as pl

    parts = {"attention": "attention, what the heads hand on", "product": "feed-forward, what the neurons hand on"}
    points = [
        {"training": when, "part": parts[part], "dimensions": (place + 1) / len(shares), "activity": share}
        for when, curves in activity.items()
        for part, shares in curves.items()
        for place, share in enumerate(shares)
    ]
    chart = (
        alt.Chart(pl.DataFrame(points))
        .mark_line(strokeWidth=2)
        .encode(
            alt.X("dimensions:Q", title="share of the dimensions, most active first", axis=alt.Axis(format="%")),
            alt.Y("activity:Q", title="share of the activity", axis=alt.Axis(format="%")),
            alt.Color("training:N", sort=["before", "after"], scale=alt.Scale(range=["#9aa7b4", "#c8553d"])),
        )
        .properties(width=300, height=240)
        .facet(alt.Facet("part:N", title=None))
    )
    styled(chart).save(str(path))


if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parent.parent / "docs" / "results"
    print(prunerec_section(ROOT / "prunerec", ROOT))
