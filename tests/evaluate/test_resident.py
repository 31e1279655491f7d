import json
import shutil

import numpy as np
import polars as pl
import pytest

from everyitem.evaluate.resident import resident_mb
from everyitem.index import DenseIndex
from everyitem.recommender import EVENTS, Recommender, load


def test_a_big_index_is_seen_and_python_is_not_part_of_the_model(copied):
    folder = copied("dense")
    small = resident_mb(folder)
    assert 0 < small.model < small.process
    model = load(folder)
    vectors = np.zeros((500_000, 32), np.float32)  # 64 MB
    items = pl.DataFrame({"item_id": [str(n) for n in range(len(vectors))]}).with_columns(pl.lit(1).alias(EVENTS))
    Recommender(model.encoder, DenseIndex(vectors), items, model.metadata).save(folder)
    big = resident_mb(folder)
    assert 64 < big.model - small.model < 400
    assert big.process - small.process == pytest.approx(big.model - small.model, abs=20)


def test_evaluation_reports_it_for_models_only(works, tiny_models, tiny_log):
    command = ("evaluate", tiny_models["pq"], tiny_log, "--max-users", 5, "--baselines")
    report = json.loads(works(*command, "--time-users", 3, "--json"))
    assert set(report["resident_mb"]) == {"model", "process"}
    assert "resident_mb" not in report["others"]["popularity"]
    assert "resident_mb" not in json.loads(works(*command, "--time-users", 0, "--json"))
    assert "resident:" in works(*command, "--time-users", 3)


def test_a_model_that_cannot_be_loaded_is_an_error(copied):
    folder = copied("pq")
    shutil.rmtree(folder / "index")
    with pytest.raises(RuntimeError, match="resident size failed"):
        resident_mb(folder)
