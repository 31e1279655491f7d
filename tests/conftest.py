import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported


@pytest.fixture(scope="session")
def tiny_log(tmp_path_factory) -> Path:
    """A log folder of 400 items with attributes and 120 users."""
    from everyitem.data.synthetic import write_synthetic_log

    return write_synthetic_log(tmp_path_factory.mktemp("tiny") / "log", num_items=400, num_users=120, mean_length=10)


@pytest.fixture(scope="session")
def tiny_models(tiny_log, tiny_settings, tmp_path_factory) -> dict[str, Path]:
    """Model folders trained on it, "pq", "dense" and "two-level". Not to be changed: see `copied`."""
    from everyitem.data.interactions import read_log
    from everyitem.learn.fit import fit

    folder = tmp_path_factory.mktemp("models")
    log = read_log(tiny_log)
    kinds = ("pq", "dense", "two-level")
    for items in kinds:
        fit(log, folder / items, items=items, **tiny_settings)
    return {items: folder / items for items in kinds}


@pytest.fixture(scope="session")
def tiny_settings() -> dict[str, Any]:
    """Settings of `fit` with which a model trains in about a second: those of the tiny models."""
    return {
        **{"dim": 32, "num_splits": 4, "codes": "random", "length": 10, "num_negatives": 64},
        **{"epochs": 2, "threads": 1, "show": False},
    }


@pytest.fixture
def copied(tiny_models, tmp_path) -> Callable[[str], Path]:
    """A copy of a tiny model that a test may change or damage."""

    def copy(items: str = "pq") -> Path:
        shutil.copytree(tiny_models[items], tmp_path / f"{items}-model", ignore=shutil.ignore_patterns("training"))
        return tmp_path / f"{items}-model"

    return copy


@pytest.fixture
def run(monkeypatch, capfd):
    """Run a command in this process: exit code, stdout, stderr."""

    from everyitem.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["everyitem", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capfd.readouterr()
        return exit_.value.code, captured.out, captured.err

    return run


@pytest.fixture
def works(run):
    """Run a command that must succeed; its stdout."""

    def works(*arguments):
        code, out, err = run(*arguments)
        assert code == 0, err
        return out

    return works


@pytest.fixture
def refused(run):
    """Run a command that must end as a user's mistake; what it says, which is one line."""

    def refused(*arguments):
        code, out, err = run(*arguments)
        assert code == 2, out + err
        assert err.startswith("error: "), err
        assert err.count("\n") == 1, err
        return err

    return refused
