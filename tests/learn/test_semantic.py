"""Semantic ids from log to answers: what every command says of a model that writes its items token by token."""

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from everyitem.data.interactions import read_log
from everyitem.index import BeamIndex
from everyitem.learn import semantic
from everyitem.learn.fit import fit
from everyitem.recommender import load
from everyitem.serve.version import Version


@pytest.fixture(scope="module")
def log(tiny_log):
    return read_log(tiny_log)


@pytest.fixture(scope="module")
def settings(tiny_settings):
    return tiny_settings | {"items": "semantic-ids", "codes": "kmeans", "num_splits": 2, "beam": 5, "length": 6}


@pytest.fixture(scope="module")
def folder(log, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("semantic") / "model"
    fit(log, folder, **settings)
    return folder


def test_the_model_folder_says_how_items_are_written(folder, log):
    metrics = json.loads((folder / "metrics.json").read_text())
    model = load(folder)
    assert isinstance(model.index, BeamIndex)
    assert model.index.width == 5
    assert len(np.unique(model.index.tokens_IM, axis=0)) == log.num_items
    assert metrics["collisions"]["strings"] <= log.num_items
    assert metrics["collisions"]["sharing"] > 0
    assert model.index.tokens_IM.shape == (log.num_items, 3)
    assert 0 <= metrics["validation_ndcg@10"] <= 1
    assert model.metadata["export_error"] < 1e-5
    assert model.memory is None


def test_answers_are_whole_and_their_scores_are_explained(folder, log):
    model = load(folder)
    history = log.items["item_id"].gather(log.histories[0][:5]).to_list()
    found = model.recommend([history, history[:2]], k=10)
    assert found["rank"].to_list() == [*range(1, 11)] * 2
    assert not set(found["item_id"]) & set(history[:2])
    best = found.row(0, named=True)
    why = model.explain(history, best["item_id"])
    assert why.score == pytest.approx(best["score"], abs=1e-5)
    assert why.splits["score"].sum() == pytest.approx(why.score, abs=1e-5)
    assert why.splits["sub_item"].to_list() == model.index.tokens_IM[model.positions([best["item_id"]])[0]].tolist()
    assert why.history["similarity"].is_between(0, 1).all()
    everything = model.recommend([history], k=log.num_items, exclude_seen=False)
    assert len(everything) == everything["item_id"].n_unique() == log.num_items
    assert everything["score"].is_sorted(descending=True)


def test_similar_items_begin_alike(folder):
    model = load(folder)
    item_id = model.items["item_id"][7]
    found = model.similar_items(item_id, k=5)
    shared = model.index.shared_tokens(7)
    assert item_id not in found["item_id"]
    assert found["score"].to_list() == pytest.approx(sorted(np.delete(shared, 7) / 3, reverse=True)[:5])


def test_items_come_and_go_and_the_change_is_kept(folder, tmp_path, log):
    shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("training"))
    model = load(tmp_path / "model")
    history = log.items["item_id"].gather(log.histories[1]).to_list()
    (best,) = model.recommend([history], k=1)["item_id"]
    new = pl.DataFrame({"item_id": ["new"]}, schema={"item_id": model.items["item_id"].dtype})
    model.add_items(new, like=[[best]])
    assert model.recommend([history], k=2)["item_id"].to_list() == [best, "new"]
    model.remove_items([best])
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.recommend([history], k=1)["item_id"].to_list() == ["new"]


def test_a_resumed_run_ends_with_the_bits_of_one_that_was_not_interrupted(log, folder, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(semantic, "write_token_model", lambda *_: None)  # what is compared is the training
    monkeypatch.setattr(semantic, "write_metrics", lambda *_: None)
    monkeypatch.setattr(semantic, "load", lambda *_: None)
    fit(log, tmp_path / "again", **settings | {"epochs": 1})
    fit(log, tmp_path / "again", **settings | {"resume": True})
    states = [load_file(path / "training" / "last" / "state.safetensors") for path in (folder, tmp_path / "again")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("given", "levels"), [({"codes": "text"}, 2), ({"codes": "given"}, 3), ({"quantiser": "balanced"}, 2)]
)
def test_every_way_to_semantic_ids_tells_all_items_apart(log, settings, tmp_path, given, levels):
    published = pl.Series("sid", [f"<a_{i % 9}><b_{i % 10}><c_{i % 7}>" for i in range(log.num_items)])
    with_ids = replace(log, items=log.items.with_columns(published))
    found = semantic._quantised(with_ids, log.histories, tmp_path, settings | {"quantiser": "", "seed": 0} | given)
    assert found.codes_IM.shape[1] in (levels, levels + 1)
    assert len(np.unique(found.codes_IM, axis=0)) == log.num_items
    assert (found.vectors_VD is None) == ("given" in given.values())
    assert semantic.Strings.from_arrays(found.arrays()).collisions == found.collisions


def test_a_language_model_writes_the_items_of_its_dense_start(log, settings, tmp_path):
    given = {"epochs": 1, "backbone": "llm", "codes": None, "num_splits": None, "blocks": 1}
    model = fit(log, tmp_path / "model", **settings | given)
    assert model.metadata["settings"]["codes"] == "dense"
    assert model.metadata["settings"]["num_splits"] == 3
    assert (tmp_path / "model" / "training" / "dense" / "metrics.json").is_file()
    assert (tmp_path / "model" / "language_model" / "config.json").is_file()
    found = model.recommend([log.items["item_id"].gather(log.histories[0][:4]).to_list()], k=5)
    assert found["rank"].to_list() == [1, 2, 3, 4, 5]


def test_commands_take_the_model(folder, tiny_log, works):
    result = json.loads(works("evaluate", folder, tiny_log, "--json", "--time-users", "3"))
    assert 0 <= result["recall@10"]["value"] <= 1
    assert result["total_ms"]["median"] > 0
    assert works("check", folder)
    model = load(folder)
    answer = json.loads(works("recommend", folder, "--history", str(model.items["item_id"][3]), "--json"))
    assert len(answer) == 10
    with pytest.raises(ValueError, match="its items are semantic ids, which the server does not write"):
        Version(folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"codes": "random"}, "cannot have codes=random; allowed: dense, kmeans, text, given"),
        ({"codes": "given"}, "column sid of the items"),
        ({"backbone": "gbert4rec"}, "allowed with semantic ids: sasrec, llm"),
        ({"memory": 3}, "memory is 3; allowed with semantic ids: 0"),
        ({"loss": "bce"}, "trained with the full softmax"),
        ({"beam": 0}, "beam is 0"),
        ({"items": "pq", "codes": "text"}, "items=pq cannot have codes=text"),
    ],
)
def test_settings_that_do_not_fit_are_refused(log, settings, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        fit(log, tmp_path / "model", **settings | wrong)
    assert not (tmp_path / "model").exists()
