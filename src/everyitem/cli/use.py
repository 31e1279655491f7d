"""Commands that use a model: recommend, index, items, export."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from everyitem.cli.learn import AsJson, ModelFolder

if TYPE_CHECKING:
    import polars as pl


SHOWN_ATTRIBUTES, SHOWN_WIDTH = 3, 22
ALIKE = 3
"""Known items that a new one is placed among, where its text decides."""


def recommend(
    model: ModelFolder,
    history: Annotated[str | None, typer.Option(help="Item ids, oldest first, separated by commas.")] = None,
    users: Annotated[Path | None, typer.Option(help="A log: recommend for every user in it.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --users: the .parquet file to write.")] = None,
    k: Annotated[int, typer.Option(help="Items per user.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="SQL condition on item attributes, e.g. 'price < 50 and in_stock'.")
    ] = None,
    exclude_seen: Annotated[bool, typer.Option(help="Leave out items of the history.")] = True,
    explain: Annotated[
        bool, typer.Option(help="Say for every item which part of its code and of the history speaks for it.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="With --users: cores to use; all by default.")] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="With --users: on a Ray cluster, HOST:PORT, or auto (one that runs here, or this machine)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The k best items, exactly, for one history (--history) or for every user of a log (--users, --out)."""
    from everyitem.recommender import load

    if (history is None) == (users is None):
        raise ValueError("give either --history a,b,c or --users LOG --out FILE")
    if users is not None:
        options = {"k": k, "where": where, "exclude_seen": exclude_seen}
        _recommend_to_file(model, users, out, cluster, options | ({} if threads is None else {"threads": threads}))
        return
    if cluster is not None:
        raise ValueError("--cluster is for --users: one history is answered here")
    recommender = load(model)
    ids = recommender.parse_ids((history or "").split(","))
    answer = recommender.answer([ids], k, where=where, exclude_seen=exclude_seen)
    attributes = recommender.items.drop("score", "rank", strict=False)
    records = answer.frame.drop("user_id").join(attributes, on="item_id", how="left", maintain_order="left").to_dicts()
    if explain and not answer.fallback:
        for record in records:
            record["why"] = _why(recommender, ids, record["item_id"])
    notes = Console(stderr=True)
    if answer.unknown_ids:
        notes.print(f"[yellow]{answer.unknown_ids} of the history's ids are not in the catalogue and were skipped[/]")
    if answer.fallback:
        notes.print("[yellow]no event of the history is known: these are the most popular items[/]")
    if as_json:
        print(json.dumps([_finite(record) for record in records], default=str))
    else:
        Console().print(_table(records))


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def _recommend_to_file(
    model: Path, users: Path, out: Path | None, cluster: str | None, options: dict[str, Any]
) -> None:
    if out is None:
        raise ValueError("--users needs --out FILE.parquet")
    options["console"] = Console() if Console().is_terminal else None
    if cluster is None:
        from everyitem.serve import offline

        done = offline.recommend_to_parquet(model, users, out, **options)
    elif "threads" in options:
        raise ValueError("--threads is for one machine; on a cluster every machine uses all its cores")
    else:
        from everyitem.serve.cluster import recommend_to_parquet

        done = recommend_to_parquet(cluster, model, users, out, **options)
    if done.unknown_events:
        note = f"[yellow]{done.unknown_events:,} events name items that this model does not have; they were skipped[/]"
        Console(stderr=True).print(note)
    print(f"{done.users:,} users -> {out}")


def _why(recommender: Any, history: list[Any], item_id: Any) -> dict[str, Any]:
    explanation = recommender.explain(history, item_id)
    splits, history = explanation.splits.to_dicts(), explanation.history.head(3).to_dicts()
    near = ", ".join(f"{row['item_id']} ({row['similarity']:.2f})" for row in history)
    in_short = f"near {near}; {_most(recommender, explanation.score, splits)}"
    return {"score": explanation.score, "splits": splits, "history": history, "in_short": in_short}


