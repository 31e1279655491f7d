import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from everyitem.data.interactions import read_log
from everyitem.evaluate.baselines import Popularity
from everyitem.index import reference
from everyitem.index.pq import PQIndex
from everyitem.memory import remember
from everyitem.model.export import torch_queries
from everyitem.model.items import DenseItems, PQItems
from everyitem.model.transformer import SASRec
from everyitem.recommender import EVENTS, Recommender, load
from everyitem.types import Histories

COLUMNS = ["user_id", "item_id", "score", "rank"]
HISTORY = ["item-003", "item-017", "item-250"]


@pytest.fixture(scope="module", params=["pq", "dense"])
def model(request, tiny_models):
    return load(tiny_models[request.param])


@pytest.fixture(scope="module")
def pq_model(tiny_models):
    return load(tiny_models["pq"])


@pytest.fixture
def fresh(copied):
    return load(copied("pq"))


def with_integer_ids(recommender):
    """The same model of a shop that counts its items from 1000 downwards."""
    ids = pl.Series("item_id", 1000 - np.arange(len(recommender.items)))
    items = recommender.items.with_columns(ids)
    return Recommender(recommender.encoder, recommender.index, items, recommender.metadata, recommender.memory)


def scores_by_hand(folder, recommender, rows):
    """(U, I): the encoder in torch, the scores in NumPy, read from the files and not from the code under test."""
    said = recommender.metadata["settings"]
    backbone = SASRec(said["dim"], blocks=said["blocks"], length=said["length"], dropout=said["dropout"])
    backbone.load_state_dict(load_file(folder / "encoder.safetensors"))
    version = folder / "index" / "v000001"
    if isinstance(recommender.index, PQIndex):
        codes, codebooks = (np.load(version / f"{name}.npy", allow_pickle=False) for name in ("codes", "codebooks"))
        table = PQItems(codes, said["dim"], codebooks_MBd=codebooks)
        vectors = np.concatenate([codebooks[m, codes[:, m]] for m in range(codes.shape[1])], axis=1)
    else:
        vectors = np.load(version / "vectors.npy", allow_pickle=False)
        table = DenseItems(*vectors.shape)
        table.vectors.data[:] = table.vectors.new_tensor(vectors)
    scores = torch_queries(backbone.eval(), table, rows).astype(np.float64) @ vectors.T.astype(np.float64)
    return with_memory(scores, recommender, rows)


def with_memory(scores, recommender, rows):
    """Scores of vectors, and those of remembered items by the formula (`tests/test_memory.py` checks the features)."""
    scores = scores.copy()
    memory = recommender.memory
    found = remember(memory.transitions, rows, int(memory.length))
    for row, (items, features, seen) in enumerate(zip(*found, found.seen_UN, strict=True)):
        real = items >= 0
        items, slopes = items[real], np.where(seen[real], *memory.slopes)
        behind = scores[row, items] - np.delete(scores[row], items).max()
        scores[row, items] += features[real] @ memory.weights_F + slopes * behind
    return scores


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_recommendations_are_those_of_brute_force(tiny_models, model, exclude_seen, tiny_log):
    rows = read_log(tiny_log).histories.select(slice(0, 40))
    folder = next(path for path in tiny_models.values() if load(path).index.__class__ is model.index.__class__)
    expected = scores_by_hand(folder, model, rows)
    ids = model.items["item_id"]
    asked = [ids.gather(row).to_list() for row in rows]
    answer = model.recommend(asked, k=7, exclude_seen=exclude_seen)
    assert answer.columns == COLUMNS
    for user, (row, scores) in enumerate(zip(rows, expected, strict=True)):
        found = answer.filter(pl.col("user_id") == user)
        positions = model.positions(found["item_id"])
        np.testing.assert_allclose(found["score"], scores[positions], atol=2e-5)
        eligible = np.setdiff1d(np.arange(len(ids)), row) if exclude_seen else np.arange(len(ids))
        assert set(positions) <= set(eligible)
        rest = np.setdiff1d(eligible, positions)
        assert scores[rest].max() <= found["score"].min() + 2e-5
        assert found["rank"].to_list() == list(range(1, 8))


def test_order_and_score_bits_are_those_of_the_reference(pq_model):
    rows = Histories.from_lists([[3, 17, 250], [5], list(range(30))])
    scores = reference.pq_scores(pq_model.index.score_table(pq_model.encode(rows)), pq_model.index.codes_IM)
    expected = reference.top_k(scores, 20, exclude=rows.padded())
    vectors_alone = Recommender(pq_model.encoder, pq_model.index, pq_model.items, pq_model.metadata)
    found = vectors_alone.rank(rows, 20, exclude_seen=True)
    assert found.items.tolist() == expected.items.tolist()
    assert found.scores.tobytes() == expected.scores.tobytes()


