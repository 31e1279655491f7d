import json
import re
import resource
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from everyitem.cli.signature import argument_help, options_of
from everyitem.index.files import load_index
from everyitem.learn.fit import fit
from everyitem.recommender import load

HISTORY = "item-003,item-017,item-250"


# happy paths ----------------------------------------------------------------------------------------------------------


def test_recommend_as_json_and_as_a_table(works, tiny_models):
    model = load(tiny_models["pq"])
    records = json.loads(works("recommend", tiny_models["pq"], "--history", HISTORY, "--k", 3, "--json"))
    expected = model.recommend([HISTORY.split(",")], k=3)
    assert [r["item_id"] for r in records] == expected["item_id"].to_list()
    assert [r["score"] for r in records] == expected["score"].to_list()
    assert [r["rank"] for r in records] == [1, 2, 3]
    assert set(records[0]) == {"rank", "score", *model.items.columns}
    table = works("recommend", tiny_models["pq"], "--history", HISTORY, "--k", 3)
    assert all(item_id in table for item_id in expected["item_id"])


def test_recommend_filters_explains_and_may_repeat(works, tiny_models, monkeypatch):
    command = ("recommend", tiny_models["pq"], "--history", HISTORY, "--json")
    filtered = json.loads(works(*command, "--where", "price < 20 and in_stock"))
    assert all(record["price"] < 20 and record["in_stock"] for record in filtered)
    why = json.loads(works(*command, "--explain"))[0]["why"]
    assert set(why) == {"score", "splits", "history", "in_short"}
    assert sum(split["score"] for split in why["splits"]) == pytest.approx(why["score"], abs=1e-5)
    everything = json.loads(works(*command, "--k", 999, "--no-exclude-seen"))
    assert len(everything) == 400
    monkeypatch.setenv("COLUMNS", "400")
    assert "near item-" in works("recommend", tiny_models["dense"], "--history", "item-003", "--explain", "--k", 1)


def test_notes_go_to_stderr_and_json_stays_json(run, tiny_models):
    code, out, err = run("recommend", tiny_models["pq"], "--history", "nobody", "--json")
    assert code == 0
    assert len(json.loads(out)) == 10
    assert "1 of the history's ids" in err
    assert "most popular" in err


def test_attributes_with_markup_gaps_and_our_names_are_shown_as_they_are(works, copied, monkeypatch):
    folder = copied("pq")
    model = load(folder)
    odd = pl.lit("[red]odd[/red] [/]").alias("title"), pl.lit(float("nan")).alias("price"), pl.lit("x").alias("score")
    model._use(model.items.with_columns(odd), model._ids)
    model.save(folder)
    folder = folder.rename(folder.with_name("model [1]"))  # also a pattern for file names
    monkeypatch.setenv("COLUMNS", "400")
    assert "[red]odd[/red] [/]" in works("recommend", folder, "--history", "item-003", "--k", 1)
    out = works("recommend", folder, "--history", "item-003", "--k", 1, "--json")
    (record,) = json.loads(out, parse_constant=pytest.fail)
    assert record["title"] == "[red]odd[/red] [/]"
    assert record["price"] is None
    assert isinstance(record["score"], float)


def test_recommend_for_every_user_of_a_log(works, tiny_models, tiny_log, tmp_path):
    out = tmp_path / "out [1].parquet"
    said = works("recommend", tiny_models["pq"], "--users", tiny_log, "--out", out, "--k", 4)
    assert f"120 users -> {out}" in said
    assert (
        pl.read_parquet(out, glob=False)
        .drop("score")
        .equals(load(tiny_models["pq"]).recommend(tiny_log, k=4).drop("score"))
    )


def test_evaluate_as_json_and_as_tables(works, tiny_models, tiny_log):
    command = ("evaluate", tiny_models["pq"], tiny_log, "--max-users", 30, "--time-users", 3)
    report = json.loads(works(*command, "--json"), parse_constant=pytest.fail)
    assert {"value", "low", "high"} == set(report["ndcg@10"]) == set(report["recall@10"])
    for stage in ("encoder_ms", "scoring_ms", "total_ms"):
        assert {"median", "p95"} == set(report[stage])
    assert report["users"] == 30
    both = json.loads(works(*command, "--against", tiny_models["dense"], "--baselines", "--json"))
    assert set(both["others"]) == {str(tiny_models["dense"]), "popularity", "repeat last", "Markov", "ItemKNN"}
    assert "side by side" in works(*command, "--against", tiny_models["dense"])


