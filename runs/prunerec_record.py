"""What `prunerec.sh` keeps of one model: how pruning went and how good it is; printed as JSON."""

import json
import sys
from pathlib import Path
from typing import Any

FROM_EVALUATION = ("ndcg@20", "recall@20", "ndcg@10", "recall@10", "total_ms", "users", "num_items")
FROM_OTHERS = ("ndcg@20", "recall@20")


def main(folder: Path) -> None:
    """Print what is kept of the model in a folder."""
    evaluation = _read(folder / "evaluation.json")
    kept = {name: evaluation[name] for name in FROM_EVALUATION}
    if "others" in evaluation:
        others = evaluation["others"].items()
        kept["others"] = {name: {metric: one[metric] for metric in FROM_OTHERS} for name, one in others}
    for name in ("training", "activity", "prunerec"):
        if (folder / f"{name}.json").is_file():
            kept[name] = _read(folder / f"{name}.json")
    print(json.dumps(kept, indent=1))


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
