"""The parts of benchmarks/ and runs/ that could lie without anyone noticing."""

import contextlib
import importlib
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from everyitem.bench.check import check
from everyitem.bench.methods import Unsuited
from everyitem.data.interactions import read_log
from everyitem.index import PQIndex
from everyitem.types import Histories

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def module(monkeypatch):
    """A module of benchmarks/ or runs/ by name; they are scripts, and see only their own folder."""
    for folder in ("benchmarks", "runs"):
        monkeypatch.syspath_prepend(ROOT / folder)
    return importlib.import_module


@pytest.fixture
def index():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (700, 8), dtype=np.uint8)
    return PQIndex(codes, rng.standard_normal((8, 256, 4), dtype=np.float32))


def test_generated_interactions_repeat_and_stay_near(module):
    made = module("interactions")
    events, again = (made.interactions(np.random.default_rng(3), 30_000, 400) for _ in range(2))
    assert events.tolist() == again.tolist()
    assert events.shape == (400, 40)
    assert 0 <= events.min() <= events.max() < 30_000
    # who stays in a few clusters meets fewer items than one who draws at random, and some twice
    distinct = np.mean([len(np.unique(row)) for row in events])
    assert 15 < distinct < 39.9


def test_factors_are_those_of_the_matrix(module):
    made = module("interactions")
    rng = np.random.default_rng(0)
    events = made.interactions(rng, 3000, 500)
    counts = np.zeros((500, 3000))
    np.add.at(counts, (np.arange(500)[:, None], events), 1)
    factors, sigma = made.item_factors(rng, events, 3000, 40, 8)
    true = np.linalg.svd(counts)[1]
    assert sigma[:8] == pytest.approx(true[:8], rel=0.02)
    assert np.linalg.norm(counts @ factors[:, :8], axis=0) == pytest.approx(true[:8], rel=0.02)


def test_codes_have_bins_of_equal_size_and_follow_the_factors(module):
    made = module("interactions")
    factors = np.random.default_rng(0).standard_normal((2560, 3))
    codes = made.rank_codes(np.random.default_rng(1), factors, centred=True)
    assert {int(n) for m in range(3) for n in np.bincount(codes[:, m], minlength=256)} == {10}
    assert np.corrcoef(np.argsort(np.argsort(factors[:, 0])), codes[:, 0])[0, 1] > 0.99


@pytest.mark.parametrize("num_items", [10, 500, 3000])
def test_a_catalogue_is_brought_to_a_size(module, num_items):
    codes = np.random.default_rng(0).integers(0, 256, (500, 4), dtype=np.uint8)
    sized = module("interactions").resized(np.random.default_rng(1), codes, num_items)
    assert (sized.shape, sized.dtype) == ((num_items, 4), np.uint8)
    nearest = np.abs(sized[:50, None].astype(int) - codes[None].astype(int)).max(axis=2).min(axis=1)
    assert nearest.max() <= (6 if num_items > 500 else 0)
    assert num_items <= 500 or nearest.max() > 0


def test_every_peer_at_hand_keeps_its_promise(module, index):
    peers, approximate = module("peers"), module("approximate")
    queries = np.random.default_rng(1).standard_normal((5, 32), dtype=np.float32)
    said = []
    wanted = [*peers.EXACT, *peers.DENSE, *approximate.APPROXIMATE]
    ways = list(peers.offered(wanted, index, peers.Vectors(index), said.append))
    assert len(said) == len(wanted)  # ready, or why not
    assert {"PQTopK, NumPy", "dense, C++"} <= {way.name for way in ways}
    check(index, ways, queries, 10)


def test_a_peer_that_needs_more_memory_than_there_is_says_so(module):
    with pytest.raises(Unsuited, match="it all would take"):
        module("peers").need_room(1e15, "it all")


def test_records_are_appended_and_other_columns_refused(module, monkeypatch, tmp_path):
    recording = module("recording")
    monkeypatch.setattr(recording, "RECORD", tmp_path)
    path = recording.record([(1, None, 0.12345678)], "x", ("a", "b", "c"))
    assert recording.record([("z", 2, 3)], "x", ("a", "b", "c")) == path
    assert path.read_text() == "a\tb\tc\n1\t\t0.123457\nz\t2\t3\n"
    with pytest.raises(ValueError, match="move it away"):
        recording.record([(1, 2)], "x", ("a", "b"))