def test_items_are_added_and_removed(works, copied, tmp_path):
    folder = copied("pq")
    new = tmp_path / "new.csv"
    new.write_text("item_id,like,price,in_stock\n007,item-003 item-017,5,true\n")
    assert "added 1 items; the catalogue has 401" in works("items", "add", folder, new)
    added = load(folder).items.row(400, named=True)
    assert (added["item_id"], added["price"], added["in_stock"]) == ("007", 5.0, True)
    assert load(folder).recommend([["item-003", "item-017"]], k=1)["item_id"].to_list()
    pl.DataFrame({"item_id": ["item-009"]}).write_parquet(tmp_path / "gone.parquet")
    assert "removed 1 items" in works("items", "remove", folder, tmp_path / "gone.parquet")
    (tmp_path / "gone.csv").write_text("item_id\n007\n")
    assert "removed 1 items" in works("items", "remove", folder, tmp_path / "gone.csv")
    left = load(folder).recommend([["item-003"]], k=999)["item_id"].to_list()
    assert len(left) == 398
    assert not {"007", "item-009"} & set(left)
    assert "intact" in works("check", folder)


@pytest.mark.parametrize("items", ["pq", "dense"])
def test_what_export_writes_index_reads(works, tiny_models, tiny_log, tmp_path, items):
    works("export", tiny_models[items], tmp_path / "out", "--log", tiny_log, "--queries", 6)
    source = tmp_path / "out" if items == "pq" else tmp_path / "out" / "vectors.npy"
    works("index", source, tmp_path / "index", *(["--dense"] if items == "dense" else []))
    queries = np.load(tmp_path / "out" / "queries.npy", allow_pickle=False)
    expected = load(tiny_models[items]).index.top_k(queries, 10)
    found = load_index(tmp_path / "index").top_k(queries, 10)
    assert queries.shape == (6, 32)
    assert found.scores.tobytes() == expected.scores.tobytes()
    assert found.items.tolist() == expected.items.tolist()


def test_a_rotation_is_exported_and_read_again(works, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "vectors.npy", rng.standard_normal((300, 8), dtype=np.float32), allow_pickle=False)
    report = json.loads(works("index", tmp_path / "vectors.npy", tmp_path / "index", "--num-splits", 4, "--json"))
    assert 0 < report["recall"] <= 1
    assert "intact" in works("check", tmp_path / "index")
    index = load_index(tmp_path / "index")
    for name in ("codes_IM", "codebooks_MBd", "rotation_DD"):
        np.save(tmp_path / f"{name.split('_')[0]}.npy", getattr(index, name), allow_pickle=False)
    works("index", tmp_path, tmp_path / "again")
    query = rng.standard_normal((1, 8), dtype=np.float32)
    assert load_index(tmp_path / "again").top_k(query, 5).items.tolist() == index.top_k(query, 5).items.tolist()


def test_prepare_writes_a_log(works, tmp_path):
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\na,x,1\na,y,2\nb,x,3\n")
    said = works("prepare", tmp_path / "events.csv", tmp_path / "log [1]")
    assert str(tmp_path / "log [1]") in said
    assert pl.read_parquet(tmp_path / "log [1]" / "interactions.parquet", glob=False).shape == (3, 3)


def test_doctor_speaks_json(works):
    assert json.loads(works("doctor", "--json"))["c++ core"]["found"]


def test_check_names_what_is_damaged(run, copied):
    for part in ("index/v000001/codes.npy", "encoder.onnx", "items.parquet", "recommender.json"):
        folder = copied("pq")
        path = folder / part
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        code, out, _ = run("check", folder)
        assert code == 1
        assert path.name in out
        code, out, _ = run("check", folder, "--json")
        assert code == 1
        assert len(json.loads(out)["problems"]) == 1
        folder.rename(folder.with_name(path.name))


# help -----------------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy_and_is_quick():
    program = """
import sys
from everyitem.cli import main
sys.argv = ["everyitem", "--help"]
try:
    main()
except SystemExit as done:
    assert done.code == 0
heavy = {"torch", "polars", "numpy", "onnxruntime", "pyarrow", "scipy", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    assert "recommend" in result.stdout
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 0.6  # 0.15 s of processor time where byte code is cached


def test_the_help_of_train_shows_every_setting_and_its_default(works, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    shown = re.sub(r"[│\s]+", " ", works("train", "--help"))
    helps = argument_help(fit)
    for parameter in options_of(fit, without=("show",)):
        assert f"--{parameter.name.replace('_', '-')} " in shown
        assert helps[parameter.name][:40] in shown
        if parameter.default not in (None, False):
            default = parameter.name.replace("_", "-") if parameter.default is True else parameter.default
            assert f"[default: {default}]" in shown
    assert "--show" not in shown


def test_every_command_has_help(works):
    for command in ("demo", "doctor", "prepare", "train", "evaluate", "recommend", "index", "export", "check", "bench"):
        assert "Usage: " in works(command, "--help")
    for command in ("add", "remove"):
        assert "Usage: " in works("items", command, "-h")
