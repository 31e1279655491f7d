"""Pruning item-ID models from the command line."""

import json

import numpy as np
import pytest
import torch

from everyitem.data.interactions import read_log
from everyitem.learn.fit import fit
from everyitem.learn.shrink import read_backbone
from everyitem.recommender import load


@pytest.fixture(scope="module")
def gbert(tiny_log, tiny_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gbert") / "model"
    fit(read_log(tiny_log), folder, backbone="gbert4rec", items="dense", memory=0, **tiny_settings)
    return folder


def sizes(folder):
    return json.loads((folder / "recommender.json").read_text())["shape"]


@pytest.mark.parametrize("kind", ["pq", "gbert"])
def test_a_model_folder_becomes_a_smaller_one(works, tiny_models, gbert, tiny_log, tmp_path, kind):
    model, out = gbert if kind == "gbert" else tiny_models["pq"], tmp_path / "out"
    command = ("prune", model, out, "--log", tiny_log, "--keep-mlp", 8, "--drop-layers", 1, "--epochs", 2, "--json")
    report = json.loads(works(*command))
    assert (sizes(out)["blocks"], sizes(out)["neurons"]) == (1, 8)
    assert report["after"]["parameters"] < 0.6 * report["before"]["parameters"]
    assert [stage["part"] for stage in report["stages"]] == ["width", "depth"]
    before, after = load(model), load(out)
    assert np.array_equal(before.index.vectors(np.arange(5)), after.index.vectors(np.arange(5)))
    assert (before.memory is None) == (after.memory is None)
    assert after.recommend([before.items["item_id"].to_list()[:3]], k=5)["item_id"].len() == 5
    assert "intact" in works("check", out)
    evaluation = json.loads(works("evaluate", out, tiny_log, "--time-users", 0, "--json"))
    assert evaluation["ndcg@10"]["value"] >= 0
    again = read_backbone(out, after)  # what was cut can be cut again
    assert again.last(torch.zeros(1, 3, again.dim)).shape == (1, again.dim)


def test_heads_go_too(works, gbert, tiny_log, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    table = works("prune", gbert, tmp_path / "out", "--log", tiny_log, "--keep-heads", 1, "--epochs", 1)
    assert "depth restored" in table
    assert sizes(tmp_path / "out") == {"blocks": 2, "heads": 1, "head_width": 16, "neurons": 128}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--keep-mlp", 8, "--paper"), "paper is about language models, and this is an item-ID model"),
        (("--keep-hidden", 8), "shares its hidden dimensions with the item vectors"),
        (("--drop-layers", 2), "got 0 blocks to keep; allowed: 1 to 2"),
        (("--keep-heads", 3), "got 3 heads to keep; allowed: 1 to 1"),
    ],
)
def test_mistakes_are_one_line(refused, tiny_models, tiny_log, tmp_path, options, said):
    assert said in refused("prune", tiny_models["pq"], tmp_path / "out", "--log", tiny_log, *options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_overwritten(refused, tiny_models, tiny_log, tmp_path):
    (tmp_path / "diary.txt").write_text("dear")
    said = refused("prune", tiny_models["pq"], tmp_path, "--log", tiny_log, "--drop-layers", 1)
    assert "not of a pruning by everyitem, so it is not overwritten" in said
