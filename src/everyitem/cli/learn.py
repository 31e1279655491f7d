"""Commands that go from a log to a measured model: prepare, train, evaluate."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from everyitem.cli.signature import options_of, with_options
from everyitem.learn.fit import fit
from everyitem.model import PrecisionName

LogFolder = Annotated[Path, typer.Argument(help="A log folder, or a .parquet or .csv file of interactions.")]
ModelFolder = Annotated[Path, typer.Argument(help="A model folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def prepare(
    source: Annotated[str, typer.Argument(help="A .csv or .parquet file, or a public data set's name.")],
    log: Annotated[Path, typer.Argument(help="The log folder to write.")],
    raw: Annotated[Path | None, typer.Option(help="Folder or archive with the data set's official raw files.")] = None,
    items: Annotated[
        Path | None, typer.Option(help="Attributes of your items (.csv or .parquet with item_id).")
    ] = None,
) -> None:
    """Turn interactions into a log folder: your own csv or parquet file, or a public data set."""
    from everyitem.data.sources import prepare as prepare_log

    prepared = prepare_log(source, log, raw=raw, items=items)
    print(prepared)


@with_options(options_of(fit, without=("show",)))
def train(
    log: LogFolder, model: Annotated[Path, typer.Argument(help="The model folder to write.")], **settings: Any
) -> None:
    """Train a recommender on a log. The defaults are what won on real data (docs/results.md).

    Several processes or machines: `torchrun --nproc-per-node 2 --no-python everyitem train LOG MODEL`.
    """
    from everyitem.data.interactions import read_log

    console = Console(quiet=os.environ.get("RANK", "0") != "0")  # of torchrun's processes the first one speaks
    events = read_log(log)
    console.print(f"{events.num_events:,} events of {events.num_users:,} users on {events.num_items:,} items")
    for note in events.notes:
        console.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)
    fit(events, model, show=console.is_terminal, **settings)
    metrics = json.loads((model / "metrics.json").read_text())
    console.print(
        f"validation NDCG@10 {metrics['validation_ndcg@10']:.4f} after {metrics['training_seconds']:,.0f} s "
        f"({metrics['positions_per_second']:,.0f} positions/s); model: {model}",
        markup=False,
        soft_wrap=True,
    )


def evaluate(
    model: ModelFolder,
    log: LogFolder,
    against: Annotated[Path | None, typer.Option(help="Another model, compared user by user.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also popularity, repeat-last, Markov and ItemKNN.")] = False,
    exclude_seen: Annotated[bool, typer.Option(help="Rank only items that the history does not hold.")] = False,
    max_users: Annotated[
        int | None, typer.Option(help="A random sample of so many test users; all by default.")
    ] = None,
    time_users: Annotated[
        int, typer.Option(help="Users that are timed one by one on one thread; 0: no time, no memory.")
    ] = 500,
    as_json: AsJson = False,
) -> None:
    """Unsampled NDCG, Recall and MRR on the model's test users, with intervals, milliseconds per user, resident MB."""
    from everyitem.evaluate import report
    from everyitem.evaluate.run import compare

    console = Console(stderr=as_json)
    models = [model] if against is None else [model, against]
    results = _evaluation_of(models)(
        models,
        log,
        baselines=baselines,
        exclude_seen=exclude_seen,
        max_users=max_users,
        time_users=time_users,
        console=console if console.is_terminal else None,
    )
    plain = {name: result.to_json() for name, result in results.items()}
    if as_json:
        print(json.dumps(plain.pop(str(model)) | ({"others": plain} if plain else {})))
        return
    console.print(report.evaluation_table(plain[str(model)], title=str(model)))
    if len(plain) > 1:
        metrics = [name for name in ("ndcg@10", "recall@10", "recall@100") if name in plain[str(model)]]
        rows = report.rows_of(plain, metrics)
        console.print(report.grid_table(rows, title="side by side"))
    if against is not None:
        differences = compare(results[str(model)], results[str(against)])
        console.print(report.comparison_table(differences, a=str(model), b=str(against)))


def encoder(
    model: ModelFolder,
    log: LogFolder,
    precision: Annotated[
        PrecisionName, typer.Option(help="int8: weights in bytes; bf16: computed by OpenVINO; float32: as trained.")
    ] = "int8",
    max_users: Annotated[
        int, typer.Option(help="Test users whose ten best items are compared, at most.", min=1)
    ] = 2000,
) -> None:
    """Let a model answer with a faster encoder, if at least 99 % of the ten best items stay the same."""
    from everyitem.data.interactions import read_log
    from everyitem.learn.precision import set_precision

    console = Console(stderr=True)
    with console.status("comparing the ten best items"):
        overlap = set_precision(model, read_log(log), precision, max_users=max_users)
    print(f"{model} answers in {precision}: {overlap:.2%} of the ten best items are those of float32")


def _evaluation_of(models: list[Path]) -> Any:
    """How such models are evaluated: model folders, or language models that recommend by title."""
    by_title = {(folder / "titles.json").is_file() for folder in models}
    if len(by_title) > 1:
        raise ValueError(
            "a language model that writes titles ranks 20 items, another model 100; evaluate each by itself"
        )
    if by_title == {True}:
        from everyitem.learn.titles import evaluate_title_models

        return evaluate_title_models
    from everyitem.evaluate.heldout import evaluate_models

    return evaluate_models
