"""Which core runs: the compiled one wherever there is a compiler, with the kernels that EVERYITEM_CPU names."""

import os
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from everyitem.index import reference
from everyitem.index.core import load_core

CORE: Any = load_core()
COMPILED = CORE is not reference
compiled = pytest.mark.skipif(not COMPILED, reason="this installation has no C++ core")


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler here")
def test_where_a_compiler_is_the_core_was_built() -> None:
    assert COMPILED, "the build failed without a word; see it with: pip install -v --no-build-isolation ."


def run(code: str, cpu: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "EVERYITEM_CPU": cpu}, capture_output=True, text=True
    )


SEARCH = """
import numpy as np
from everyitem.index import DenseIndex
DenseIndex(np.eye(3)).top_k(np.eye(3), 1)
from everyitem import _native
print(_native.cpu())
"""

TABLES = np.zeros((3, 256, 1), np.float32)
SAME = np.tile(np.arange(256, dtype=np.uint8), (3, 1))


@compiled
def test_the_environment_chooses_the_kernels() -> None:
    assert CORE.cpus()[0] == "scalar"
    for cpu in CORE.cpus():
        assert run(SEARCH, cpu).stdout.strip() == cpu


@compiled
def test_kernels_that_are_not_there_are_an_error_that_lists_those_that_are() -> None:
    for cpu in ("pentium", "", "AVX2", "neon" if "neon" not in CORE.cpus() else "avx2"):
        failed = run(SEARCH, cpu)
        assert failed.returncode == 1
        assert f"ValueError: EVERYITEM_CPU is '{cpu}', but this machine can run: scalar" in failed.stderr


@compiled
def test_the_core_checks_shapes_itself() -> None:
    """The last line of defence: whatever a caller does, no read outside an array."""
    query, books, codes = np.zeros((2, 6), np.float32), np.zeros((3, 2, 8), np.float32), np.zeros((9, 3), np.uint8)
    bits = np.zeros((1, 2), np.uint8)
    good = (query, 1, bits, None, np.zeros((2, 1), np.int32), bits[0], 1.0, 1, "block_prune", 1.0, 8)
    blocks, levels = CORE.to_blocks(codes, None, SAME), CORE.levels(CORE.to_blocks(codes, None, SAME), 9, TABLES, 64, 1)
    order = np.arange(9, dtype=np.int32)
    whole = CORE.PQCatalogue(books, [(codes, blocks, order, levels)], 64, None)
    whole.top_k(*good)
    bad = {0: query[:, :5].copy(), 1: 0, 2: bits[:, :1], 4: good[4][:1], 5: bits[0, :1], 7: 0, 8: "quicksort", 10: 0}
    for place, value in bad.items():
        with pytest.raises(ValueError, match=" "):
            whole.top_k(*good[:place], value, *good[place + 1 :])
    with pytest.raises(TypeError):
        whole.top_k(query.astype(np.float64), *good[1:])
    with pytest.raises(ValueError, match="score table"):
        whole.top_k(np.zeros((2, 3, 9), np.float32), *good[1:])
    other = CORE.PQCatalogue(books, [(codes[:0], CORE.to_blocks(codes[:0], None, SAME), None, [])], 64, None)
    with pytest.raises(ValueError, match="compiled"):
        whole.top_k(*good[:3], other.compile(bits[0, :0]), *good[4:])
    with pytest.raises(MemoryError):
        whole.top_k(query, 2**62, *good[2:])
    with pytest.raises(ValueError, match="in blocks"):
        CORE.PQCatalogue(books, [(codes, None, None, [])], 64, None).top_k(*good)
    for part in (
        (codes[:, :2].copy(), None, None, []),
        (codes, blocks[:, :2].copy(), None, []),
        (codes, np.concatenate([blocks, blocks]), None, []),
        (codes, blocks, np.arange(70, dtype=np.int32), []),
        (codes, blocks, order, [(np.concatenate([blocks, blocks]), *levels[0][1:])]),
        (codes, blocks, order, [(levels[0][0], levels[0][1][:, :9].copy(), levels[0][2])]),
        (codes, blocks, order, [(levels[0][0], levels[0][2] + np.uint8(1), levels[0][1])]),
    ):
        with pytest.raises(ValueError, match=r"must|differ"):
            CORE.PQCatalogue(books, [part], 64, None)


@compiled
def test_a_code_past_the_codebook_reads_nothing_outside() -> None:
    """Codes are checked when an index is made; a file that changes under the map must still not crash a search."""
    codes = np.full((5, 3), 255, np.uint8)
    books = np.ones((3, 2, 8), np.float32)
    part = (
        codes,
        CORE.to_blocks(codes, None, SAME),
        None,
        CORE.levels(CORE.to_blocks(codes, None, SAME), 5, TABLES, 64, 1),
    )
    for algorithm in ("pqtopk", "bounded_scan", "block_prune"):
        catalogue = CORE.PQCatalogue(books, [part], 64, None)
        found = catalogue.top_k(np.ones((1, 6), np.float32), 2, None, None, None, None, 1.0, 1, algorithm, 1.0, 8)
        assert found[0].shape == (1, 2), algorithm
