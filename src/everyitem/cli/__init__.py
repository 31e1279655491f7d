"""The command line: thin commands over the library, each importing what it needs when it runs.

Exit codes: 0 done, 1 a check failed or the machine gave out, 2 the user's mistake (one line says which),
130 interrupted.
"""

import os
import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

from everyitem.cli import compress, learn, look, measure, serve, use

app = typer.Typer(
    name="everyitem",
    help="Exact recommendations from catalogues of millions to a billion items, on ordinary CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
items_app = typer.Typer(help="Change the catalogue of a model without training.", no_args_is_help=True)

app.command()(look.demo)
app.command()(look.doctor)
app.command()(learn.prepare)
app.command()(learn.train)
app.command()(learn.evaluate)
app.command()(learn.encoder)
app.command()(use.recommend)
app.command()(use.index)
app.add_typer(items_app, name="items")
items_app.command("add")(use.items_add)
items_app.command("remove")(use.items_remove)
app.command()(compress.prune)
app.command()(use.export)
app.command()(look.check)
app.command()(measure.bench)
app.command()(serve.serve)


def main() -> NoReturn:
    """Run a command; a mistake of the user ends in one line on stderr and exit code 2, never in a traceback."""
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone, as `head` does; Python would flush once more and fail
        os._exit(1)
    except (
        ValueError,
        FileNotFoundError,
        FileExistsError,
        IsADirectoryError,
        NotADirectoryError,
        PermissionError,
        BlockingIOError,
    ) as error:
        _fail(str(error), 2)
    except ModuleNotFoundError as error:
        _fail(f"this needs {error.name}, which is not installed; `everyitem doctor` says how to mend that", 2)
    except (MemoryError, FloatingPointError, RuntimeError, OSError) as error:
        _fail(f"{type(error).__name__}: {error}", 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        # typer's own usage errors (unknown option, missing argument) know how to show themselves
        if not hasattr(error, "show"):
            raise
        error.show()
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    """Say what happened on one line, letter by letter: brackets in it are no markup."""
    label = Text() if code == 130 else Text("error: ", "bold red")
    Console(stderr=True, highlight=False).print(label + Text(" ".join(message.split())), soft_wrap=True)
    sys.exit(code)
