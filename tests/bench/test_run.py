"""`everyitem bench`, from the function to the command."""

import json

import numpy as np
import pytest

from everyitem.bench import methods, run
from everyitem.bench.catalogues import KINDS, SAMPLES, generate, read_export
from everyitem.bench.difficulty import difficulty
from everyitem.bench.measure import Setting
from everyitem.bench.methods import FAISS, PLANNER, Found, Method, Unsuited
from everyitem.index import DenseIndex, PQIndex
from everyitem.index.pq import ALGORITHMS

OURS = [*ALGORITHMS, PLANNER]
SMALL = ("--num-items", 3000, "--dim", 192, "--num-splits", 4, "--num-queries", 25, "--seconds", 0)


def absent(index):
    raise Unsuited("it is not for you")
    yield


@pytest.mark.parametrize("kind", KINDS)
def test_generated_catalogues_are_whole_and_repeatable(kind):
    made, again = (generate(kind, 3000, 4, 192, 5) for _ in range(2))
    assert made.codes_IM.tobytes() == again.codes_IM.tobytes()
    assert made.queries_UD.tobytes() == again.queries_UD.tobytes()
    assert (made.codes_IM.shape, made.codebooks_MBd.shape, made.queries_UD.shape) == ((3000, 4), (4, 256, 48), (5, 192))
    assert made.codes_IM.max() > 250
    PQIndex(made.codes_IM, made.codebooks_MBd).top_k(made.queries_UD, 3)


def test_difficulty_tells_concentrated_queries_from_diffuse_ones():
    hard = {}
    for kind in ("easy", "noise"):
        made = generate(kind, 20_000, 4, 256, 20)
        hard[kind] = difficulty(PQIndex(made.codes_IM, made.codebooks_MBd), made.queries_UD)
    assert 0 < hard["easy"].gap < hard["noise"].gap
    assert hard["easy"].threshold < hard["easy"].best


def test_difficulty_of_scores_known_by_hand():
    codes = np.array([[0], [1], [2], [3]], np.uint8)
    books = np.array([[[0.0], [2.0], [4.0], [6.0]]], np.float32)
    best, threshold, gap = difficulty(PQIndex(codes, books), np.ones((1, 1), np.float32), k=2)
    assert best == pytest.approx(3 / np.sqrt(5))
    assert threshold == pytest.approx(1 / np.sqrt(5))
    assert gap == pytest.approx(2 / 3)


def test_every_algorithm_is_timed_under_every_setting():
    said = []
    settings = [Setting(k=3), Setting(k=5, batch=4, threads=2), Setting(k=5, cold=True)]
    ground = run.generated("easy", 3000, 4, 192, 21)
    done = run.run(ground, settings, [absent], seconds=60, report=said.append)
    assert said == ["skipped: it is not for you"]
    assert [line.algorithm for line in done.lines] == 3 * OURS
    assert [line.setting for line in done.lines] == [setting for setting in settings for _ in OURS]
    # three rounds of every query; the last batch is filled up
    assert {line.times.timed for line in done.lines if line.setting.batch == 1} == {63}
    assert {line.times.timed for line in done.lines if line.setting.batch == 4} == {18}
    scan = {line.algorithm: line for line in done.lines if line.setting == settings[0]}
    assert scan["pqtopk"].scored == 1
    assert 0 < scan["bounded_scan"].scored < 1
    assert scan["bounded_scan"].bandwidth > 0
    assert scan["pqtopk"].bandwidth is None
    assert scan["recjpqprune"].bytes_per_item == 4 + 16
    assert scan["bounded_scan"].bytes_per_item >= 8
    assert scan["bounded_scan"].build_us_per_item > 0 == scan["pqtopk"].build_us_per_item


def test_a_wrong_answer_stops_before_anything_is_timed():
    def wrong(index):
        def search(queries, k, threads):
            found = index.top_k(queries, k)
            return Found(found.items, found.scores + 1)

        yield Method("wrong", search, "exact", 0, 0)

    with pytest.raises(RuntimeError, match="wrong: scores differ"):
        run.run(run.generated("easy", 3000, 4, 192, 3), [Setting()], [wrong], seconds=0)


