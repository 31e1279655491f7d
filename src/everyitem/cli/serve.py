"""The command that serves: serve."""

from typing import Any

import typer

from everyitem.cli.learn import ModelFolder
from everyitem.cli.signature import options_of, with_options
from everyitem.serve import supervisor


@with_options(options_of(supervisor.serve, without=()))
def serve(model: ModelFolder, **settings: Any) -> None:
    """Serve a model over HTTP: recommendations, events, live catalogue, page, metrics; at loopback by default."""
    code = supervisor.serve(model, **settings)
    if code:
        raise typer.Exit(code)
