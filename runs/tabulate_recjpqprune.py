"""The section of docs/results.md about RecJPQPrune's experiments, from the files of `runs/recjpqprune.sh`."""

import json
from pathlib import Path
from typing import Any

from charts import draw_falling

HEAD = """
## RecJPQPrune's experiments on real models

Made by `runs/recjpqprune.sh` (arXiv:2505.00560): queries of real users, K = 10, one query at a time, one thread; us,
median / p95. Every answer is compared with PQTopK's, ids and score bits. RecJPQPrune is our own C++ of it, 8 sub-items
per step; above 100 %, items were scored more than once, as several of their sub-items led to them.

"""
SAFETY = "\nOf {total:,} queries, answered otherwise than by PQTopK, in an id or a bit of a score: {said}.\n"
SLOW = """
Who is slow? The slowest 5 % of the users against the others; gap: what an item may lose and still enter, 1 being what
the mean sub-items lose. The last column is the rank correlation of time and gap over users.

| model | search | us, slowest | others | scored, slowest | others | gap, slowest | others | time and gap |
|---|---|--:|--:|--:|--:|--:|--:|--:|
"""
PICTURE = "\n![how scores fall](results/recjpqprune.svg)\n"


def recjpqprune_section(folder: Path, pictures: Path) -> str:
    """Tables over models, and the picture of the slow users; empty where nothing was run."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not found:
        return ""
    timed = [result for result in found if "methods" in result]
    if not timed:
        return HEAD + _safety(found)
    draw_falling(timed, pictures / "recjpqprune.svg")
    heads = [_head(result) for result in timed]
    names = list(dict.fromkeys(line["algorithm"] for result in timed for line in result["methods"]))
    parts = [
        HEAD,
        _grid("method", heads, names, [{x["algorithm"]: x for x in result["methods"]} for result in timed], _times),
    ]
    parts.append("\nItems scored:\n\n" + _grid("method", heads, ["recjpqprune", "bounded_scan", "block_prune"],
        [{x["algorithm"]: x for x in result["methods"]} for result in timed], _scored))  # fmt: skip
    steps = [x["algorithm"] for x in timed[0]["steps"]]
    parts.append("\nSub-items that RecJPQPrune processes per step:\n\n" + _grid("sub-items", heads, steps,
        [{x["algorithm"]: x for x in result["steps"]} for result in timed], _steps))  # fmt: skip
    parts.append("\nResults per query:\n\n" + _grid("search, K", heads, list(dict.fromkeys(map(_k, timed[0]["ks"]))),
        [{_k(x): x for x in result["ks"]} for result in timed], _both))  # fmt: skip
    return "".join(parts) + _safety(found) + SLOW + "".join(map(_slow, timed)) + PICTURE


def _head(result: dict[str, Any]) -> str:
    return f"{result['catalogue']}, {result['items']:,} items, M = {result['num_splits']}"


def _grid(first: str, heads: list[str], names: list[str], columns: list[dict[str, Any]], cell: Any) -> str:
    lines = [f"| {first} | {' | '.join(heads)} |", f"|---{'|--:' * len(heads)}|"]
    for name in names:
        lines.append(f"| {name} | {' | '.join(cell(column[name]) if name in column else '' for column in columns)} |")
    return "\n".join(lines) + "\n"


def _times(line: dict[str, Any]) -> str:
    tail = line["p95_us"]
    return f"{line['median_us']:,.0f} / {'-' if tail is None else f'{tail:,.0f}'}"


def _scored(line: dict[str, Any]) -> str:
    return f"{line['scored']:.2%}"


def _both(line: dict[str, Any]) -> str:
    return f"{_times(line)}, {_scored(line)}"


def _steps(line: dict[str, Any]) -> str:
    return f"{_both(line)}, {line['iterations']:,.0f} steps"


def _k(line: dict[str, Any]) -> str:
    return f"{line['algorithm']}, K = {line['k']}"


def _safety(found: list[dict[str, Any]]) -> str:
    asked = [result for result in found if "safety" in result]
    if not asked:
        return ""
    said = [
        f"{sum(result['safety']['mismatches'].values())} of {result['safety']['queries']:,} "
        f"by any of {len(result['safety']['mismatches'])} algorithms ({result['catalogue']})"
        for result in asked
    ]
    total = sum(result["safety"]["queries"] for result in asked)
    return SAFETY.format(total=total, said=", ".join(said))


def _slow(result: dict[str, Any]) -> str:
    lines = []
    for search, found in result["users"].items():
        pairs = [(found["slowest"][key], found["others"][key]) for key in ("median_us", "scored", "gap")]
        cells = (
            [f"{us:,.0f}" for us in pairs[0]]
            + [f"{share:.2%}" for share in pairs[1]]
            + [f"{gap:.2f}" for gap in pairs[2]]
        )
        lines.append(f"| {result['catalogue']} | {search} | {' | '.join(cells)} | {found['time_and_gap']:.2f} |\n")
    return "".join(lines)
