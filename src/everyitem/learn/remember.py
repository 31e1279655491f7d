"""Fits what a memory is worth, after the vectors: a few numbers, by maximum likelihood on the validation users.

Their next events are in no count and in no vector's training, so nothing has to be left out; training itself is as it
was without a memory, and any backbone and loss will do. The negative log likelihood is convex in the weights.
"""

import math

import numpy as np
import torch
from torch import Tensor

from everyitem.index import AnyIndex, TwoLevelIndex
from everyitem.memory import NUM_FEATURES, Memory, Transitions, remember
from everyitem.types import Floats, Histories, Ids

BEST = 128
"""Items that are not remembered whose scores are counted exactly; a sample stands for the rest."""
SAMPLE = 8192
LEAST = 1e-6
"""Probability left to all other items where rounding leaves less."""
RIDGE = 1e-3
STEPS = 60


def fit_memory(
    transitions: Transitions,
    index: AnyIndex,
    query_UD: Floats,
    histories: Histories,
    targets_U: Ids,
    *,
    length: int,
    seed: int,
) -> Memory:
    """The weights that make the targets likeliest: softmax over the catalogue, the remembered items raised.

    Args:
        transitions: of training events.
        index: of the trained vectors.
        query_UD: queries of the histories.
        histories: U validation users, without their targets.
        targets_U: their next events.
        length: events of a history that are looked at.
        seed: of the sample.

    Cost: seconds for 1,024 users, whatever the catalogue.
    """
    found = remember(transitions, histories, length)
    real_UN, plain_UN = found.items_UN >= 0, index.scores(query_UD, np.maximum(found.items_UN, 0))
    top = index.top_k(query_UD, min(BEST, index.num_items), exclude=found.items_UN)
    best_U1 = np.where(
        np.isneginf(top.scores[:, :1]), plain_UN.max(axis=1, keepdims=True, initial=0), top.scores[:, :1]
    )
    behind_UN = plain_UN - best_U1
    features = np.concatenate(
        [found.features_UNF, np.stack([found.seen_UN * behind_UN, ~found.seen_UN * behind_UN], axis=2)], axis=2
    )
    is_target_UN = real_UN & (found.items_UN == targets_U[:, None])
    elsewhere_U = index.scores(query_UD, targets_U[:, None])[:, 0]
    rest_U = _log_sum_of_the_rest(index, query_UD, found.items_UN, top.scores, seed)
    arrays = (features, plain_UN, real_UN, is_target_UN, elsewhere_U, rest_U)
    weights = _most_likely(*map(torch.from_numpy, arrays))
    return Memory(transitions, weights[:NUM_FEATURES], weights[NUM_FEATURES:], np.array(length))


def _most_likely(
    features: Tensor, plain: Tensor, real: Tensor, is_target: Tensor, elsewhere: Tensor, rest: Tensor
) -> Floats:
    weights = torch.zeros(features.shape[2], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")
    remembered = is_target.any(1)

    def loss() -> Tensor:
        optimiser.zero_grad()
        score = plain + features @ weights
        everything = torch.logaddexp(rest, score.masked_fill(~real, -torch.inf).logsumexp(1))
        target = torch.where(remembered, (score * is_target).sum(1), elsewhere)
        value: Tensor = (everything - target).mean() + RIDGE * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    fitted: Floats = weights.detach().numpy()
    return fitted


def _log_sum_of_the_rest(index: AnyIndex, query_UD: Floats, remembered_UN: Ids, best_UK: Floats, seed: int) -> Floats:
    """(U,) log of the sum of exp(score) over the items that are not remembered: the best exactly, others by sample.

    The scores of a two-level index are log-probabilities of all items, so there the sum is known.
    """
    if isinstance(index, TwoLevelIndex):
        own_UN = np.where(remembered_UN >= 0, index.scores(query_UD, np.maximum(remembered_UN, 0)), -np.inf)
        rest: Floats = np.log(np.maximum(1 - np.exp(own_UN.astype(np.float64)).sum(axis=1), LEAST)).astype(np.float32)
        return rest
    drawn = np.random.default_rng(seed).integers(0, index.num_items, SAMPLE).astype(np.int32)
    score_US = query_UD @ index.vectors(drawn).T
    weight = math.log(index.num_items / SAMPLE)
    out = np.logaddexp.reduce(best_UK.astype(np.float64), axis=1)
    for row, scores in enumerate(score_US):
        others = scores[(scores < best_UK[row, -1]) & ~np.isin(drawn, remembered_UN[row])]
        out[row] = np.logaddexp(out[row], np.logaddexp.reduce(others.astype(np.float64), initial=-np.inf) + weight)
    result: Floats = out.astype(np.float32)
    return result