def test_the_answer_is_a_table_of_the_kind_of_the_question(pq_model):
    events = pl.DataFrame({"user_id": ["v", "u", "u"], "item_id": ["item-009", *HISTORY[:2]]})
    expected = pq_model.recommend([HISTORY[:2], ["item-009"]], k=3)
    for kind, source in {"polars": events, "pandas": events.to_pandas(), "pyarrow": events.to_arrow()}.items():
        answer = pq_model.recommend(source, k=3)
        assert type(answer).__module__.split(".")[0] == kind
        as_polars = (
            answer if kind == "polars" else pl.from_pandas(answer) if kind == "pandas" else pl.from_arrow(answer)
        )
        assert as_polars.columns == COLUMNS
        assert as_polars["user_id"].to_list() == ["u"] * 3 + ["v"] * 3
        assert as_polars.drop("user_id").equals(expected.drop("user_id"))


def test_integer_ids_answer_as_strings_do(pq_model):
    integers = with_integer_ids(pq_model)
    history = [1000 - 3, 1000 - 17, 1000 - 250]
    assert pq_model.recommend([HISTORY])["score"].equals(integers.recommend([history])["score"])
    names = pq_model.recommend([HISTORY])["item_id"].to_list()
    assert integers.recommend([history])["item_id"].to_list() == [1000 - int(name[5:]) for name in names]
    assert integers.recommend([np.array(history, np.int32).tolist()])["item_id"].dtype == pl.Int64
    assert integers.parse_ids([" 12", "", "-3"]) == [12, -3]
    with pytest.raises(ValueError, match="integers; got x"):
        integers.parse_ids(["x"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(st.integers(-5, 410), max_size=14), max_size=4),
    k=st.integers(1, 500),
    below=st.floats(0, 40),
    exclude_seen=st.booleans(),
    banned=st.lists(st.integers(0, 405), max_size=300),
)
def test_everybody_gets_min_of_k_and_eligible(pq_model, rows, k, below, exclude_seen, banned):
    named = [[f"item-{i:03}" for i in row] for row in rows]
    banned_ids = {f"item-{i:03}" for i in banned}
    answer = pq_model.answer(named, k, where=f"price < {below}", exclude_seen=exclude_seen, exclude=list(banned_ids))
    allowed = set(pq_model.items.filter(pl.col("price") < below)["item_id"]) - banned_ids
    known = set(pq_model.items["item_id"])
    for user, row in enumerate(named):
        found = answer.frame.filter(pl.col("user_id") == user)
        eligible = allowed - (set(row) if exclude_seen else set())
        assert len(found) == min(k, len(eligible))
        assert set(found["item_id"]) <= eligible
        assert found["rank"].to_list() == list(range(1, len(found) + 1))
        assert found["score"].is_sorted(descending=True)
    assert answer.unknown_ids == sum(name not in known for row in named for name in row)
    assert answer.fallback == [user for user, row in enumerate(named) if not known & set(row)]


def test_k_beyond_the_catalogue_gives_everything_once(model):
    for k in (400, 401, 2**31 - 1):  # the last would be 16 GB if anybody made room for it
        assert sorted(model.recommend([HISTORY], k=k, exclude_seen=False)["item_id"]) == sorted(model.items["item_id"])
    assert len(model.similar_items(HISTORY[0], 2**31 - 1)) == 399


@pytest.mark.parametrize("history", [[], HISTORY, ["nobody knows"]])
@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused_for_every_history(model, history, k):
    with pytest.raises(ValueError, match=f"k is {k}"):
        model.answer([history], k)


def test_no_users_are_no_rows(model):
    assert model.recommend([]).columns == COLUMNS
    assert len(model.recommend([])) == 0


def test_an_empty_history_gets_popularity_and_is_flagged(model, tiny_log):
    counts = model.items[EVENTS].to_numpy()
    rows = Histories.from_lists([np.repeat(np.arange(400), counts).tolist()])
    expected = Popularity(rows, 400).rank(Histories.from_lists([[]]), 400).items[0]
    with pytest.warns(UserWarning, match="1 users without a known event"):
        found = model.recommend([HISTORY, []], k=400)
    popular = found.filter(pl.col("user_id") == 1)
    assert popular["item_id"].to_list() == model.items["item_id"].gather(expected).to_list()
    np.testing.assert_allclose(popular["score"].sum(), 1, rtol=1e-5)
    assert found.filter(pl.col("user_id") == 0).equals(model.recommend([HISTORY], k=400))


def test_popularity_obeys_filters_and_its_bound_is_true(pq_model):
    allow = pq_model.matching("price < 20")
    top = pq_model.rank(Histories.from_lists([[]]), 5, allow=allow)
    everything = pq_model.rank(Histories.from_lists([[]]), 400, allow=allow)
    assert allow[top.items].all()
    assert everything.scores[0, 5] <= top.bound[0] <= top.scores[0, -1]
    assert everything.bound[0] == -np.inf


