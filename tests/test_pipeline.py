"""The whole job as a user would do it: from a log to recommendations."""

import json
import os
import subprocess
import sys

import numpy as np
import polars as pl

from everyitem.data.synthetic import write_synthetic_log

PROGRAM = "from everyitem.cli import main; main()"


def everyitem(*arguments):
    """Run a command; its stdout. It must succeed and say nothing on stderr."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_from_a_log_to_recommendations(works, tmp_path):
    log = write_synthetic_log(tmp_path / "log", num_items=300, num_users=150, mean_length=12)
    model, out = tmp_path / "model", tmp_path / "out.parquet"
    said = everyitem("train", log, model, "--epochs", 2, "--num-splits", 8, "--codes", "kmeans", "--threads", 1)
    assert str(model) in said
    assert "intact" in works("check", model)

    report = json.loads(works("evaluate", model, log, "--json", "--time-users", 5))
    assert 0 <= report["ndcg@10"]["low"] <= report["ndcg@10"]["value"] <= report["ndcg@10"]["high"] <= 1
    assert report["users"] == 150

    works("recommend", model, "--users", log, "--out", out, "--k", 5)
    assert pl.read_parquet(out).shape == (5 * 150, 4)

    command = ("recommend", model, "--history", "item-003,item-017", "--json")
    (best,) = json.loads(works(*command, "--k", 1))
    (tmp_path / "new.csv").write_text(f"item_id,like,price\nnew,{best['item_id']},3\n")
    works("items", "add", model, tmp_path / "new.csv")
    found = json.loads(everyitem(*command, "--k", 301))
    (new,) = (record for record in found if record["item_id"] == "new")
    assert new["price"] == 3.0
    assert found[0]["item_id"] == best["item_id"]
    assert "intact" in works("check", model)

    works("export", model, tmp_path / "arrays", "--log", log, "--queries", 4)
    works("index", tmp_path / "arrays", tmp_path / "index")
    assert np.load(tmp_path / "arrays" / "queries.npy", allow_pickle=False).shape == (4, 64)
    assert "intact" in works("check", tmp_path / "index")
