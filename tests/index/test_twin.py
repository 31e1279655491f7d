"""The NumPy twin stands in for the core: same bits, one warning."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from everyitem.index import DenseIndex, PQIndex, reference
from everyitem.index.core import load_core

COMPILED = load_core() is not reference

DIGEST = """
import hashlib, sys, warnings
import numpy as np
sys.modules["everyitem._native"] = None
from everyitem.index import DenseIndex, PQIndex
rng = np.random.default_rng(0)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    exec(sys.stdin.read())
print(digest, [str(w.category.__name__) for w in caught])
"""

SEARCHES = """
digest = hashlib.sha256()
for flavour in range(4):
    codes = rng.integers(0, 16, (500, 5), dtype=np.uint8)
    codebooks = rng.integers(-2, 3, (5, 16, 7)).astype(np.float32) if flavour % 2 else rng.standard_normal((5, 16, 7))
    query = rng.standard_normal((3, 35)).astype(np.float32)
    rotation = np.eye(35)[rng.permutation(35)] if flavour > 1 else None
    pq = PQIndex(codes, codebooks, rotation_DD=rotation)
    for index in (pq, DenseIndex(pq.vectors(range(500)))):
        index.remove([1, 2, 3])
        exclude = rng.integers(-1, 500, (3, 9)).astype(np.int32)
        for allow in (None, rng.random(500) < 0.1, rng.random((3, 500)) < 0.5):
            for found in (index.top_k(query, 20, allow=allow, exclude=exclude), index.top_k(query, 600, deadline=0)):
                digest.update(found.items.tobytes() + found.scores.tobytes() + found.bound.tobytes())
digest = digest.hexdigest()
"""


@pytest.mark.skipif(not COMPILED, reason="this installation has no C++ core to compare with")
def test_without_the_core_numpy_gives_the_same_bits_and_warns_once() -> None:
    here = {"hashlib": hashlib, "np": np, "rng": np.random.default_rng(0), "PQIndex": PQIndex, "DenseIndex": DenseIndex}
    exec(SEARCHES, here)
    command = [sys.executable, "-c", DIGEST]
    twin = subprocess.run(command, input=SEARCHES, capture_output=True, text=True, check=True)
    assert twin.stdout.strip() == f"{here['digest']} ['RuntimeWarning']"
