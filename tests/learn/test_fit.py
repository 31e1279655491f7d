import inspect
import json

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from everyitem.data.interactions import read_log
from everyitem.learn.fit import fit
from everyitem.recommender import EVENTS, load


@pytest.fixture
def small(tiny_settings):
    return lambda **settings: tiny_settings | {"epochs": 1} | settings


def users_with(num_events, num_users=40, num_items=60):
    """A log of users with so many events each."""
    rng = np.random.default_rng(0)
    items = [rng.permutation(num_items)[:num_events] for _ in range(num_users)]
    events = {"user_id": np.repeat(np.arange(num_users), num_events), "item_id": np.concatenate(items)}
    return read_log(pl.DataFrame(events), items=pl.DataFrame({"item_id": range(num_items)}))


@pytest.fixture(scope="module")
def log(tiny_log):
    return read_log(tiny_log)


def test_metrics_say_what_was_done_and_how_fast(tiny_models):
    for items, folder in tiny_models.items():
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["protocol"] == load(folder).metadata["protocol"]
        assert 0 <= metrics["validation_ndcg@10"] <= 1
        assert metrics["positions"] > metrics["updates"] > 0
        assert metrics["positions_per_second"] == pytest.approx(metrics["positions"] / metrics["training_seconds"])
        assert metrics["encoder_bytes"] == (folder / "encoder.onnx").stat().st_size
        assert metrics["index_bytes"] > 400 * (4 if items == "pq" else 32 * 4)
        assert ("ties" in metrics) == ("coding_seconds" in metrics) == (items == "pq")


def test_the_model_folder_is_complete_without_training(tiny_models, log, tiny_settings):
    folder = tiny_models["pq"]
    names = {path.name for path in folder.iterdir()} - {"training"}
    parts = {"encoder.onnx", "encoder.safetensors", "index", "items.parquet", "recommender.json", "metrics.json"}
    parts.add("memory.safetensors")
    assert names == parts | {"README.md"}
    model = load(folder)
    assert model.items.drop(EVENTS).equals(log.items)
    assert model.items[EVENTS].sum() == model.metadata["protocol"]["train_events"] == log.num_events - 2 * 120
    assert model.metadata["settings"] == json.loads((folder / "training" / "settings.json").read_text())
    assert (
        model.metadata["settings"] | {k: v for k, v in tiny_settings.items() if k not in ("threads", "show")}
        == model.metadata["settings"]
    )


def test_the_same_seed_gives_the_same_model_without_a_word(log, tiny_models, tiny_settings, tmp_path, capfd, recwarn):
    first, second = load(tiny_models["pq"]), fit(log, tmp_path / "model", **tiny_settings)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert [str(warning.message) for warning in recwarn if "LeafSpec" in str(warning.message)] == []
    assert first.index.codebooks_MBd.tobytes() == second.index.codebooks_MBd.tobytes()
    history = [log.items["item_id"].gather(log.histories[0]).to_list()]
    assert first.recommend(history).equals(second.recommend(history))


