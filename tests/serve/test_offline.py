import io
import json
import os
import signal
import subprocess
import sys
from unittest.mock import patch

import polars as pl
import pytest

from everyitem.recommender import load
from everyitem.serve import offline
from everyitem.serve.offline import opened_job, recommend_to_parquet

SMALL = {"USERS_PER_SLICE": 7, "EVENTS_PER_PART": 300, "ROWS_PER_GROUP": 100}


@pytest.fixture(scope="module", params=["pq", "dense"])
def model(request, tiny_models):
    return tiny_models[request.param]


@pytest.fixture
def small_parts(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(offline, name, value)


@pytest.mark.parametrize("sizes", [{"USERS_PER_SLICE": 4096}, SMALL], ids=["one part", "many parts"])
@pytest.mark.parametrize("settings", [{}, {"where": "in_stock and price < 30", "exclude_seen": False}])
def test_the_file_is_what_recommend_returns(model, tiny_log, tmp_path, sizes, settings):
    out = tmp_path / "out.parquet"
    with patch.multiple(offline, **sizes):
        assert recommend_to_parquet(model, tiny_log, out, k=4, threads=3, **settings) == (120, 0)
    found, expected = pl.read_parquet(out), load(model).recommend(tiny_log, k=4, **settings)
    assert found.drop("score").equals(expected.drop("score"))
    assert (found["score"] - expected["score"]).abs().max() < 1e-5  # the encoder's bits depend on the batch
    assert found.schema == expected.schema
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_log_of_any_kind_gives_the_same_bytes(model, tiny_log, tmp_path, small_parts):
    events = pl.read_parquet(tiny_log / "interactions.parquet")
    events.sample(fraction=1, shuffle=True, seed=1).write_csv(tmp_path / "log.csv")
    events.write_parquet(tmp_path / "log.parquet")
    found = set()
    for source in (tiny_log, tmp_path / "log.csv", tmp_path / "log.parquet"):
        recommend_to_parquet(model, source, tmp_path / "out.parquet", threads=1 + len(found))
        found.add((tmp_path / "out.parquet").read_bytes())
    assert len(found) == 1


KILLED = f"""
import sys
from everyitem.serve import offline
vars(offline).update({SMALL})
offline.recommend_to_parquet(*sys.argv[1:], k=4, threads=1)
"""


def kill(where, *arguments):
    environment = os.environ | {"EVERYITEM_KILLPOINT": where}
    return subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], env=environment).returncode


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tiny_models, tiny_log, tmp_path, small_parts):
    model, out, parts = tiny_models["pq"], tmp_path / "out.parquet", tmp_path / "out.parquet.parts"
    recommend_to_parquet(model, tiny_log, tmp_path / "whole.parquet", k=4)
    assert kill("after-slice-1-2", model, tiny_log, out) == -signal.SIGKILL
    written = {path: path.stat().st_mtime_ns for path in parts.glob("0*/*.parquet")}
    assert (parts / "000001" / "0002.parquet") in written
    assert kill("before-result", model, tiny_log, out) == -signal.SIGKILL
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert not out.exists()
    with patch.object(offline.Worker, "do", side_effect=AssertionError("nothing is left to do")):
        assert recommend_to_parquet(model, tiny_log, out, k=4) == (120, 0)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not parts.exists()


@pytest.mark.parametrize("changed", [{"k": 5}, {"where": "in_stock"}, {"exclude_seen": False}, "model", "log", "size"])
def test_parts_of_another_job_are_never_used(changed, copied, tiny_log, tmp_path, small_parts):
    model, log, out = copied(), tmp_path / "log.parquet", tmp_path / "out.parquet"
    events = pl.read_parquet(tiny_log / "interactions.parquet")
    events.write_parquet(log)
    options = {"k": 4, "where": None, "exclude_seen": True}
    with opened_job(model, log, out, **options) as job:
        for number in job.missing():
            offline.Worker(job).do(number, 2)
    for path in job.folder.glob("0*/*.parquet"):
        path.write_bytes(b"a mixture would show")
    if changed == "model":
        changed_model = load(model)
        changed_model.remove_items(changed_model.items["item_id"][:1].to_list())
        changed_model.save(model)
    elif changed == "log":
        events.head(-1).write_parquet(log)
    elif changed == "size":
        offline.USERS_PER_SLICE = 8
    else:
        options |= changed
    recommend_to_parquet(model, log, out, **options)
    found, expected = pl.read_parquet(out), load(model).recommend(log, **options)
    assert found.drop("score").equals(expected.drop("score"))