def test_what_was_measured_again_replaces_what_was_measured_before(module, monkeypatch, tmp_path):
    recording, speed = module("recording"), module("speed_records")
    monkeypatch.setattr(recording, "RECORD", tmp_path)

    def row(algorithm, us, cache="steady"):
        head = ("easy", 1000, 8, 512, None, None, None, 10, 1, 1, cache, algorithm)
        return (*head, 300, us, us, None, None, 1.0, None, 8.0, 0.0, None)

    recording.record([row("pqtopk", 9.0), row("recjpq", 7.0), row("pqtopk", 8.0, "cold")])
    recording.record([row("pqtopk", 5.0)])
    rows = speed.newest(tmp_path, "scoring")
    found = {(r["algorithm"], r["cache"]): r["median_us"] for r in rows}
    assert found == {("pqtopk", "steady"): 5, ("recjpq", "steady"): 7, ("pqtopk", "cold"): 8}
    assert speed.usual(rows[-1])
    assert not speed.usual(rows[-1], k=100)
    section = module("tabulate_speed").speed_section(tmp_path, tmp_path)
    assert "| pqtopk | 5.0 | 5.0 |  |  | 8.0 | 100.00% |" in section
    assert module("tabulate_scale").scale_section(tmp_path, tmp_path) == ""


def test_filters_are_checked_before_they_are_timed(module, index):
    filters = module("filters")
    queries = np.random.default_rng(1).standard_normal((3, 32), dtype=np.float32)
    allow = np.arange(700) % 3 == 0
    assert len(filters.line(index, queries, allow, 100.0)) == 5
    with pytest.raises(AssertionError, match="ids differ"):
        filters.check(index, queries, allow, ~allow)
    assert "median" in filters.foretold(index, queries)


def test_latency_and_training_speed_are_tabulated(module, monkeypatch, tmp_path):
    recording, encoder = module("recording"), module("tabulate_encoder")
    monkeypatch.setattr(recording, "RECORD", tmp_path)
    assert encoder.latency_section(tmp_path) + encoder.training_section(tmp_path) == ""
    head = ("tr13", 2_000_000, 512, 2, "sasrec")
    rows = [
        (*head, precision, 50, "learnt", "encoder", "wall", 9, ms, ms, ms)
        for precision, ms in (("float32", 1.5), ("int8", 0.75))
    ]
    recording.record(rows, "latency", module("latency").COLUMNS)
    section = encoder.latency_section(tmp_path)
    assert "| ms | sasrec float32, 50 events | sasrec int8, 50 events |" in section
    assert "| encoder | 1.50 (1.50) | 0.75 (0.75) |" in section
    rows = [("everyitem", 1000, 64, "full softmax", None, 3, 900.0, 500.0)]
    rows += [(f"peer {n}", 1000, 64, "full softmax", None, 3, speed, 700.0) for n, speed in enumerate((300.0, 450.0))]
    recording.record(rows, "training", module("training").COLUMNS)
    assert "| everyitem | 1,000 | 64 | full softmax | 900 | 2.0 x | 500 |" in encoder.training_section(tmp_path)


def test_answers_of_a_peer_go_to_the_users_they_are_for(module):
    peers = module("peer_quality")
    found = pl.DataFrame({"user_id": [2, 0, 2], "item_id": [7, 5, 9], "rank": [2, 1, 1]})
    items_UK = peers.answers(found, 3)
    assert items_UK[:, :3].tolist() == [[5, -1, -1], [-1, -1, -1], [9, 7, -1]]
    ranker, rows = peers.Answers(items_UK), Histories.from_lists([[1], [1]])
    assert ranker.rank(rows, 2).items.tolist() == [[5, -1], [-1, -1]]
    assert ranker.rank(rows.select(slice(0, 1)), 2).items.tolist() == [[9, 7]]


