import numpy as np
import polars as pl
import pytest

from everyitem.data.interactions import read_log
from everyitem.data.splits import leave_one_out
from everyitem.evaluate.heldout import evaluate_models, sample, split_for
from everyitem.learn.fit import fit
from everyitem.recommender import load


@pytest.fixture(scope="module")
def tables(tiny_log):
    return pl.read_parquet(tiny_log / "interactions.parquet"), pl.read_parquet(tiny_log / "items.parquet")


def written(folder, interactions, items):
    folder.mkdir()
    interactions.write_parquet(folder / "interactions.parquet")
    items.write_parquet(folder / "items.parquet")
    return folder


def metrics(model, log, **settings):
    result = evaluate_models([model], log, time_users=0, **settings)[str(model)].to_json()
    return {name: value for name, value in result.items() if "@" in name or name == "users"}


def test_the_models_own_split_is_repeated_exactly(tiny_models, tiny_log):
    log = read_log(tiny_log)
    model = load(tiny_models["pq"])
    split, expected = split_for(model, log), leave_one_out(log, seed=0)
    assert split.test.targets.tolist() == expected.test.targets.tolist()
    assert split.valid.rows.tolist() == expected.valid.rows.tolist()
    assert split.train.num_events == model.metadata["protocol"]["train_events"]
    assert [row.tolist() for row in split.test.histories] == [row.tolist() for row in expected.test.histories]


def test_metrics_are_those_of_ranks_counted_by_hand(tiny_models, tiny_log):
    log, model = read_log(tiny_log), load(tiny_models["pq"])
    hits = []
    for row in log.histories:
        ids = log.items["item_id"].gather(row).to_list()
        hits.append(ids[-1] in model.recommend([ids[:-1]], k=10, exclude_seen=False)["item_id"].to_list())
    found = metrics(tiny_models["pq"], tiny_log)
    assert found["users"] == len(hits) == 120
    assert found["recall@10"]["value"] == pytest.approx(np.mean(hits))


def test_order_and_extra_items_of_the_log_do_not_matter(tiny_models, tiny_log, tables, tmp_path):
    interactions, items = tables
    extra = pl.DataFrame({"item_id": ["aaa-new", "zzz-new"]})
    shuffled = items.sample(fraction=1, shuffle=True, seed=1)
    expected = metrics(tiny_models["pq"], tiny_log)
    logs = {
        "reversed": items.reverse(),
        "shuffled": shuffled,
        "extra": pl.concat([extra, shuffled], how="diagonal"),
    }
    for name, other in logs.items():
        assert metrics(tiny_models["pq"], written(tmp_path / name, interactions, other)) == expected


def test_a_target_that_the_model_does_not_have_is_a_miss(tiny_models, tiny_log, tables, tmp_path):
    interactions, items = tables
    last = interactions["item_id"][-1]
    swapped = interactions.with_columns(
        pl.when(pl.int_range(pl.len()) == len(interactions) - 1)
        .then(pl.lit("zzz-new"))
        .otherwise("item_id")
        .alias("item_id")
    )
    log = written(tmp_path / "log", swapped, items)
    assert split_for(load(tiny_models["pq"]), read_log(log)).test.targets[-1] == -1
    before = evaluate_models([tiny_models["pq"]], tiny_log, time_users=0)[str(tiny_models["pq"])]
    after = evaluate_models([tiny_models["pq"]], log, time_users=0)[str(tiny_models["pq"])]
    assert last in items["item_id"]
    assert after.ranks_U[:-1].tolist() == before.ranks_U[:-1].tolist()
    assert after.ranks_U[-1] == 0


def test_another_log_is_refused(tiny_models, tables, tmp_path):
    interactions, items = tables
    log = written(tmp_path / "log", interactions.head(len(interactions) - 1), items)
    with pytest.raises(ValueError, match=r"not the log that the model was trained on \(train_events"):
        metrics(tiny_models["pq"], log)


def test_models_with_the_same_split_stand_side_by_side(tiny_models, tiny_log):
    results = evaluate_models(list(tiny_models.values()), tiny_log, baselines=True, max_users=50, time_users=5)
    names = [*(str(path) for path in tiny_models.values()), "popularity", "repeat last", "Markov", "ItemKNN"]
    assert list(results) == names
    assert len({tuple(result.targets_U) for result in results.values()}) == 1
    assert {result.users for result in results.values()} == {50}
    assert [result.timing is None for result in results.values()] == [False] * len(tiny_models) + [True] * 4


def test_models_with_other_splits_are_refused(tiny_models, tiny_log, tiny_settings, tmp_path):
    other = tmp_path / "other"
    fit(read_log(tiny_log), other, **tiny_settings, seed=7)
    with pytest.raises(ValueError, match="different splits or seeds"):
        evaluate_models([tiny_models["pq"], other], tiny_log)


def test_models_with_other_catalogues_are_refused(tiny_models, tiny_log, copied):
    folder = copied("pq")
    model = load(folder)
    model.add_items(pl.DataFrame({"item_id": ["new"]}), like=[["item-003"]])
    model.save(folder)
    assert metrics(folder, tiny_log)["users"] == 120
    with pytest.raises(ValueError, match="different catalogues"):
        evaluate_models([tiny_models["pq"], folder], tiny_log)


def test_a_model_that_does_not_state_its_split_is_refused(copied, tiny_log):
    folder = copied("pq")
    model = load(folder)
    del model.metadata["protocol"]
    model.save(folder)
    with pytest.raises(ValueError, match="does not state its split"):
        evaluate_models([folder], tiny_log)


def test_a_sample_keeps_questions_and_answers_together(tiny_models, tiny_log):
    test = split_for(load(tiny_models["pq"]), read_log(tiny_log)).test
    some = sample(test, 30)
    assert len(some.rows) == len(some.histories) == len(some.targets) == 30
    of_row = dict(zip(test.rows.tolist(), zip(test.targets, test.histories, strict=True), strict=True))
    for row, target, history in zip(some.rows.tolist(), some.targets, some.histories, strict=True):
        assert of_row[row][0] == target
        assert of_row[row][1].tolist() == history.tolist()
    assert sample(test, None) is test
    assert sample(test, 120) is test
