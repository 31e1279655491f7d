"""The command that measures searches: bench."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from everyitem.cli.learn import AsJson


class Kind(StrEnum):
    """Generated catalogues, see `everyitem.bench.catalogues`."""

    EASY = "easy"
    DIFFUSE = "diffuse"
    HARD = "hard"
    NOISE = "noise"
    UNIFORM = "uniform"


def bench(
    source: Annotated[
        Path | None,
        typer.Argument(help="An index folder, or what `everyitem export` wrote; without it a catalogue is generated."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Query vectors (.npy) for SOURCE; by default its own, or vectors of its items.")
    ] = None,
    kind: Annotated[
        Kind, typer.Option(help="Generated: queries of 1, 3, 6 or 10 interests; uniform: nothing to prune.")
    ] = Kind.DIFFUSE,
    num_items: Annotated[int, typer.Option(help="Generated: items.", min=1)] = 1_000_000,
    num_splits: Annotated[int, typer.Option(help="Generated: bytes per item (M).", min=1, max=64)] = 8,
    dim: Annotated[int, typer.Option(help="Generated: length of a vector (D); at least 48 M.", min=1)] = 512,
    num_queries: Annotated[int, typer.Option(help="Queries to ask.", min=1)] = 100,
    k: Annotated[int, typer.Option(help="Items per query.", min=1)] = 10,
    batch: Annotated[int, typer.Option(help="Queries per call.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Threads per call.", min=1)] = 1,
    cold: Annotated[bool, typer.Option(help="Read 64 MB of other memory before every call.")] = False,
    seconds: Annotated[float, typer.Option(help="Time for each algorithm.", min=0.0)] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Time every search algorithm, and faiss's IndexPQ where it is installed; answers are checked before."""
    from everyitem.bench import run, show
    from everyitem.bench.measure import Setting

    console = Console(stderr=as_json)
    notes = Console(stderr=True)
    if source is None:
        with console.status("generating a catalogue"):
            ground = run.generated(kind.value, num_items, num_splits, dim, num_queries)
    elif not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder; give an index folder or what `everyitem export` wrote")
    else:
        with console.status("laying the catalogue out"):
            ground = run.opened(source, queries, num_queries)
    with console.status("checking answers, then timing"):
        done = run.run(
            ground,
            [Setting(k, batch, threads, cold)],
            seconds=seconds,
            report=lambda said: notes.print(Text(said, "dim"), soft_wrap=True),
        )
    if as_json:
        head = {"catalogue": done.name, "items": done.num_items, "num_splits": done.num_splits, "dim": done.dim}
        lines = [show.record(line) for line in done.lines]
        print(json.dumps(head | {"difficulty": done.difficulty._asdict(), "algorithms": lines}))
        return
    for table in show.tables(
        done.lines, f"{done.name}, {done.num_items:,} items, M = {done.num_splits}, D = {done.dim}"
    ):
        console.print(table)
    console.print(f"difficulty: {done.difficulty}", style="dim", highlight=False)
