"""A model folder has one commit point: whatever happens to a writer, a reader gets the old model or the new one."""

import hashlib
import json
import shutil
import signal
import threading
import time

import numpy as np
import polars as pl
import pytest
import xxhash
from forks import Forks

from everyitem import model_folder
from everyitem.index import files
from everyitem.recommender import load

HISTORY = ["item-003", "item-017", "item-250"]
BEFORE_COMMIT = (
    *("before-items", "before-write", "between-sections", "before-rename", "before-current", "before-replace"),
    *("after-current", "before-metadata", "before-commit"),
)
AFTER_COMMIT = ("after-commit", "after-items")
ADD = """
import polars as pl
from everyitem.recommender import load
def run(folder, item_id):
    model = load(folder)
    model.add_items(pl.DataFrame({"item_id": [item_id]}), like=[["item-003"]])
    print("at", os.getpid(), flush=True)
    model.save(folder)
"""


@pytest.fixture(scope="module")
def writers():
    """Processes that add an item."""
    with Forks(ADD) as forks:
        yield forks


def answer(folder):
    return load(folder).recommend([HISTORY, ["new"]], k=402)


@pytest.fixture(scope="module")
def answers(tiny_models, writers, tmp_path_factory):
    """What the model answers before and after "new" was added."""
    changed = shutil.copytree(tiny_models["pq"], tmp_path_factory.mktemp("changed") / "model")
    assert writers.run(changed, "new") == 0
    with pytest.warns(UserWarning, match="name items that this model does not have"):
        return answer(tiny_models["pq"]), answer(changed)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("point", [*BEFORE_COMMIT, *AFTER_COMMIT])
def test_a_kill_at_every_point_leaves_the_old_model_or_the_new_one(point, copied, answers, writers, works):
    folder, (old, new) = copied("pq"), answers
    assert writers.run(folder, "new", killpoint=point) == -signal.SIGKILL
    assert answer(folder).equals(new if point in AFTER_COMMIT else old)
    assert "intact" in works("check", folder)
    # a second kill at the same place, then a change that goes through
    assert writers.run(folder, "second", killpoint=point) == -signal.SIGKILL
    assert len(load(folder).items) == 400 + (2 if point in AFTER_COMMIT else 0)
    assert writers.run(folder, "third") == 0
    assert load(folder).items["item_id"].to_list()[-1] == "third"
    assert len(load(folder).items) == 400 + (3 if point in AFTER_COMMIT else 1)
    assert "intact" in works("check", folder)
    assert not (folder / "items.parquet.new").exists()


def test_a_kill_at_any_moment(copied, writers):
    folder = copied("pq")
    rng = np.random.default_rng(0)
    for turn in range(12):
        said, process = writers.start(folder, f"n{turn}")
        assert said == "at"
        time.sleep(rng.random() * 0.05)
        writers.kill(process)
        model = load(folder)
        assert len(model.items) == model.index.num_items >= 400


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_reader_beside_a_writer_gets_whole_models(copied):
    folder = copied("pq")
    writer = load(folder)
    stop = threading.Event()

    def write():
        for turn in range(40):
            writer.add_items(pl.DataFrame({"item_id": [f"n{turn}"]}), like=[["item-003"]])
            writer.save(folder)
        stop.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    while not stop.is_set():
        model = load(folder)
        assert len(model.items) == model.index.num_items
        seen.add(len(model.items))
    thread.join()
    assert len(load(folder).items) == 440
    assert len(seen) > 1


def test_at_rest_there_is_what_the_documents_say(copied):
    folder = copied("pq")
    model = load(folder)
    for item_id in ("a", "b", "c"):
        model.add_items(pl.DataFrame({"item_id": [item_id]}), like=[HISTORY])
        model.save(folder)
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "encoder.onnx", "encoder.safetensors", "index", "items.parquet", "metrics.json"),
        "memory.safetensors",
        "recommender.json",
    }
    assert pl.read_parquet(folder / "items.parquet")["item_id"].to_list()[-3:] == ["a", "b", "c"]
    assert files.load_index(folder / "index").num_items == 403  # CURRENT is the same version
    assert {path.name for path in (folder / "index").glob("v*")} == {"v000003", "v000004"}