def test_a_papers_table_stands_beside_ours(module, tmp_path):
    papers = module("tabulate_papers")
    estimate = {"value": 0.15, "low": 0.14, "high": 0.16}
    training = {"index_bytes": 2e6, "encoder_bytes": 1e6, "training_seconds": 60.0, "updates": 5}
    result = {"ndcg@10": estimate, "recall@10": estimate, "training": training, "encoder_ms": {"median": 1.0}}
    searches = [{"algorithm": name, "scored": 0.02, "median_us": 40.0} for name in papers.ALGORITHMS]
    for path in ("ml-1m/gsasrec", "globo-news-sasrec-512", "set/0.1"):
        file = tmp_path / f"{path}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(result | {"search": {"algorithms": searches}}))
    assert "| gsasrec | 0.1500 ± 0.0100 | 0.1500 ± 0.0100 | 2.0 | 1.0 | 60 | 0.1726 / 0.3003 |" in (
        papers.gsasrec_section(tmp_path)
    )
    assert "| *published* | *0.188* | *23.75* | *6.27* | *3.77* | *2.93* | |" in papers.pqtopk_section(tmp_path)
    assert "| 0.1 | 5 | 0.1500 ± 0.0100 | 2.00%, 40 us | 2.00%, 40 us | 2.00%, 40 us |" in (
        papers.concentrated_section(tmp_path)
    )
    assert papers.recjpq_section(tmp_path / "nothing") == ""


def test_sizes_of_codes_are_tabulated_and_drawn(module, tmp_path):
    codes, folder = module("tabulate_codes"), tmp_path / "sizes" / "set"
    folder.mkdir(parents=True)
    assert codes.code_sizes_section(tmp_path / "nothing", tmp_path) == ""
    searches = [{"algorithm": name, "scored": 0.02, "median_us": 40.0} for name in codes.SEARCHES]
    settings = {"dim": 64, "num_splits": 8, "num_sub_items": 256, "epochs": 12}
    common = {"num_items": 1000, "training": {"training_seconds": 60.0}, "settings": settings}
    common |= {"ndcg@10": {"value": 0.15, "low": 0.14, "high": 0.16}}
    (folder / "dense.json").write_text(json.dumps(common))
    (folder / "M8.json").write_text(json.dumps(common | {"search": {"algorithms": searches}}))
    section = codes.code_sizes_section(tmp_path / "sizes", tmp_path)
    cells = "73.5 | 60 | 2.0%, 40 us | 2.0%, 40 us | 2.0%, 40 us"  # 8 + 4 * 256 * 64 / 1,000 bytes
    assert f"| M = 8, B = 256, D = 64 | 0.1500 ± 0.0100 | {cells} |" in section
    assert "| dense | 0.1500 ± 0.0100 | 256.0 | 60 |  |  |  |" in section
    assert (tmp_path / "code-sizes-set.svg").stat().st_size > 1000


def test_what_the_server_did_is_tabulated_from_its_record(module, monkeypatch, tmp_path):
    recording, serving = module("recording"), module("tabulate_serving")
    assert serving.serving_section(tmp_path) == ""
    monkeypatch.setattr(recording, "RECORD", tmp_path)
    columns = [*("step", "items", "workers", "rate", "seconds", "per_second", "p50", "p95", "p99", "p999")]
    columns += ["errors", "refused", "note"]
    rows = [
        ["steady", 1_345_667, 1, 100.0, 60.0, 99.9, 4.0, 6.0, 9.0, 30.0, 0, 0, "RSS 400 MB a worker"],
        ["faiss, closed loop", 1_345_667, 1, None, 20.0, 1234.5, 80.0, 90.0, 99.0, 120.0, 0, 7, ""],
    ]
    recording.record(rows, "serving", columns)
    text = serving.serving_section(tmp_path)
    assert "1,345,667 items, 1 worker" in text
    assert "| steady | 60.0 | 100.0 | 99.9 | 4.0 | 6.0 | 9.0 | 30.0 | 0 | 0 | RSS 400 MB a worker |" in text
    assert "| faiss, closed loop | 20.0 |  | 1,234.5 | 80.0 | 90.0 | 99.0 | 120.0 | 0 | 7 |  |" in text


def test_load_counts_from_when_a_request_was_due(module):
    """A server that stalls for .3 s is charged for every request that was due meanwhile, not for one."""
    import asyncio

    load = module("load")

    async def run():
        stalled = False

        async def serve(reader, writer):
            nonlocal stalled
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(2)
                    if not stalled:
                        stalled = True
                        await asyncio.sleep(0.3)
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        answers = await load.open_loop(port, [b"{}"], rate=100, seconds=0.5, connections=1)
        server.close()
        return answers

    answers = asyncio.run(run())
    assert [answer.number for answer in answers] == list(range(50))
    assert {answer.status for answer in answers} == {200}
    assert sum(answer.seconds > 0.1 for answer in answers) >= 15
    assert sum(answer.service_seconds > 0.1 for answer in answers) < 15


