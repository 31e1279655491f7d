import os
import signal
import time

import numpy as np
import polars as pl
import pytest

from everyitem.index import load_index
from everyitem.recommender import load
from everyitem.serve import offline

ray = pytest.importorskip("ray", reason="Ray is not in the lock; `uv pip install 'ray[data]'` adds it")
from everyitem.serve import cluster  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _connected():
    with cluster.connected("auto"):
        yield


@pytest.fixture(scope="module", params=["pq", "dense"], ids=str)
def model(request, tiny_models, tmp_path_factory):
    """A model folder and its catalogue in three shards, held by actors."""
    folder = tmp_path_factory.mktemp("shards")
    where = cluster.shard(tiny_models[request.param], folder, 3)
    return tiny_models[request.param], folder, cluster.ShardedIndex(where)


def same(one, other):
    return all(a.tobytes() == b.tobytes() and a.dtype == b.dtype for a, b in zip(one[:3], other[:3], strict=True))


def queries(index, num_rows=4):
    return np.random.default_rng(0).standard_normal((num_rows, index.dim)).astype(np.float32)


def test_actors_answer_as_the_index_that_was_cut(model):
    path, _, sharded = model
    whole, query = load_index(path / "index"), queries(model[2])
    rng = np.random.default_rng(1)
    allow, exclude = rng.random(whole.num_items) < 0.3, rng.integers(-1, whole.num_items, (4, 9)).astype(np.int32)
    for k in (1, 10, whole.num_items + 3):
        assert same(sharded.top_k(query, k), whole.top_k(query, k))
        assert same(
            sharded.top_k(query, k, allow=allow, exclude=exclude), whole.top_k(query, k, allow=allow, exclude=exclude)
        )
    items = rng.integers(0, whole.num_items, (4, 7))
    assert sharded.scores(query, items).tobytes() == whole.scores(query, items).tobytes()
    assert sharded.vectors(items[0]).tobytes() == whole.vectors(items[0]).tobytes()
    assert (sharded.removed_I == whole.removed_I).all()
    with pytest.raises(ValueError, match="exclude holds"):
        sharded.top_k(query, 1, exclude=np.full((4, 1), whole.num_items))


def test_a_model_over_shards_recommends_what_the_model_recommends(model, tiny_log):
    path, folder, _ = model
    over_shards, alone = cluster.load_sharded(path, folder), load(path)
    for options in ({"k": 5}, {"k": 500, "where": "price < 30"}):
        assert over_shards.recommend(tiny_log, **options).equals(alone.recommend(tiny_log, **options))


def test_shards_of_another_index_are_refused(model, copied):
    path = copied()
    changed = load(path)
    changed.remove_items(changed.items["item_id"][:1].to_list())
    changed.save(path)
    with pytest.raises(ValueError, match="shards of another index than that of"):
        cluster.load_sharded(path, model[1])


def pid_of(actor):
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))


def test_a_shard_killed_under_load_never_makes_an_answer_wrong(model):
    path, _, sharded = model
    whole, query = load_index(path / "index"), queries(model[2])
    right, everything = whole.top_k(query, 5), whole.top_k(query, whole.num_items)
    victim = pid_of(sharded._actors[1])
    degraded, until = 0, time.monotonic() + 180
    os.kill(victim, signal.SIGKILL)
    while time.monotonic() < until:
        answer = sharded.ask(query, 5, deadline=0.05)
        top = answer.top
        for row, items in enumerate(top.items):
            outside = everything.scores[row, ~np.isin(everything.items[row], items)]
            assert (outside <= top.bound[row]).all()
        if answer.silent:
            degraded += 1 in answer.silent
            certain = top.bound <= top.scores[:, -1]
            assert (top.items[certain] == right.items[certain]).all()
        else:
            assert same(top, right)
        if degraded and not answer.silent:
            break
    assert degraded
    assert not answer.silent  # the actor was started again
    assert same(sharded.top_k(query, 5), right)
    assert pid_of(sharded._actors[1]) != victim


def test_a_shard_killed_without_a_deadline_is_waited_for(model):
    path, _, sharded = model
    os.kill(pid_of(sharded._actors[0]), signal.SIGKILL)
    query = queries(sharded)
    assert same(sharded.top_k(query, 5), load_index(path / "index").top_k(query, 5))


@pytest.fixture
def small_parts(monkeypatch):
    for name, value in {"USERS_PER_SLICE": 7, "EVENTS_PER_PART": 300}.items():
        monkeypatch.setattr(offline, name, value)


def test_a_batch_job_on_a_cluster_writes_the_same_bytes(tiny_models, tiny_log, tmp_path, small_parts):
    model, here, there = tiny_models["pq"], tmp_path / "here.parquet", tmp_path / "there.parquet"
    assert offline.recommend_to_parquet(model, tiny_log, here, k=4, where="price < 30") == (120, 0)
    options = {"k": 4, "where": "price < 30", "exclude_seen": True}
    with offline.opened_job(model, tiny_log, there, **options) as job:
        offline.Worker(job).do(1, 1)  # what an earlier run did elsewhere
        times = {path: path.stat().st_mtime_ns for path in job.part(1).iterdir()}
    assert cluster.recommend_to_parquet("auto", model, tiny_log, there, **options) == (120, 0)
    assert len(times) > 1
    assert there.read_bytes() == here.read_bytes()


def test_actors_have_the_cores_of_the_smallest_machine():
    nodes = [
        {"Alive": alive, "Resources": {"CPU": cores}} for cores, alive in ((16.0, True), (4.0, False), (48.0, True))
    ]
    assert cluster._actors([*nodes, {"Alive": True, "Resources": {}}]) == (16, 4)


def test_the_command_line_takes_a_cluster(works, refused, tiny_models, tiny_log, tmp_path):
    model, out = tiny_models["pq"], tmp_path / "out.parquet"
    assert "120 users" in works("recommend", model, "--users", tiny_log, "--out", out, "--cluster", "auto")
    assert pl.read_parquet(out)["user_id"].n_unique() == 120
    assert "--users" in refused("recommend", model, "--history", "a", "--cluster", "auto")
    assert "--threads" in refused(
        "recommend", model, "--users", tiny_log, "--out", out, "--cluster", "auto", "--threads", 2
    )