def test_recommender_json_rules_over_the_index_own_current(copied, works, run):
    folder = copied("pq")
    model = load(folder)
    model.remove_items(["item-009"])
    model.index.save(folder / "index")  # as a killed writer leaves it: CURRENT is ahead
    assert "item-009" in load(folder).recommend([HISTORY], k=400)["item_id"].to_list()
    assert "intact" in works("check", folder)
    (folder / "index" / "CURRENT").write_text("nonsense")
    assert len(load(folder).recommend([HISTORY], k=5)) == 5
    code, out, _ = run("check", folder)
    assert (code, "CURRENT is damaged" in out) == (1, True)


def test_two_writers_do_not_lose_each_others_changes(copied, refused, tmp_path):
    folder = copied("pq")
    first, second = load(folder), load(folder)
    first.remove_items(["item-009"])
    first.save(folder)
    second.remove_items(["item-010"])
    with pytest.raises(ValueError, match="changed since this model was loaded; load it again"):
        second.save(folder)
    left = load(folder).recommend([HISTORY], k=400)["item_id"].to_list()
    assert "item-009" not in left
    assert "item-010" in left
    (tmp_path / "gone.csv").write_text("item_id\nitem-011\n")
    with model_folder.locked(folder):
        assert "another process is changing" in refused("items", "remove", folder, tmp_path / "gone.csv")


def test_a_failed_save_can_be_repeated(copied, monkeypatch):
    folder = copied("pq")
    model = load(folder)
    model.remove_items(["item-009"])

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space"):
            model.save(folder)
    assert "item-009" in load(folder).recommend([HISTORY], k=400)["item_id"].to_list()
    model.save(folder)
    assert "item-009" not in load(folder).recommend([HISTORY], k=400)["item_id"].to_list()


def test_what_is_committed_is_no_error_because_nobody_may_clear_up(copied, monkeypatch):
    folder = copied("pq")
    model = load(folder)
    model.remove_items(["item-009"])
    clear_up = files.collect_garbage

    def beside_another_writer(index):
        with files._writer_lock(index):
            return clear_up(index)

    monkeypatch.setattr(files, "collect_garbage", beside_another_writer)
    for _ in range(2):
        model.save(folder)
    assert "item-009" not in load(folder).recommend([HISTORY], k=400)["item_id"].to_list()


def as_written_before(folder):
    """Rewrite recommender.json as 0.1.0 of 2026-11-24 and earlier did: it named no version of the index."""
    path = folder / "recommender.json"
    metadata = json.loads(path.read_text())
    vectors = load(folder).index.vectors(np.arange(400)).tobytes()
    prints = metadata["fingerprints"] | {"index": xxhash.xxh3_128_hexdigest(vectors)}
    del prints["recommender.json"]
    metadata["fingerprints"] = prints
    prints["recommender.json"] = xxhash.xxh3_128_hexdigest(json.dumps(metadata).encode())
    path.write_text(json.dumps(metadata))


def test_a_folder_of_an_earlier_release_loads_and_is_brought_up(copied, works):
    folder = copied("pq")
    expected = load(folder).recommend([HISTORY])
    as_written_before(folder)
    assert load(folder).recommend([HISTORY]).equals(expected)
    assert "intact" in works("check", folder)
    load(folder).save(folder)
    assert load(folder).recommend([HISTORY]).equals(expected)
    assert json.loads((folder / "recommender.json").read_text())["fingerprints"]["index"].startswith("v000002 ")


def test_an_earlier_release_s_half_written_folder_is_refused_with_a_remedy(copied):
    folder, other = copied("pq"), copied("dense")
    as_written_before(folder)
    load(other).index.save(folder / "index")
    with pytest.raises(ValueError, match=r"index.*other vectors than this model's; copy or train the model again"):
        load(folder)


def test_the_version_is_pinned_by_its_manifest(copied):
    folder = copied("pq")
    manifest = folder / "index" / "v000001" / "manifest.json"
    content = manifest.read_bytes() + b"\n"
    manifest.write_bytes(content)
    (folder / "index" / "CURRENT").write_text(f"v000001 {hashlib.sha256(content).hexdigest()}\n")
    files.load_index(folder / "index")  # sound for whoever opens it alone, but not what the model was saved with
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        load(folder)