def test_generated_clusters_are_searched_as_the_twin_would(module):
    made, names = module("two_level"), ("concentrated", "diffuse")
    found = {name: made.generated(name, 2000, 16, 6) for name in names}
    for _, index, queries in found.values():
        made.check(index, queries, 5)
    scored = [found[name][1].top_k(found[name][2], 5).scored.mean() for name in names]
    assert scored[0] < scored[1]
    _, index, queries = found["diffuse"]
    index.top_k = lambda query, k: type(index).top_k(index, -query, k)
    with pytest.raises(SystemExit, match="nothing is timed"):
        made.check(index, queries, 5)


def test_new_items_are_placed_without_a_look_at_what_is_asked(module):
    made = module("new_items")
    rows = [[0, 1, 9], [2, 3, 9, 4], [5, 6, 7], [1, 9, 8]]  # 9 and 8 are new; the last events are asked
    users = [str(user) for user, row in enumerate(rows) for _ in row]
    titles = pl.DataFrame({"item_id": range(10), "title": [f"word{i % 3} name{i}" for i in range(10)]})
    events = pl.DataFrame({"user_id": users, "item_id": [item for row in rows for item in row]})
    log = read_log(events, items=titles)
    new = np.array([8, 9])
    known, fresh, before = made.asked_of(log, new)
    assert sorted(known[1].tolist()) == [4, 7]
    assert sorted(fresh[1].tolist()) == [8, 9]
    likes = made.ways(log, new, before, np.random.default_rng(0))
    assert sorted(likes["neighbours"][1]) == [1, 3]  # not user 0's 1 before the 9 that is asked
    assert all(not set(like) & {8, 9} for way in likes.values() for like in way)
    assert made.without_items(log, new).num_events == 13 - 4


def test_the_silhouette_of_clusters_is_that_of_its_definition(module):
    rng = np.random.default_rng(0)
    vectors, clusters = rng.standard_normal((40, 3), dtype=np.float32), rng.integers(0, 4, 40)
    clusters[:2] = 6, 5  # alone; cluster 4 is empty
    values = []
    for i in range(2, 40):
        far = np.linalg.norm(vectors - vectors[i], axis=1)
        own = (clusters == clusters[i]) & (np.arange(40) != i)
        a, b = far[own].mean(), min(far[clusters == c].mean() for c in {*clusters} - {clusters[i]})
        values.append((b - a) / max(a, b))
    assert module("efficient_ids_record").silhouette(vectors, clusters) == pytest.approx(sum(values) / 40)


def test_models_of_all_kinds_stand_in_one_table(module, tmp_path):
    def one(value):
        return {"value": value, "low": value - 0.01, "high": value + 0.01}

    tables = module("tabulate_efficient_ids")
    metrics = dict.fromkeys(tables.METRICS, one(0.1))
    counts, protocol = {"users": 9, "num_items": 50}, {"train_events": 70, "test_users": 10}
    training = {"protocol": protocol, "training_seconds": 5.0, "positions": 300, "updates": 10, "best_update": 5}
    direct = metrics | counts | {"settings": {"minutes": 4, "epochs": 3}}
    written = direct | {"training": training | {"tokens_per_item": 4, "positions": 270}}
    direct |= {"training": training | {"index_bytes": 2e6}, "total_ms": {"median": 1.0, "p95": 2.0}}
    grounded = counts | {"alone": metrics, "popularity": metrics | {"ndcg@10": one(0.2)}}
    short = direct | {"silhouette": 0.5, "uncorrected": metrics}
    results = {"m-two-level": direct, "m-ids-published": written, "m-bigrec": grounded, "m-ablation-random": short}
    (tmp_path / "set").mkdir()
    for name, result in results.items():
        (tmp_path / "set" / f"{name}.json").write_text(json.dumps(result))
    section = tables.efficient_ids_section(tmp_path)
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in section.splitlines() if " ± " in line}
    assert cells["m-two-level"][6:9] == ["2.5 / 5.0", "5", "2.0"]
    assert cells["m-ids-published"][6] == "0.5 / 1.0"
    assert cells["random clusters"][3] == "0.500"
    assert cells["m-bigrec + popularity"][2] == "**0.2000 ± 0.0100**"