def test_recall_is_measured_for_what_is_approximate():
    def half(index):
        def search(queries, k, threads):
            items = index.top_k(queries, k).items.copy()
            items[:, ::2] = -1
            return Found(items, np.zeros(items.shape, np.float32))

        yield Method("half", search, "approximate", 0, 0)

    done = run.run(run.generated("easy", 3000, 4, 192, 3), [Setting(k=4)], [half], seconds=0)
    assert done.lines[-1].recall == pytest.approx(0.5)
    assert {line.recall for line in done.lines[:-1]} == {None}


def test_faiss_stands_beside_ours_where_it_is_installed():
    pytest.importorskip("faiss")
    index = run.generated("easy", 3000, 4, 192, 3).pq
    assert [method.name for method in methods.faiss_pq(index)] == [FAISS]
    index.remove([1])
    with pytest.raises(Unsuited, match="removed"):
        list(methods.faiss_pq(index))


# the command ----------------------------------------------------------------------------------------------------------


def test_bench_as_json_and_as_a_table(works):
    report = json.loads(works("bench", *SMALL, "--kind", "easy", "--k", 3, "--json"), parse_constant=pytest.fail)
    assert (report["catalogue"], report["items"], report["num_splits"], report["dim"]) == ("easy", 3000, 4, 192)
    assert set(report["difficulty"]) == {"best", "threshold", "gap"}
    lines = {line["algorithm"]: line for line in report["algorithms"]}
    assert list(lines)[: len(OURS)] == OURS
    scan = lines["bounded_scan"]
    assert (scan["k"], scan["batch"], scan["threads"], scan["cache"], scan["timed"]) == (3, 1, 1, "steady", 3)
    assert scan["median_us"] > 0
    assert scan["p99_us"] is None
    table = works("bench", *SMALL, "--cold", "--batch", 2)
    assert all(name in table for name in OURS)
    assert "K = 10, batch 2, 1 thread, cold" in table


def test_bench_searches_what_export_wrote(works, tiny_models, tiny_log, tmp_path):
    works("export", tiny_models["pq"], tmp_path / "out", "--log", tiny_log, "--queries", 30)
    report = json.loads(works("bench", tmp_path / "out", "--seconds", 0, "--json"))
    assert (report["catalogue"], report["items"]) == ("out", 400)
    assert len(read_export(tmp_path / "out").queries_UD) == 30
    samples = 15  # of 30 queries half may arrange
    assert len(run.opened(tmp_path / "out", None, 100).queries_UD) == 30 - samples
    assert len(run.opened(tmp_path / "out", None, 4).queries_UD) == 4


def test_bench_searches_an_index_without_its_removed_items(works, tmp_path):
    made = generate("easy", 3000, 4, 192, SAMPLES)
    index = PQIndex(made.codes_IM, made.codebooks_MBd)
    index.remove(index.top_k(made.queries_UD, 1).items[:, 0])
    index.save(tmp_path / "index")
    np.save(tmp_path / "queries.npy", made.queries_UD, allow_pickle=False)
    for more in ((), ("--queries", tmp_path / "queries.npy")):
        report = json.loads(works("bench", tmp_path / "index", *more, "--seconds", 0, "--json"))
        assert report["items"] == 3000
        assert FAISS not in [line["algorithm"] for line in report["algorithms"]]


def test_mistakes_are_said_in_one_line(refused, tmp_path):
    assert "no such folder" in refused("bench", tmp_path / "nothing")
    assert "neither an index folder" in refused("bench", tmp_path)
    assert "at least 192" in refused("bench", "--num-items", 3000, "--num-splits", 4, "--dim", 100)
    DenseIndex(np.ones((9, 4), np.float32)).save(tmp_path / "dense")
    assert "needs item codes" in refused("bench", tmp_path / "dense")
    PQIndex(np.zeros((9, 1), np.uint8), np.ones((1, 2, 4), np.float32)).save(tmp_path / "pq")
    np.save(tmp_path / "queries.npy", np.ones((3, 5), np.float32), allow_pickle=False)
    assert "(U, 4)" in refused("bench", tmp_path / "pq", "--queries", tmp_path / "queries.npy")
