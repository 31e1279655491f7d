"""Our algorithms on one catalogue, as many as memory has room for."""

from collections.abc import Callable

from peers import need_room

from everyitem.bench import methods
from everyitem.bench.methods import Method, Unsuited
from everyitem.index import PQIndex
from everyitem.types import Floats

ARRANGED_AT_A_TIME = 16_800_000


def ours(index: PQIndex, samples_UD: Floats, report: Callable[[str], None] = print) -> list[Method]:
    """All of ours, or without those whose inverted lists or layout would not fit; the layout is made here."""
    num_items, num_splits = index.num_items, index.num_splits
    left_out: set[str] = set()
    seconds = 0.0
    try:
        at_once = min(num_items, ARRANGED_AT_A_TIME)
        need_room((num_splits + 4) * (num_items + 2 * at_once), "the layout of the fast searches")
        seconds = methods.built(index, samples_UD)
    except Unsuited as reason:
        report(f"skipped bounded_scan, block_prune, planner: {reason}")
        left_out |= {"bounded_scan", "block_prune", methods.PLANNER}
    try:
        need_room(4.0 * num_splits * num_items, "inverted lists")
    except Unsuited as reason:
        report(f"skipped recjpqprune: {reason}")
        left_out.add("recjpqprune")
    return [method for method in methods.algorithms(index, seconds) if method.name not in left_out]
