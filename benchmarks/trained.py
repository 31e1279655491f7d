"""The models behind `tr13` and `mf13`: sub-items trained on generated interactions, or factors of them.

`tr13` is the yardstick: RecJPQ codes, sub-items and a small encoder trained together (torch, some minutes).
`mf13` is the concentrated case: sub-items add up to an item's factor, a query is the mean of a history's factors.
Both have M = 8, 256 sub-items of 64 dimensions, and queries of users whose last event is held out.
"""

import math
import time
from collections.abc import Callable

import numpy as np
from interactions import (
    NUM_EVENTS,
    NUM_ITEMS,
    NUM_SPLITS,
    NUM_SUB_ITEMS,
    Events,
    interactions,
    item_factors,
    rank_codes,
)

from everyitem.bench.catalogues import Catalogue
from everyitem.types import Floats

NUM_QUERIES = 600
SPLIT_DIM = 64
DIM = NUM_SPLITS * SPLIT_DIM
STEPS, BATCH, NEGATIVES = 4000, 768, 1024
SWEEPS = 6
WINDOW = 8  # events that a query is made of


def trained(report: Callable[[str], None], num_items: int = NUM_ITEMS, steps: int = STEPS, seed: int = 0) -> Catalogue:
    """`tr13`: codes by SVD, then sub-items and encoder by cross-entropy against uniform negatives."""
    import torch
    from torch import nn

    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    events = interactions(rng, num_items)
    report("interactions generated")
    factors, _ = item_factors(rng, events[:, :-1], num_items, 16, 4)
    codes_IM = rank_codes(rng, factors[:, :NUM_SPLITS], centred=True)
    report("codes assigned")

    codes, history = torch.from_numpy(codes_IM), torch.from_numpy(events)
    books = nn.Parameter(0.05 * torch.randn(NUM_SPLITS, NUM_SUB_ITEMS, SPLIT_DIM))
    net = nn.Sequential(nn.Linear(3 * DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM))
    norm = nn.LayerNorm(DIM)
    adam = torch.optim.Adam(
        [{"params": [books], "lr": 3e-3}, {"params": [*net.parameters(), *norm.parameters()], "lr": 1e-3}]
    )
    drop = torch.optim.lr_scheduler.StepLR(adam, max(1, 3 * steps // 4), gamma=0.2)

    def vectors(items: torch.Tensor) -> torch.Tensor:
        # index_select is what torch differentiates fastest; the offset makes one table of all splits
        rows = codes[items].long() + NUM_SUB_ITEMS * torch.arange(NUM_SPLITS)
        found = books.view(-1, SPLIT_DIM).index_select(0, rows.flatten())
        return found.view(*items.shape, DIM)

    def encode(window: torch.Tensor) -> torch.Tensor:
        met = vectors(window)
        last = met[:, -1]
        hidden: torch.Tensor = norm(net(torch.cat([met.mean(1), last, met[:, -3:].mean(1)], 1)) + last)
        return hidden

    correction, losses, started = 0.5 * math.log(num_items / NEGATIVES), [], time.perf_counter()
    for step in range(steps):
        users = torch.randint(len(history), (BATCH,))
        ends = torch.randint(WINDOW, NUM_EVENTS - 1, (BATCH,))
        target = history[users, ends]
        hidden = encode(history[users[:, None], ends[:, None] + torch.arange(-WINDOW, 0)])
        right = (hidden * vectors(target)).sum(1, keepdim=True)
        wrong = hidden @ vectors(torch.randint(num_items, (NEGATIVES,))).T + correction
        loss = nn.functional.cross_entropy(torch.cat([right, wrong], 1), torch.zeros(BATCH, dtype=torch.long))
        adam.zero_grad()
        loss.backward()
        adam.step()
        drop.step()
        losses.append(loss.item())
        if step % 100 == 99:
            report(f"step {step + 1}: loss {np.mean(losses[-100:]):.2f}, {time.perf_counter() - started:.0f} s")
    users_U = rng.choice(len(events), NUM_QUERIES, replace=False)
    with torch.no_grad():
        queries = encode(history[users_U, -WINDOW - 1 : -1]).numpy()
    made = Catalogue("tr13", codes_IM, books.detach().numpy().copy(), queries.copy())
    report(quality(made, events[users_U, -1]))
    return made


def factorised(report: Callable[[str], None], num_items: int = NUM_ITEMS, seed: int = 0) -> Catalogue:
    """`mf13`: a rank-72 SVD; codes from its top 8 factors, sub-items from the best 64 by back-fitting."""
    rng = np.random.default_rng(seed)
    events = interactions(rng, num_items)
    report("interactions generated")
    factors, sigma = item_factors(rng, events[:, :-1], num_items, 72, 3)
    codes_IM = rank_codes(rng, factors[:, :NUM_SPLITS], centred=False)
    report("codes assigned")
    vectors_ID = factors[:, :SPLIT_DIM] * np.sqrt(sigma[:SPLIT_DIM])
    books = _additive(codes_IM, vectors_ID)
    users_U = rng.choice(len(events), NUM_QUERIES, replace=False)
    wishes = vectors_ID[events[users_U, -WINDOW - 1 : -1]].mean(axis=1)
    wishes *= 8 / np.linalg.norm(wishes, axis=1, keepdims=True)
    books /= np.sqrt((books**2).sum(axis=2).mean())
    made = Catalogue("mf13", codes_IM, books, np.tile(wishes, NUM_SPLITS).astype(np.float32))
    report(quality(made, events[users_U, -1]))
    return made


def _additive(codes_IM: np.ndarray, vectors_ID: Floats) -> Floats:
    """Sub-items whose sum over the splits is near the vector: each the mean of what the others leave, by turns."""
    books = np.zeros((NUM_SPLITS, NUM_SUB_ITEMS, vectors_ID.shape[1]), np.float32)
    left = vectors_ID.copy()
    orders = [np.argsort(codes, kind="stable") for codes in codes_IM.T]
    starts = [
        np.searchsorted(codes[order], np.arange(NUM_SUB_ITEMS)) for codes, order in zip(codes_IM.T, orders, strict=True)
    ]
    counts = [np.bincount(codes, minlength=NUM_SUB_ITEMS)[:, None] for codes in codes_IM.T]
    for _ in range(SWEEPS):
        for m in range(NUM_SPLITS):
            left += books[m, codes_IM[:, m]]
            books[m] = np.add.reduceat(left[orders[m]], starts[m]) / counts[m]
            left -= books[m, codes_IM[:, m]]
    return books


def quality(catalogue: Catalogue, targets: Events) -> str:
    """How well the queries find their held-out item: worth a look, as bad models are searched differently."""
    from everyitem.index import PQIndex, reference

    index = PQIndex(catalogue.codes_IM, catalogue.codebooks_MBd)
    chosen = slice(0, 100)
    tables = index.score_table(catalogue.queries_UD[chosen])
    ranks = []
    for table_MB, target in zip(tables, targets[chosen], strict=True):
        scores = reference.pq_scores(table_MB[None], catalogue.codes_IM)[0]
        ranks.append((scores > scores[target]).mean())
    hits = np.mean(np.array(ranks) < 0.001)
    return f"median rank of the target {np.median(ranks):.1%} of the catalogue, hit@0.1% {hits:.2f}"
