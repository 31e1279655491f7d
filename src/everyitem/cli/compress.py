"""The command that makes models smaller: prune."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from everyitem.cli.learn import AsJson
from everyitem.cli.signature import options_of, with_options
from everyitem.learn.prune import prune as prune_model


@with_options(options_of(prune_model, without=("show",)))
def prune(
    model: Annotated[Path, typer.Argument(help="Folder of a Hugging Face causal language model.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    log: Annotated[Path, typer.Option(help="A log whose items have titles: what importance is measured on.")],
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Prune a language model that recommends by title, in three restored stages (PruneRec), to a plain checkpoint."""
    from everyitem.data.interactions import read_log

    console = Console(stderr=as_json)
    report = prune_model(model, out, read_log(log), show=console.is_terminal, **settings)
    if as_json:
        print(json.dumps(report))
    elif (model / "recommender.json").is_file():
        console.print(_encoder_table(report))
    elif settings["dry_run"]:
        console.print(_sizes_table(report["stages"]))
    else:
        console.print(_report_table(report))
        console.print(f"model: {out}", markup=False, soft_wrap=True)


def _sizes_table(lines: list[dict[str, Any]]) -> Table:
    """A column per stage: so many fit into the narrowest terminal."""
    table = Table(title="what would stay; inside: parameters without the embeddings")
    names = {"key_values": "kv heads", "vocabulary": "tokens", "parameters_without_embeddings": "inside"}
    table.add_column("after")
    for line in lines:
        table.add_column(line["stage"], justify="right")
    for name in [name for name in lines[0] if name != "stage"]:
        table.add_row(names.get(name, name), *(f"{line[name]:,}" for line in lines))
    inside = [line["parameters_without_embeddings"] for line in lines]
    table.add_row("share inside", *(f"{count / inside[0]:.1%}" for count in inside))
    return table


def _report_table(report: dict[str, Any]) -> Table:
    table = Table(
        title="pruned; inside: parameters without the embeddings, ppl: perplexity, ms: to read one row",
        box=box.SIMPLE_HEAD,  # narrow: it fits into 80 columns
    )
    asked = "users" in report["before"]
    names = ("parameters", "inside", "ppl", "ms", *(("HR@20", "NDCG@20") if asked else ()))
    table.add_column("model", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    lines = [("uncut", report["before"])]
    for stage in report["stages"]:
        parts = stage["parts"]
        lines.append((f"{' and '.join(parts) if len(parts) < 3 else 'everything'} cut", stage["cut"]))
        if "restored" in stage:
            lines.append(("  restored", stage["restored"]))
    whole = report["before"]["parameters_without_embeddings"]
    for name, line in lines:
        share = line["parameters_without_embeddings"] / whole
        cells = (f"{line['parameters']:,}", f"{share:.1%}", f"{line['perplexity']:,.2f}")
        found = [f"{line[metric]['value']:.4f}" for metric in ("hr@20", "ndcg@20") if asked]
        table.add_row(name, *cells, f"{line['prefill_ms']['median']:.1f}", *found)
    return table


def _encoder_table(report: dict[str, Any]) -> Table:
    table = Table(title="the backbone; NDCG@10 on the validation users, without a memory")
    if "before" in report:
        lines = [("uncut", report["before"])]
        lines += [
            (f"{stage['part']} {when}", stage[when]) for stage in report["stages"] for when in ("cut", "restored")
        ]
    else:
        lines = [(line["stage"], line) for line in report["stages"]]
    names = [name for name in ("blocks", "heads", "neurons", "parameters", "ndcg@10") if name in lines[0][1]]
    timed = "encoder_ms" in lines[0][1]
    for name in ("model", *names, *(("encoder ms",) if timed else ())):
        table.add_column(name, justify="left" if name == "model" else "right")
    for name, line in lines:
        cells = [f"{line[key]:.4f}" if key == "ndcg@10" else f"{line[key]:,}" for key in names]
        ms = f"{line['encoder_ms']['median']:.3f}" if "encoder_ms" in line else ""
        table.add_row(name, *cells, *((ms,) if timed else ()))
    return table