def _most(recommender: Any, score: float, splits: list[dict[str, Any]]) -> str:
    """What the score is most made of."""
    from everyitem.index import TwoLevelIndex

    if isinstance(recommender.index, TwoLevelIndex):
        cluster, item = (math.exp(row["score"]) for row in splits[:2])
        return f"cluster {splits[0]['sub_item']} has {cluster:.1%}, the item {item:.1%} of it"
    best = max(splits, key=lambda row: float(row["score"]))
    giver = "memory" if best["split"] is None else f"split {best['split']}"
    return f"{giver} gives {best['score']:.2f} of {score:.2f}"


def _table(records: list[dict[str, Any]]) -> Table:
    """Rank, id and score, the first few attributes that fit a line, and why; `--json` has everything."""
    first = records[0] if records else {}
    fixed = ["rank", "item_id", "score"]
    attributes = [name for name in first if name not in (*fixed, "why", "training_events")]
    told = sorted(attributes, key=lambda name: name not in ("title", "name"))[
        : 1 if "why" in first else SHOWN_ATTRIBUTES
    ]
    columns = [*fixed, *told, *(["why"] if "why" in first else [])]
    table = Table()
    for column in columns:
        if column in fixed:
            width = max(len(column), *(len(_cell(column, record[column])) for record in records), 0)
            table.add_column(column, justify="left" if column == "item_id" else "right", no_wrap=True, min_width=width)
        elif column == "why":
            table.add_column(column, overflow="fold")
        else:
            table.add_column(Text(column), overflow="ellipsis", no_wrap=True, max_width=SHOWN_WIDTH)
    for record in records:
        table.add_row(*(Text(_cell(column, record.get(column))) for column in columns))
    return table