def test_a_resumed_run_ends_with_the_bits_of_one_that_was_not_interrupted(log, tmp_path, small):
    fit(log, tmp_path / "whole", **small(epochs=2))
    fit(log, tmp_path / "parts", **small(epochs=1))
    before = json.loads((tmp_path / "parts" / "metrics.json").read_text())
    fit(log, tmp_path / "parts", **small(epochs=2, resume=True))
    after = json.loads((tmp_path / "parts" / "metrics.json").read_text())
    assert after["updates"] == 2 * before["updates"]
    assert after["training_seconds"] > before["training_seconds"]
    states = [load_file(tmp_path / run / "training" / "last" / "state.safetensors") for run in ("whole", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("changed", [{"dim": 16}, {"seed": 1}, {"items": "dense"}, {"loss": "gbce"}, {"split": "time"}])
def test_resuming_with_other_settings_is_refused(log, tiny_models, tmp_path, changed, tiny_settings):
    folder = tmp_path / "model" / "training"
    folder.mkdir(parents=True)
    stored = (tiny_models["pq"] / "training" / "settings.json").read_text()
    (folder / "settings.json").write_text(stored)
    name = next(iter(changed))
    with pytest.raises(ValueError, match=f"cannot resume, the run was started with {name}="):
        fit(log, folder.parent, **tiny_settings | changed, resume=True)
    assert (folder / "settings.json").read_text() == stored


REFUSED = [
    ({"dim": 30}, "num_splits=4 must divide dim=30"),
    ({"num_splits": 0}, "num_splits is 0"),
    ({"dim": 130, "num_splits": 65}, "at most 64"),
    ({"num_sub_items": 1}, "num_sub_items is 1; codes are bytes, so allowed: 2 to 256"),
    ({"num_sub_items": 257}, "num_sub_items is 257"),
    ({"backbone": "gbert4rec", "dim": 5, "items": "dense"}, "not a multiple of heads"),
    *(
        ({name: 0}, f"{name} is 0")
        for name in ("dim", "blocks", "length", "num_negatives", "batch_positions", "epochs")
    ),
    *(({name: 0}, f"{name} is 0") for name in ("patience", "validate_every", "threads", "minutes", "learning_rate")),
    ({"length": 1}, "length is 1; allowed: 2 or more"),
    ({"length": 2, "backbone": "gbert4rec"}, "length is 2; allowed: 3 or more"),
    ({"minutes": -1.0}, "minutes is -1"),
    ({"minutes": float("nan")}, "minutes is nan"),
    ({"dropout": 1.0}, "dropout is 1"),
    ({"dropout": -0.1}, "dropout is -0.1"),
    ({"seed": -1}, "non-negative"),
    ({"concentration": -0.1}, "concentration is -0.1"),
    ({"concentration": float("nan")}, "concentration is nan"),
    ({"concentration": 0.1, "items": "dense"}, "dense items have no splits"),
    ({"loss": "split-softmax", "items": "dense"}, "dense items have no splits"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(log, tmp_path, settings, message, small):
    with pytest.raises(ValueError, match=message):
        fit(log, tmp_path / "model", **small(**settings))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("num_events", [1, 2, 3])
def test_histories_too_short_to_learn_from_are_refused_before_anything_is_written(tmp_path, num_events, small):
    with pytest.raises(ValueError, match=r"longer (log|histories)"):
        fit(users_with(num_events), tmp_path / "model", **small())
    assert not (tmp_path / "model").exists()


def test_four_events_are_enough(tmp_path, small):
    assert len(fit(users_with(4), tmp_path / "model", **small()).recommend([[3, 4]], k=99)) == 58


def test_a_split_by_time_needs_times(tmp_path, small):
    with pytest.raises(ValueError, match="needs a datetime column"):
        fit(users_with(9), tmp_path / "model", **small(split="time"))
    assert not (tmp_path / "model").exists()


def test_a_split_by_time_trains(log, tmp_path, small):
    protocol = fit(log, tmp_path / "model", **small(split="time")).metadata["protocol"]
    assert protocol["split"] == "time"
    assert protocol["train_events"] < 0.9 * log.num_events


def test_items_with_our_own_column_are_refused(tmp_path, log, small):
    items = log.items.with_columns(pl.lit(1).alias(EVENTS))
    with pytest.raises(ValueError, match=f"column {EVENTS}.*rename"):
        fit(read_log(users_frame(log), items=items), tmp_path / "model", **small())
    assert not (tmp_path / "model").exists()


def users_frame(log):
    users = log.user_ids.gather(np.repeat(np.arange(log.num_users), log.histories.lengths))
    return pl.DataFrame({"user_id": users, "item_id": log.items["item_id"].gather(log.histories.items)})


def test_a_folder_that_is_not_of_a_training_is_not_deleted(log, tmp_path, small):
    mine = tmp_path / "training" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("the only copy")
    with pytest.raises(ValueError, match="not overwritten"):
        fit(log, tmp_path, **small())
    assert mine.read_text() == "the only copy"


@pytest.mark.parametrize(
    ("codes", "loss", "backbone", "length"),
    [
        ("dense", "softmax", "gbert4rec", 10),
        ("kmeans", "gbce", "sasrec", 2),
        ("svd-rank", "bce", "gbert4rec", 3),
        ("svd", "full-softmax", "sasrec", 10),
        ("bpr", "gbce", "gbert4rec", 10),
        ("random", "bce", "sasrec", 10),
        ("dense", "split-softmax", "esasrec", 10),
    ],
)
def test_every_choice_trains_on_fewer_items_than_sub_items(tmp_path, small, codes, loss, backbone, length):
    choice = {"codes": codes, "loss": loss, "backbone": backbone, "length": length, "blocks": 1}
    choice["concentration"] = 0.1 * (backbone == "gbert4rec")
    model = fit(users_with(6), tmp_path / "model", **small(**choice))
    assert len(np.unique(model.index.codes_IM, axis=0)) == 60
    assert model.metadata["history_length"] == length - (backbone == "gbert4rec")
    found = model.recommend([[3, 4]], k=99)
    assert len(found) == 58
    assert found["score"].is_finite().all()


def test_every_setting_has_a_default_and_help():
    from everyitem.cli.signature import argument_help

    settings = {p.name for p in inspect.signature(fit).parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert settings <= set(argument_help(fit))
    assert all(p.default is not p.empty for p in inspect.signature(fit).parameters.values() if p.name in settings)
