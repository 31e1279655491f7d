"""Codes and queries of a trained model (tests/fixtures): skewed and correlated, as random ones never are."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from everyitem.index import PQIndex, reference

FOLDER = Path(__file__).parent.parent / "fixtures" / "uci-online-retail"
ARRAYS = {path.stem: np.load(path, allow_pickle=False) for path in FOLDER.glob("*.npy")}
QUERIES = ARRAYS["queries"]


@pytest.fixture(scope="module")
def index() -> PQIndex:
    return PQIndex(ARRAYS["codes"], ARRAYS["codebooks"], rotation_DD=ARRAYS["rotation"])


@pytest.mark.parametrize("k", [1, 10, 100])
def test_the_answers_are_those_of_the_reference(index: PQIndex, k: int) -> None:
    expected = reference.top_k(reference.pq_scores(index.score_table(QUERIES), ARRAYS["codes"]), k)
    found = index.top_k(QUERIES, k)
    assert np.array_equal(found.items, expected.items)
    assert np.array_equal(found.scores, expected.scores)


def test_pruning_returns_the_same(index: PQIndex) -> None:
    tables = index.score_table(QUERIES[:50])
    pruned = reference.recjpq_prune(tables, ARRAYS["codes"], 10)
    found = index.top_k(QUERIES[:50], 10)
    assert np.array_equal(pruned.items, found.items)
    assert np.array_equal(pruned.scores, found.scores)


@pytest.mark.parametrize("cpu", ["scalar", "avx2", "avx512"])
def test_every_kernel_gives_the_same_bits(index: PQIndex, cpu: str) -> None:
    program = (
        "import sys, numpy as np; from pathlib import Path; from everyitem.index import PQIndex\n"
        f"a = {{p.stem: np.load(p) for p in Path({str(FOLDER)!r}).glob('*.npy')}}\n"
        "top = PQIndex(a['codes'], a['codebooks'], rotation_DD=a['rotation']).top_k(a['queries'], 10)\n"
        "sys.stdout.buffer.write(top.items.tobytes() + top.scores.tobytes())"
    )
    ran = subprocess.run([sys.executable, "-c", program], env={"EVERYITEM_CPU": cpu}, capture_output=True)
    if b"EVERYITEM_CPU" in ran.stderr:
        pytest.skip(f"this machine has no {cpu}")
    assert ran.returncode == 0, ran.stderr.decode()
    found = index.top_k(QUERIES, 10)
    assert ran.stdout == found.items.tobytes() + found.scores.tobytes()