def _cell(column: str, value: Any) -> str:
    if column == "why":
        return str(value["in_short"])
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def index(
    source: Annotated[
        Path,
        typer.Argument(help=".npy, .safetensors or .parquet embeddings, or a folder with codes.npy and codebooks.npy."),
    ],
    folder: Annotated[Path, typer.Argument(help="The index folder to write.", metavar="INDEX")],
    num_splits: Annotated[int, typer.Option(help="Bytes per item (M).")] = 8,
    rotate: Annotated[bool, typer.Option(help="Learn an OPQ rotation first.")] = True,
    dense: Annotated[
        bool, typer.Option(help="Keep the vectors as they are: no compression, exact float scores.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the k-means.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Build an index from another toolkit's embeddings or codes, and say what compression cost."""
    import polars as pl

    from everyitem.index.dense import DenseIndex
    from everyitem.index.embeddings import compression_report, read_codes, read_vectors
    from everyitem.index.pq import PQIndex

    if source.is_dir():
        codes, codebooks = read_codes(source / "codes.npy", source / "codebooks.npy")
        rotation = source / "rotation.npy"
        PQIndex(codes, codebooks, rotation_DD=read_vectors(rotation)[0] if rotation.exists() else None).save(folder)
        report: dict[str, Any] = {}
    else:
        vectors, ids = read_vectors(source)
        built = DenseIndex(vectors) if dense else PQIndex.from_embeddings(vectors, num_splits, rotate=rotate, seed=seed)
        built.save(folder)
        if ids is not None:
            pl.DataFrame({"item_id": ids}).write_parquet(folder / "items.parquet")
        report = {} if isinstance(built, DenseIndex) else compression_report(vectors, built)
    if as_json:
        print(json.dumps(report))
        return
    console = Console()
    for name, value in report.items():
        console.print(f"{name:>28}  {value:,.4g}" if isinstance(value, float) else f"{name:>28}  {value}")
    console.print(f"index: {folder}", markup=False, soft_wrap=True)


def items_add(
    model: ModelFolder,
    file: Annotated[
        Path, typer.Argument(help=".csv or .parquet: item_id, attributes, and `like`: known ids, separated by blanks.")
    ],
    text: Annotated[
        str, typer.Option(help="Where there is no `like`: the attribute whose words say what a new item is like.")
    ] = "title",
) -> None:
    """Add items without training: each is placed among the known items that it is `like`, or whose texts are alike."""
    from everyitem.recommender import load

    frame = _read_table(file, "item_id")
    recommender = load(model)
    if "like" in frame.columns:
        like = [recommender.parse_ids(str(row or "").split()) for row in frame["like"]]
    else:
        like = _alike(recommender, frame, text, file)
    recommender.add_items(frame.drop("like", strict=False), like=like)
    recommender.save(model)
    Console().print(f"added {len(frame):,} items; the catalogue has {recommender.index.num_items:,}")


def _alike(recommender: Any, frame: "pl.DataFrame", text: str, file: Path) -> list[list[Any]]:
    """For every new item the known ones whose texts are most alike."""
    from everyitem.data.alike import alike_by_text

    known = recommender.items
    if text not in frame.columns or text not in known.columns:
        raise ValueError(
            f"{file}: needs a column `like`, or `{text}` here and in the catalogue; got {', '.join(frame.columns)}"
        )
    rows = alike_by_text(known[text], frame[text], ALIKE)
    if lost := [item for item, found in zip(frame["item_id"], rows, strict=True) if not found]:
        raise ValueError(
            f"{file}: no known item shares a word with the {text} of {len(lost)} items, the first is {lost[0]}; "
            "give a column `like`"
        )
    return [known["item_id"].gather(found).to_list() for found in rows]


def items_remove(
    model: ModelFolder, file: Annotated[Path, typer.Argument(help=".csv or .parquet with a column item_id.")]
) -> None:
    """Remove items: they are never recommended again."""
    from everyitem.recommender import load

    frame = _read_table(file, "item_id")
    recommender = load(model)
    recommender.remove_items(recommender.parse_ids([str(item_id) for item_id in frame["item_id"]]))
    recommender.save(model)
    Console().print(f"removed {len(frame):,} items")


def _read_table(file: Path, *needed: str) -> "pl.DataFrame":
    """A table of items with these columns, without gaps in them."""
    import polars as pl

    from everyitem.data.columns import UNREADABLE

    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give a .csv or .parquet file")
    try:
        if file.suffix == ".csv":  # ids stay text, as `007` may be one; the catalogue's type decides
            text = {"item_id": pl.String, "like": pl.String}
            frame = pl.read_csv(file, schema_overrides=text, try_parse_dates=True, glob=False)
        else:
            frame = pl.read_parquet(file, glob=False)
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{file}: damaged or not in the format of its name ({reason})") from None
    if not set(needed) <= set(frame.columns) or any(frame[column].null_count() for column in needed):
        raise ValueError(f"{file}: needs {' and '.join(needed)} in every row; got columns {', '.join(frame.columns)}")
    return frame


def export(
    model: ModelFolder,
    folder: Annotated[Path, typer.Argument(help="Folder to write .npy files to.", metavar="DIR")],
    log: Annotated[Path | None, typer.Option(help="Log whose test histories become queries.")] = None,
    queries: Annotated[int, typer.Option(help="Real query vectors to write (needs --log).")] = 0,
) -> None:
    """Write codes and codebooks (or vectors, and clusters) as .npy, and real query vectors, for other tools."""
    import numpy as np

    from everyitem.recommender import load

    recommender = load(model)
    found = recommender.index
    arrays = _arrays(found)
    if queries:
        if log is None:
            raise ValueError("--queries needs --log: real queries come from real histories")
        from everyitem.data.interactions import read_log
        from everyitem.evaluate.heldout import split_for

        histories = split_for(recommender, read_log(log)).test.histories
        chosen = np.random.default_rng(0).permutation(np.flatnonzero(histories.lengths > 0))[:queries]
        arrays["queries"] = recommender.encode(histories.select(np.sort(chosen)))
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        print(f"{folder / (name + '.npy')}  {array.dtype} {array.shape}")


def _arrays(index: Any) -> dict[str, Any]:
    """What makes the index, by file name."""
    from everyitem.index import DenseIndex, TwoLevelIndex

    if isinstance(index, DenseIndex):
        return {"vectors": index.vectors_ID}
    if isinstance(index, TwoLevelIndex):
        parts = {"vectors": index.vectors_ID, "cluster_of": index.cluster_of_I}
        return parts | {"clusters": index.clusters_CD, "bias": index.bias_C}
    arrays = {"codes": index.codes_IM, "codebooks": index.codebooks_MBd}
    return arrays if index.rotation_DD is None else arrays | {"rotation": index.rotation_DD}
