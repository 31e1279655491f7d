"""The section of docs/results.md about code strategies, from the files that `runs/codes.sh` wrote."""

import json
from pathlib import Path
from typing import Any

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
