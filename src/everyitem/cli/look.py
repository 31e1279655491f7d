"""Commands that show and verify: demo, doctor, check."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from everyitem.cli.learn import AsJson


def demo(
    folder: Annotated[Path | None, typer.Option(help="Keep log and model here; a temporary folder by default.")] = None,
    num_items: Annotated[int, typer.Option(help="Catalogue of the speed section.")] = 2_000_000,
) -> None:
    """The whole main job on generated data: train, compress, evaluate, recommend, explain, measure."""
    from everyitem.demo import run

    run(folder, num_items=num_items, console=Console())


def doctor(as_json: AsJson = False) -> None:
    """What this installation has (C++ core, torch, ONNX Runtime, memory), and how to mend what is missing."""
    from everyitem import doctor as diagnosis

    report = diagnosis.report()
    if as_json:
        print(json.dumps(report))
    else:
        diagnosis.show(report, Console())


def check(
    folder: Annotated[Path, typer.Argument(help="A model folder or an index folder.")],
    as_json: AsJson = False,
) -> None:
    """Verify every byte of a model or index: checksums, invariants, golden query. Exit code 1 if anything is off."""
    from everyitem import model_folder
    from everyitem.index import files

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a model folder or an index folder")
    is_model = (folder / "recommender.json").is_file()
    problems = model_folder.check(folder) if is_model else files.check(folder)
    if as_json:
        print(json.dumps({"folder": str(folder), "problems": problems}))
    else:
        console = Console()
        for problem in problems:
            console.print(Text("damaged ", "red") + Text(problem), soft_wrap=True)
        if not problems:
            console.print(Text("intact ", "green") + Text(str(folder)), soft_wrap=True)
    if problems:
        raise typer.Exit(1)
