"""The sections of docs/results.md about codes, from what `runs/codes.sh` and `runs/code_sizes.sh` wrote."""

import json
from pathlib import Path
from typing import Any

from charts import draw_code_sizes

STRATEGIES = ("dense", "kmeans", "hybrid", "svd-rank", "svd", "bpr", "random")
HEAD = """
## Which codes?

Made by `EVERYITEM_DATA=... runs/codes.sh WORK`: SASRec with {num_splits} bytes per item, {minutes:g} minute of training
on one thread, all else equal; NDCG@10 on the test users as above. **The time is short**: no model here has finished
learning, so this says which codes learn fast, not which are best in the end. "dense" spends half of its minute on the
dense model that its codes come from. Minutes are of the clock, and other processes shared the core: models of one data
set made different numbers of updates, which stand in the second table ("dense": those after its dense start).

"""
ABOUT_CODES = """
Items that shared their whole code with another before ties were broken / seconds to assign the codes / updates:

"""
SEARCHES = ("recjpqprune", "block_prune", "bounded_scan")
SIZES_HEAD = """
## How large must codes be?

Made by `EVERYITEM_DATA=... runs/code_sizes.sh WORK {epochs}`: SASRec with k-means codes of M bytes, B sub-items per
split and D dimensions, and with a vector per item (dense); {epochs} passes over the log for all, vectors alone, one
seed. Bytes are of an item's code, or vector, and its share of the codebooks. Cells of the searches: items scored,
median microseconds; top 10 of 1,000 real queries, one thread, exact. Seconds are of a core that others shared.
"""


def codes_section(folder: Path) -> str:
    """NDCG@10 by strategy and data set, then what the codes are like; empty where nothing was run."""
    found = {
        path.name: {name: _read(path / f"{name}.json") for name in STRATEGIES if (path / f"{name}.json").is_file()}
        for path in sorted(folder.glob("*"))
    }
    if not found:
        return ""
    settings = next(result["settings"] for results in found.values() for result in results.values())
    return HEAD.format(**settings) + _table(found, _ndcg) + ABOUT_CODES + _table(found, _coding)


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def _table(found: dict[str, dict[str, Any]], cell: Any) -> str:
    lines = [f"| codes | {' | '.join(found)} |", f"|---{'|--:' * len(found)}|"]
    for strategy in STRATEGIES:
        cells = [cell(strategy, results) if strategy in results else "not run" for results in found.values()]
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _ndcg(strategy: str, results: dict[str, Any]) -> str:
    value, low, high = (results[strategy]["ndcg@10"][key] for key in ("value", "low", "high"))
    text = f"{value:.4f} ± {(high - low) / 2:.4f}"
    return f"**{text}**" if value == max(result["ndcg@10"]["value"] for result in results.values()) else text


def _coding(strategy: str, results: dict[str, Any]) -> str:
    result = results[strategy]
    return f"{result['ties']['tied_before']:,} / {result['coding_seconds']:.1f} / {result['updates']:,}"


def code_sizes_section(folder: Path, pictures: Path) -> str:
    """NDCG@10, training seconds and searches by M, B and D; a picture of quality against bytes."""
    parts = []
    for path in sorted(folder.glob("*")):
        found = {file.stem: _read(file) for file in path.glob("*.json")}
        shapes = sorted((name for name in found if name != "dense"), key=lambda name: _shape(found[name]))
        rows = [_size_row(name, found[name]) for name in (*shapes, *(("dense",) if "dense" in found else ()))]
        picture = pictures / f"code-sizes-{path.name}.svg"
        draw_code_sizes(rows, picture, f"Quality against bytes per item, {path.name}")
        heads = ("NDCG@10", "bytes per item", "training s", *SEARCHES)
        parts.append(f"\n**{path.name}**, {rows[0]['items']:,} items\n\n| codes | {' | '.join(heads)} |\n")
        parts.append(f"|---{'|--:' * len(heads)}|\n" + "".join(map(_size_line, rows)))
        parts.append(f"\n![Quality against bytes per item, {path.name}](results/{picture.name})\n")
    if not parts:
        return ""
    epochs = next(_read(file) for file in folder.glob("*/*.json"))["settings"]["epochs"]
    return SIZES_HEAD.format(epochs=epochs) + "".join(parts)


def _shape(result: dict[str, Any]) -> tuple[int, int, int]:
    settings = result["settings"]
    return settings["dim"], settings["num_splits"], settings["num_sub_items"]


def _size_row(name: str, result: dict[str, Any]) -> dict[str, Any]:
    dim, num_splits, num_sub_items = _shape(result)
    items, dense = result["num_items"], name == "dense"
    stored = 4 * dim if dense else num_splits + 4 * num_sub_items * dim / items
    head = {"codes": "dense" if dense else f"M = {num_splits}, B = {num_sub_items}, D = {dim}", "bytes": stored}
    head |= {
        "D": f"{'dense, ' if dense else ''}D = {dim}, B = {num_sub_items}".removesuffix(", B = 256"),
        "items": items,
    }
    searches = {line["algorithm"]: line for line in result.get("search", {"algorithms": []})["algorithms"]}
    return head | result["ndcg@10"] | {"seconds": result["training"]["training_seconds"], "searches": searches}


def _size_line(row: dict[str, Any]) -> str:
    lines = [row["searches"].get(name) for name in SEARCHES]
    cells = ("" if line is None else f"{line['scored']:.1%}, {line['median_us']:.0f} us" for line in lines)
    quality = f"{row['value']:.4f} ± {(row['high'] - row['low']) / 2:.4f}"
    return f"| {row['codes']} | {quality} | {row['bytes']:.1f} | {row['seconds']:.0f} | {' | '.join(cells)} |\n"