def test_a_model_that_changes_meanwhile_is_refused(copied, tiny_log, tmp_path):
    model = copied()
    with opened_job(model, tiny_log, tmp_path / "out.parquet", k=4, where=None, exclude_seen=True) as job:
        changed = load(model)
        changed.remove_items(changed.items["item_id"][:1].to_list())
        changed.save(model)
        with pytest.raises(ValueError, match="changed since this run began; start the command again"):
            offline.Worker(job)


def test_two_runs_do_not_write_one_file(tiny_models, tiny_log, tmp_path):
    options = {"k": 4, "where": None, "exclude_seen": True}
    with (
        opened_job(tiny_models["pq"], tiny_log, tmp_path / "out.parquet", **options),
        pytest.raises(BlockingIOError, match="another process is writing it"),
    ):
        recommend_to_parquet(tiny_models["pq"], tiny_log, tmp_path / "out.parquet", k=4)


def test_a_folder_of_somebody_else_is_not_cleared(tiny_models, tiny_log, tmp_path):
    mine = tmp_path / "out.parquet.parts" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("the only copy")
    with pytest.raises(ValueError, match="not of an earlier run; move them"):
        recommend_to_parquet(tiny_models["pq"], tiny_log, tmp_path / "out.parquet")
    assert mine.read_text() == "the only copy"


def test_damaged_notes_of_a_run_are_no_notes(tiny_models, tiny_log, tmp_path):
    notes = tmp_path / "out.parquet.parts" / "job.json"
    notes.parent.mkdir()
    notes.write_text(json.dumps({"k": 4}))
    assert recommend_to_parquet(tiny_models["pq"], tiny_log, tmp_path / "out.parquet") == (120, 0)


def test_users_without_a_known_event_get_popularity(model, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id\nu,item-003\nv,nobody\n")
    assert recommend_to_parquet(model, log, tmp_path / "out.parquet", k=2**31 - 1) == (2, 1)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.group_by("user_id").len().sort("user_id").rows() == [("u", 399), ("v", 400)]
    assert found.filter(user_id="v")["item_id"].to_list() == load(model).answer([[]], 400).frame["item_id"].to_list()


def test_a_condition_that_nothing_meets_is_an_empty_file(model, tiny_log, tmp_path):
    assert recommend_to_parquet(model, tiny_log, tmp_path / "out.parquet", where="price < 0") == (120, 0)
    assert pl.read_parquet(tmp_path / "out.parquet").shape == (0, 4)


@pytest.mark.parametrize("settings", [{"k": 0}, {"where": "nope"}, {"threads": 0}])
def test_mistakes_leave_the_old_file_alone(model, tiny_log, tmp_path, settings):
    out = tmp_path / "out.parquet"
    out.write_text("old")
    with pytest.raises(ValueError, match=r"k is 0|nope|threads is 0"):
        recommend_to_parquet(model, tiny_log, out, **settings)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_integers_for_a_model_with_text_ids_are_refused(model, tmp_path):
    pl.DataFrame({"user_id": [1], "item_id": [3]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(ValueError, match="item ids are String in this model"):
        recommend_to_parquet(model, tmp_path / "log.parquet", tmp_path / "out.parquet")


@pytest.mark.parametrize("name", [".", "missing/out.parquet", "file/out.parquet"])
def test_a_place_that_takes_no_file_is_refused_at_once(model, tiny_log, tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"give a \.parquet file in a folder that exists"):
        recommend_to_parquet(model, tiny_log, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_progress_goes_on_where_an_earlier_run_stopped(tiny_models, tiny_log, tmp_path, small_parts):
    from rich.console import Console

    console = Console(record=True, file=io.StringIO(), force_terminal=True, width=120)
    with opened_job(tiny_models["pq"], tiny_log, tmp_path / "out.parquet", k=4, where=None, exclude_seen=True) as job:
        offline.Worker(job).do(0, 1)
    recommend_to_parquet(tiny_models["pq"], tiny_log, tmp_path / "out.parquet", k=4, console=console)
    text = console.export_text()
    assert "going on after" in text
    assert "100 % 120 users" in text
