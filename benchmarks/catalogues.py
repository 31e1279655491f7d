"""Catalogues to search, by name: hand-made ones (`everyitem.bench.catalogues`), `tr13` and `mf13`, exported models.

What takes minutes to make is kept: tr13.npz and mf13.npz in $EVERYITEM_BENCH_CACHE or ~/.cache/everyitem-bench.

    python benchmarks/catalogues.py tr13 mf13        makes and keeps them
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from interactions import resized
from trained import factorised, trained

from everyitem.bench.catalogues import SAMPLES, Catalogue, generate, read_export
from everyitem.bench.difficulty import difficulty
from everyitem.index import PQIndex

Report = Callable[[str], None]
LEARNT: dict[str, Callable[[Report], Catalogue]] = {"tr13": trained, "mf13": factorised}
CACHE = Path(os.environ.get("EVERYITEM_BENCH_CACHE", "~/.cache/everyitem-bench")).expanduser()


MAPPED_FROM = 1 << 31


def say(said: str) -> None:
    print(said, flush=True)


def catalogue(
    kind: str | Path, num_items: int, num_splits: int, dim: int, num_queries: int, cache: Path = CACHE
) -> Catalogue:
    """A folder of `everyitem export`, a hand-made kind, or a learnt one brought to `num_items` (M = 8, D = 512)."""
    if isinstance(kind, Path):
        return read_export(kind)
    if kind not in LEARNT:
        return _mapped(generate(kind, num_items, num_splits, dim, num_queries))
    made = kept(kind, cache)
    if (num_splits, dim) != (made.codes_IM.shape[1], made.queries_UD.shape[1]):
        raise ValueError(f"{kind} has 8 splits and 512 dimensions; got {num_splits} and {dim}")
    if num_items == len(made.codes_IM):
        return made
    return _mapped(made._replace(codes_IM=resized(np.random.default_rng(1), made.codes_IM, num_items)))


def _mapped(made: Catalogue) -> Catalogue:
    """Codes of gigabytes in a file that goes with the process: as of a saved index, memory can do without them."""
    if made.codes_IM.nbytes < MAPPED_FROM:
        return made
    with tempfile.TemporaryFile() as file:
        codes_IM = np.memmap(file, np.uint8, "w+", shape=made.codes_IM.shape)
    codes_IM[:] = made.codes_IM
    return made._replace(codes_IM=codes_IM)


def kept(kind: str, cache: Path = CACHE, report: Report = say) -> Catalogue:
    """A learnt catalogue from the cache, made where it is not there yet."""
    path = cache / f"{kind}.npz"
    if not path.exists():
        made = LEARNT[kind](report)
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")  # so that an interrupted run leaves nothing half there
        np.savez(part, codes=made.codes_IM, codebooks=made.codebooks_MBd, queries=made.queries_UD)
        part.replace(path)
    with np.load(path, allow_pickle=False) as arrays:
        return Catalogue(kind, arrays["codes"], arrays["codebooks"], arrays["queries"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="+", choices=LEARNT)
    parser.add_argument("--cache", type=Path, default=CACHE)
    args = parser.parse_args()
    for kind in args.kinds:
        made = kept(kind, args.cache)
        print(f"{kind}: {difficulty(PQIndex(made.codes_IM, made.codebooks_MBd), made.queries_UD[SAMPLES:])}")


if __name__ == "__main__":
    main()
