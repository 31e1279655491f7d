from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from everyitem.data.interactions import read_log
from everyitem.data.synthetic import NOUNS, SyntheticLog, statistics, synthetic_log, write_synthetic_log


@pytest.fixture(scope="module")
def log() -> SyntheticLog:
    return synthetic_log()


def test_documented_statistics(log):
    measured = statistics(log)
    assert measured["users"] == 6_000
    assert measured == pytest.approx(
        {
            "users": 6_000,
            "items": 16_900,
            "events": 152_000,
            "mean_length": 25.0,
            "median_length": 17.0,
            "top_1_percent": 0.21,
            "zipf_exponent": 0.68,
            "same_series": 0.75,
            "repeats": 0.28,
        },
        rel=0.06,
    )


def test_statistics_by_hand():
    items = pl.DataFrame({"item_id": [0, 1, 2], "series": ["a", "a", "b"]})
    log = SyntheticLog(pl.DataFrame({"user_id": [7, 7, 7, 8, 8], "item_id": [0, 1, 0, 1, 2]}), items)
    measured = statistics(log)
    assert np.isnan(measured.pop("zipf_exponent"))  # too few items for a slope
    assert measured == pytest.approx(
        {
            "users": 2,
            "items": 3,
            "events": 5,
            "mean_length": 2.5,
            "median_length": 2.5,
            "top_1_percent": 0.4,
            "same_series": 2 / 3,
            "repeats": 0.2,
        }
    )


def hit_rates(log: SyntheticLog) -> dict[str, float]:
    """Leave-one-out HR@10 over all items of three models that need no training."""
    histories = log.interactions.group_by("user_id", maintain_order=True).agg("item_id")["item_id"].to_list()
    popularity = Counter(item for history in histories for item in history[:-1])
    follow: dict[str, Counter] = defaultdict(Counter)
    for history in histories:
        for before, after in pairwise(history[:-1]):
            follow[before][after] += 1
    best = [item for item, _ in popularity.most_common(10)]
    hits = Counter()
    for *history, target in histories:
        memory: Counter = Counter()
        for age, item in enumerate(history[:-21:-1]):
            total = follow[item].total() + 2
            memory.update({after: 0.7**age * count / total for after, count in follow[item].items()})
        hits["popularity"] += target in best
        hits["markov"] += target in [item for item, _ in follow[history[-1]].most_common(10)]
        hits["memory"] += target in [item for item, _ in memory.most_common(10)]
    return {model: count / len(histories) for model, count in hits.items()}


def test_a_sequence_model_has_something_to_learn(log):
    rates = hit_rates(log)
    assert 0.02 < rates["popularity"] < 0.06
    assert 0.40 < rates["markov"] < 0.50
    assert rates["memory"] > rates["markov"] + 0.07  # earlier sessions tell more than the last item alone


def test_same_seed_same_log_other_seed_other_log():
    first, again, other = (synthetic_log(500, 50, seed=seed) for seed in (3, 3, 4))
    assert first.interactions.equals(again.interactions)
    assert first.items.equals(again.items)
    assert not first.interactions.equals(other.interactions)
    assert not first.items.equals(other.items)


def test_tables(log):
    assert log.interactions.schema == {"user_id": pl.String, "item_id": pl.String, "datetime": pl.Datetime("us")}
    assert log.interactions.equals(log.interactions.sort("user_id", "datetime", maintain_order=True))
    assert log.interactions["user_id"].unique().sort().to_list() == [f"user-{user:04}" for user in range(6_000)]
    assert log.items["item_id"].to_list() == [f"item-{item:05}" for item in range(20_000)]
    assert log.interactions["item_id"].is_in(log.items["item_id"].implode()).all()
    assert log.items["title"].n_unique() == 20_000
    assert log.items.dtypes == [pl.String] * 5 + [pl.Float64, pl.Boolean]
    assert log.items.null_count().sum_horizontal().item() == 0
    assert (log.items["price"] > 0).all()
    assert 0.90 < log.items["in_stock"].mean() < 0.94
    assert log.items["category"].n_unique() == len(NOUNS)
    assert {len(nouns.split()) for nouns in NOUNS.values()} == {8}
    per_series = log.items.group_by("series").agg(pl.len(), pl.col("category").n_unique())
    assert per_series["len"].unique().to_list() == [40]
    assert per_series["category"].unique().to_list() == [1]
    assert log.interactions["datetime"].min().year == 2024


def test_integer_ids_are_the_same_log():
    words, numbers = synthetic_log(300, 40), synthetic_log(300, 40, ids="int")
    assert numbers.interactions.schema["item_id"] == pl.Int64
    number = pl.col("user_id", "item_id").str.slice(5).cast(pl.Int64)
    assert words.interactions.with_columns(number).equals(numbers.interactions)


@pytest.mark.parametrize("num_items", [1, 2, 39, 41])
def test_small_catalogues(num_items):
    log = synthetic_log(num_items, 5, ids="int")
    assert len(log.items) == num_items
    assert log.interactions["item_id"].is_between(0, num_items - 1).all()
    assert log.interactions.group_by("user_id").len()["len"].min() >= 5


def test_written_log_is_the_same_and_spans_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("everyitem.data.synthetic.USERS_PER_CHUNK", 30)
    monkeypatch.setattr("everyitem.data.synthetic.ITEMS_PER_CHUNK", 150)
    log = synthetic_log(400, 100)
    folder = write_synthetic_log(tmp_path / "log", 400, 100)
    assert pl.read_parquet(folder / "interactions.parquet").equals(log.interactions)
    assert pl.read_parquet(folder / "items.parquet").equals(log.items)
    assert log.interactions["user_id"].n_unique() == 100
    assert sorted(path.name for path in folder.iterdir()) == ["interactions.parquet", "items.parquet"]
    read = read_log(folder)
    assert (read.num_users, read.num_items, read.num_events) == (100, 400, len(log.interactions))
    np.testing.assert_array_equal(read.items["item_id"].to_numpy(), log.items["item_id"].to_numpy())


def test_200_000_items():
    log = synthetic_log(200_000, 20_000)
    assert len(log.items) == log.items["title"].n_unique() == 200_000
    assert statistics(log)["events"] == pytest.approx(500_000, rel=0.05)


@pytest.mark.parametrize("wrong", [{"num_items": 0}, {"num_users": -1}, {"mean_length": 5.0}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; allowed: . or more"):
        synthetic_log(**wrong)
