"""Reads a command off a function: its signature gives the options and defaults, its docstring their help."""

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any

import typer


def options_of(function: Callable[..., Any], *, without: tuple[str, ...]) -> list[inspect.Parameter]:
    """Every keyword-only parameter as an option of the same name, type and default; help from its `Args:` entry."""
    helps = argument_help(function)
    return [
        parameter.replace(annotation=Annotated[parameter.annotation, typer.Option(help=helps[name])])
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in without
    ]


def argument_help(function: Callable[..., Any]) -> dict[str, str]:
    """The entries of a Google-style `Args:` section, each on one line."""
    section = inspect.cleandoc(function.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in entries}


def with_options(options: list[inspect.Parameter]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace a command's `**settings` by explicit options, so that typer shows them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        command.__signature__ = inspect.Signature(own + options)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in own + options}
        return command

    return decorate
