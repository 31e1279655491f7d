"""Makes docs/results.md and its pictures from what `real_data.sh` and `codes.sh` wrote. No figure in it is typed."""

import json
from pathlib import Path
from typing import Any

from tabulate_cluster import cluster_section
from tabulate_codes import code_sizes_section, codes_section
from tabulate_decoding import decoding_section
from tabulate_efficient_ids import efficient_ids_section
from tabulate_encoder import latency_section, training_section
from tabulate_papers import concentrated_section, gsasrec_section, pqtopk_section, recjpq_section
from tabulate_prunerec import prunerec_section
from tabulate_recjpqprune import recjpqprune_section
from tabulate_scale import scale_section
from tabulate_serving import serving_section
from tabulate_speed import speed_section
from tabulate_two_level import two_level_section

from everyitem.evaluate.report import Row, rows_of, write_bar_chart

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
METRICS = ("ndcg@10", "recall@10")
MODELS = (
    *("default", "default-dense", "sasrec-dense", "sasrec-pq", "esasrec-dense", "esasrec-pq", "gsasrec-pq"),
    *("gbert4rec-pq", "rectools-sasrec", "rectools-esasrec", "rectools-bert4rec", "replay-sasrec"),
)
BASELINES = ("popularity", "repeat last", "Markov", "ItemKNN")
PUBLISHED = {
    "amazon14-beauty": {
        "SASRec, as the TIGER paper reports it": (0.0318, 0.0605),
        "TIGER (2305.05065)": (0.0384, 0.0648),
    },
    "amazon14-sports": {"TIGER (2305.05065)": (0.0225, 0.0400)},
    "ml-1m": {"SASRec, gSASRec's authors": (0.1259, 0.2392), "gSASRec (2308.07192)": (0.1726, 0.3003)},
}
HEAD = """# Results on real data

Made by `EVERYITEM_DATA=... runs/real_data.sh WORK` and `python runs/tabulate.py`; nothing here is typed by hand.
Leave one out: the last event of every user (at most 20,000 random users) against the whole catalogue, no sampled
negatives; seen items are allowed unless a data set says otherwise. ± is half the 95 % bootstrap interval over users.
Every model of a data set trained for the same time on one thread of a shared 2-core machine. Time per user is the
papers' protocol: one user at a time, one thread, median; mST is scoring with top-10, mRT is encoder and scoring.
`default` is what `everyitem train` makes by itself: SASRec with item codes and a memory of histories and transitions
(`default-dense`: with a vector per item); the others know vectors alone, as published.
RecTools and RePlay (`runs/peers.sh`) had the same minutes at the sizes that their documentation gives; a full softmax
over padded rows sees few targets in that time (millions seen, in the table), so they are far from done.
Resident MB is what a fresh process without torch grows by when it loads the model and answers once. Published figures
are on the same data and split.
"""


def main() -> None:
    """Write the page and one picture per data set."""
    sections = [HEAD]
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
        models = {name: found[name] for name in MODELS if name in found}
        if models:
            sections.append(_section(folder.name, models))
    sections.append(codes_section(RESULTS / "codes"))
    sections.append(code_sizes_section(RESULTS / "code_sizes", RESULTS))
    sections.append(efficient_ids_section(RESULTS / "efficient_ids"))
    sections.append(concentrated_section(RESULTS / "concentrated"))
    papers = (("gsasrec", gsasrec_section), ("recjpq", recjpq_section), ("pqtopk", pqtopk_section))
    sections += [section(RESULTS / paper) for paper, section in papers]
    records = ROOT / "benchmarks" / "record"
    sections += [latency_section(records), training_section(records)]
    sections += [speed_section(records, RESULTS), scale_section(records, RESULTS)]
    sections += [cluster_section(records), serving_section(records)]
    sections.append(recjpqprune_section(RESULTS / "recjpqprune", RESULTS))
    sections.append(two_level_section(records, RESULTS))
    sections.append(prunerec_section(RESULTS / "prunerec", RESULTS))
    sections.append(decoding_section(RESULTS / "decoding", RESULTS))
    (ROOT / "docs" / "results.md").write_text("\n".join(filter(None, sections)))


def _section(name: str, models: dict[str, Any]) -> str:
    others = next((model["others"] for model in models.values() if "others" in model), {})
    everything = {key: others[key] for key in BASELINES if key in others} | models
    rows = rows_of(everything, METRICS)
    best = {metric: max(row.value for row in rows if row.metric == metric) for metric in METRICS}
    winner = next(row.model for row in rows if row.metric == METRICS[0] and row.value == best[METRICS[0]])
    write_bar_chart(rows, RESULTS / f"{name}.svg", title=name, highlight=winner)
    first = next(iter(models.values()))
    head = (
        f"\n## {name}\n\n{first['num_items']:,} items, {first['users']:,} test users, "
        f"{first['settings']['minutes']:g} minutes of training; {first['seen_targets']:.1%} of the targets stand in "
        f"the user's history{_asked(first)}.\n"
    )
    columns = (
        "model",
        "NDCG@10",
        "Recall@10",
        "index MB",
        "encoder MB",
        "memory MB",
        "resident MB",
        "training s",
        "seen M",
        "mST ms",
        "mRT ms",
    )
    table = f"\n| {' | '.join(columns)} |\n|---{'|--:' * (len(columns) - 1)}|\n"
    lines = [_line(key, rows, everything[key], best) for key in everything]
    lines += [f"| *{key}* | *{n:.4f}* | *{r:.4f}* | | | | | | | | |" for key, (n, r) in PUBLISHED.get(name, {}).items()]
    return head + table + "\n".join(lines) + f"\n\n![{name}](results/{name}.svg)\n"


def _asked(result: dict[str, Any]) -> str:
    """What is not as on the rest of the page."""
    length = result["settings"]["length"]
    said = ["seen items excluded"] * result["exclude_seen"] + [f"histories of {length} events"] * (length != 50)
    return "".join(f"; {part}" for part in said)


def _line(key: str, rows: list[Row], result: dict[str, Any], best: dict[str, float]) -> str:
    cells = [_cell(row, best[row.metric]) for row in rows if row.model == key]
    training = result.get("training")
    if training:
        seconds = training["training_seconds"] + training.get("dense_start", {}).get("training_seconds", 0.0)
        resident = f"{result['resident_mb']['model']:.0f}" if "resident_mb" in result else ""
        sizes = [training.get(part, 0) / 1e6 for part in ("index_bytes", "encoder_bytes", "memory_bytes")]
        cells += [f"{size:.1f}" for size in sizes] if sizes[0] else [""] * len(sizes)  # peers write no files
        seen = training.get("positions", 0) + training.get("dense_start", {}).get("positions", 0)
        cells += [resident, f"{seconds:.0f}", f"{seen / 1e6:.2f}" if seen else ""]
        cells += [f"{result[stage]['median']:.2f}" if stage in result else "" for stage in ("scoring_ms", "total_ms")]
    else:
        cells += [""] * 8
    return f"| {key} | " + " | ".join(cells) + " |"


def _cell(row: Row, best: float) -> str:
    text = f"{row.value:.4f} ± {(row.high - row.low) / 2:.4f}"
    return f"**{text}**" if row.value == best else text


if __name__ == "__main__":
    main()