def test_unknown_ids_are_skipped_counted_and_warned_of(model):
    with pytest.warns(UserWarning, match="2 events name items"):
        found = model.recommend([["nobody", *HISTORY, "knows"]])
    assert found.equals(model.recommend([HISTORY]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.answer([[None, *HISTORY]]).unknown_ids == 1


def test_a_history_is_its_newest_events(model):
    old = [f"item-{i:03}" for i in range(60)]
    short = old[-model.encoder.length :]
    assert model.recommend([old], exclude=old).equals(model.recommend([short], exclude=old))


@pytest.mark.parametrize(
    "histories",
    ["item-003", ["item-003"], [{"item-003"}], [HISTORY, "item-003"], 5, [["item-003", 7]], [[1.5]], [[2**70]]],
)
def test_what_is_no_history_is_refused(model, histories):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        model.recommend(histories)
    assert "\n" not in str(caught.value)


# explanations ---------------------------------------------------------------------------------------------------------


def test_the_splits_add_up_to_the_score_bit_for_bit(model):
    found = model.recommend([HISTORY], k=20)
    for item_id, score in zip(found["item_id"], found["score"], strict=True):
        explanation = model.explain(HISTORY, item_id)
        total = np.float32(0)
        for number, share in enumerate(explanation.splits["score"].to_numpy()):
            total = share if number == 0 else np.float32(total + share)
        assert np.float32(explanation.score) == np.float32(score) == total


def test_the_history_of_an_explanation_is_sorted_by_cosine(model):
    explanation = model.explain([*HISTORY, HISTORY[0], "nobody"], HISTORY[1])
    assert sorted(explanation.history["item_id"]) == sorted(HISTORY)
    assert explanation.history["similarity"].is_sorted(descending=True)
    assert explanation.history["item_id"][0] == HISTORY[1]
    assert explanation.history["similarity"][0] == pytest.approx(1, abs=1e-5)
    ids = np.array([3, 17])
    a, b = model.index.vectors(ids)
    cosine = dict(explanation.history.iter_rows())[HISTORY[0]]
    assert cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)


def test_only_what_is_known_can_be_explained(model):
    with pytest.raises(ValueError, match="'nobody' is not in the catalogue"):
        model.explain(HISTORY, "nobody")
    with pytest.raises(ValueError, match="no event of the history"):
        model.explain(["nobody"], HISTORY[0])


def test_similar_items_are_the_largest_inner_products_without_the_item(model):
    similar = model.similar_items(HISTORY[0], 5)
    vectors = model.index.vectors(np.arange(400)).astype(np.float64)
    products = vectors @ vectors[3]
    products[3] = -np.inf
    assert similar.columns == ["item_id", "score", "rank"]
    np.testing.assert_allclose(similar["score"], np.sort(products)[::-1][:5], rtol=1e-4, atol=1e-5)
    assert HISTORY[0] not in similar["item_id"].to_list()


# changes --------------------------------------------------------------------------------------------------------------


def test_an_added_item_is_found_by_the_next_query(copied):
    for items in ("pq", "dense"):
        model = load(copied(items))
        model.memory = None  # what is remembered may rank before it
        best = model.recommend([HISTORY], k=1)["item_id"][0]
        new = pl.DataFrame({"item_id": ["new"], "price": [7], "colour": ["red"]})
        assert model.add_items(new, like=[[best, "nobody"]]).tolist() == [400]
        assert model.recommend([HISTORY], k=2)["item_id"].to_list() == [best, "new"]
        row = model.items.row(400, named=True)
        assert (row["price"], row["title"], row[EVENTS]) == (7.0, None, 0)
        assert "colour" not in model.items.columns
        assert len(model.recommend([["new"]], k=500)) == 400


@pytest.mark.parametrize(
    ("items", "like", "message"),
    [
        ({"item_id": ["item-003"]}, [["item-004"]], "already in the catalogue"),
        ({"item_id": ["a", "a"]}, [["item-004"]] * 2, "given twice"),
        ({"item_id": [None]}, [["item-004"]], "null"),
        ({"id": ["a"]}, [["item-004"]], "item_id; got id"),
        ({"item_id": ["a"], "price": ["cheap"]}, [["item-004"]], "types"),
        ({"item_id": ["a"]}, [["nobody"]], "at least one known item"),
        ({"item_id": ["a"]}, [[]], "at least one known item"),
        ({"item_id": ["a"]}, [], "at least one known item"),
        ({"item_id": []}, [], "one new item or more"),
        ({"item_id": ["a"]}, [[4]], "item ids are String"),
    ],
)
def test_items_that_cannot_be_added_change_nothing(fresh, items, like, message):
    before = fresh.items
    with pytest.raises(ValueError, match=message):
        fresh.add_items(pl.DataFrame(items), like=like)
    assert fresh.items is before
    assert fresh.index.num_items == 400


def test_removed_items_never_appear_but_still_speak_for_others(fresh):
    gone = fresh.recommend([HISTORY], k=5)["item_id"].to_list()
    rest = fresh.recommend([HISTORY], k=400, exclude=gone)
    fresh.remove_items(gone)
    assert fresh.recommend([HISTORY], k=400).equals(rest)
    assert not set(gone) & set(fresh.answer([[]], k=400).frame["item_id"])
    assert fresh.answer([gone]).unknown_ids == 0
    with pytest.raises(ValueError, match="'nobody'"):
        fresh.remove_items([HISTORY[0], "nobody"])
    assert HISTORY[0] in fresh.recommend([["item-009"]], k=400)["item_id"].to_list()
