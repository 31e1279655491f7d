"""Losses on hidden states and item scores: `(items, hidden_ND, targets_N, negatives, own_NT) -> mean loss`.

`negatives` are positions drawn uniformly from the catalogue, (K,) shared by all rows of the batch or (N, K) of their
own. The published code draws them per position; sharing K over a batch turns the scoring into one matrix product, so
for the same time K can be ten times larger. A negative that equals the row's target is left out.

`own_NT` are the scores of the other items of the same history, -inf where there is none. A uniform sample practically
never holds them, and they are the ones a model most needs to tell apart: which of the items just seen comes again.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from everyitem.model.items import Items, PQItems
from everyitem.model.two_level import TwoLevelItems

CHUNK_LOGITS = 1 << 26
"""Most logits alive at once in the full softmax: 256 MiB in float32."""


def sampled_softmax(
    items: Items, hidden_ND: Tensor, targets_N: Tensor, negatives: Tensor, own_NT: Tensor | None = None
) -> Tensor:
    """Cross-entropy with an estimate of the full softmax's sum, in two strata.

    -log( e^s+ / (e^s+ + sum_own e^s + I/K sum_k e^s_k) ): the other items of the history are few and counted exactly,
    the rest of the catalogue by K uniform draws, each standing for I/K items. Without `own_NT` the estimate is
    unbiased; with it, an own item that is drawn as well counts twice, which happens to K/I of them.
    """
    positive, negative = _scores(items, hidden_ND, targets_N, negatives)
    weight = math.log(items.num_items / negative.shape[1])
    certain = [positive[:, None]] if own_NT is None else [positive[:, None], own_NT]
    with torch.autocast(hidden_ND.device.type, enabled=False):
        # in the dtype of the scores, one fused pass: six times faster than logsumexp in float32 (docs/log.md)
        logits = torch.cat([*((scores - weight).to(negative.dtype) for scores in certain), negative], 1)
        return F.cross_entropy(logits, torch.zeros_like(targets_N)).float()


def gbce(
    items: Items,
    hidden_ND: Tensor,
    targets_N: Tensor,
    negatives: Tensor,
    own_NT: Tensor | None = None,
    *,
    calibration: float = 0.75,
    offset: float = 0.0,
) -> Tensor:
    """Generalised binary cross-entropy, gSASRec (arXiv:2308.07192).

    beta softplus(-s+) + sum_k softplus(s_k) with beta = 1 - t (1 - alpha) and alpha = K / (I - 1). The published code
    takes a detour through a float64 logit transform of s+, which is the same number and less stable, and divides by
    K + 1, which Adam cancels but for its epsilon: with K = 1024 the gradients came down to that.

    Args:
        items: the item embeddings.
        hidden_ND: hidden states.
        targets_N: the right item of every row.
        negatives: (K,) or (N, K).
        own_NT: not used: the loss is about uniform negatives.
        calibration: t. 0 is plain binary cross-entropy, 1 makes the scores calibrated; 0.75 goes with K = 256.
        offset: taken off every score, which changes no ranking. log I starts training at the base rate of an item; the
            published 0 leaves it to the embeddings to learn that nearly everything is a negative, which took longer
            than our whole training on amazon14-beauty (docs/log.md).
    """
    positive, negative = _scores(items, hidden_ND, targets_N, negatives)
    alpha = negative.shape[1] / max(1, items.num_items - 1)
    beta = 1 - calibration * (1 - min(1.0, alpha))
    return (beta * F.softplus(offset - positive) + F.softplus(negative - offset).sum(1, dtype=torch.float32)).mean()


def split_softmax(
    items: Items,
    hidden_ND: Tensor,
    targets_N: Tensor,
    negatives: Tensor | None = None,
    own_NT: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the target's sub-item in every split, summed over splits: RPG's loss (arXiv:2506.05781).

    sum_m [ log sum_b exp table[m, b] - table[m, code_m] ], the softmax of split m over its B sub-items alone. As log
    sum exp is at least the maximum, this is a smooth upper bound of the target's gap sum_m (max_b table[m, b] -
    table[m, code_m]), which is what bounds the work of an exact search.

    log p(item) = sum_m log p(code_m) differs from the item's score by the same number for all items, so an index
    ranks by it as it is. RPG has a projection per split and inner products over a temperature; ours are the D / M
    dimensions of the split, whose scale is learned.

    Raises:
        TypeError: items without splits; `fit` does not let it come to that.
    """
    if not isinstance(items, PQItems):
        raise TypeError(f"{type(items).__name__} have no splits")
    table_NMB = items.table(hidden_ND).float()
    codes_NM = F.embedding(targets_N, items.codes).long()
    return F.cross_entropy(table_NMB.flatten(0, 1), codes_NM.flatten(), reduction="sum") / len(targets_N)


def concentrated(
    items: Items,
    hidden_ND: Tensor,
    targets_N: Tensor,
    negatives: Tensor,
    own_NT: Tensor | None = None,
    *,
    loss: Callable[..., Tensor],
    weight: float,
) -> Tensor:
    """`loss` plus `weight` times `split_softmax`: scores concentrate on few sub-items, so that searches prune more."""
    first = loss(items, hidden_ND, targets_N, negatives, own_NT)
    return first + weight * split_softmax(items, hidden_ND, targets_N)


def full_softmax(
    items: Items, hidden_ND: Tensor, targets_N: Tensor, negatives: Tensor | None = None, own_NT: Tensor | None = None
) -> Tensor:
    """Cross-entropy over the whole catalogue, in chunks of items that are recomputed in the backward pass.

    Never holds more than `CHUNK_LOGITS` logits: time N I D, memory flat in the catalogue.
    """
    width = max(1, CHUNK_LOGITS // max(1, len(hidden_ND)))
    every = torch.arange(items.num_items, device=hidden_ND.device)
    parts = torch.split(every, width)
    if len(parts) == 1:
        return F.cross_entropy(items.scores(hidden_ND, every).float(), targets_N)
    sums = [checkpoint(_chunk_logsumexp, items, hidden_ND, part, use_reentrant=False) for part in parts]
    positive = (hidden_ND * items(targets_N)).sum(-1).float()
    loss: Tensor = (torch.logsumexp(torch.stack(sums, 1), 1) - positive).mean()
    return loss


def two_level_softmax(
    items: Items,
    hidden_ND: Tensor,
    targets_N: Tensor,
    negatives: Tensor | None = None,
    own_NT: Tensor | None = None,
    *,
    words_VD: Tensor | None = None,
) -> Tensor:
    """Two-level softmax (arXiv:2509.03746): mean of -log p(w) over words and -log p(c) - log p(i | c) over items.

    The first level is one softmax over the V words and the C clusters, the second one over the items of the target's
    cluster. Nothing is sampled: this is the likelihood that `TwoLevelIndex` ranks by.

    Args:
        items: `TwoLevelItems`.
        hidden_ND: hidden states.
        targets_N: positions of items, and -1 - w for word w.
        negatives, own_NT: not used.
        words_VD: output vectors of the words; None: there are none, and every target is an item.

    Cost: N (V + C + items of a cluster) D in time, the same without D in logits.
    """
    assert isinstance(items, TwoLevelItems)
    logits_N, num_words, is_item = items.cluster_logits(hidden_ND), 0, targets_N >= 0
    if words_VD is not None:
        logits_N, num_words = torch.cat([items.capped(hidden_ND @ words_VD.T), logits_N], 1), len(words_VD)
    of_cluster = num_words + items.cluster_of[targets_N.clamp(min=0)]
    first = F.cross_entropy(logits_N, torch.where(is_item, of_cluster, -1 - targets_N), reduction="sum")
    return (first + items.inside(hidden_ND[is_item], targets_N[is_item])) / len(targets_N)


def _chunk_logsumexp(items: Items, hidden_ND: Tensor, part: Tensor) -> Tensor:
    return torch.logsumexp(items.scores(hidden_ND, part).float(), 1)


def _scores(items: Items, hidden_ND: Tensor, targets_N: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Positive (N,) scores in float32 and negative (N, K) ones; a negative that is the row's target scores -inf.

    Shared negatives are a set: what was drawn twice counts once.
    """
    positive = (hidden_ND * items(targets_N)).sum(-1).float()
    if negatives.dim() == 2:
        return positive, items.scores(hidden_ND, negatives).masked_fill(negatives == targets_N[:, None], -torch.inf)
    negatives = torch.unique(negatives)
    negative = items.scores(hidden_ND, negatives)
    # few rows have their target among the negatives: finding those costs N log K, comparing all N K
    place = torch.searchsorted(negatives, targets_N.to(negatives.dtype)).clamp(max=len(negatives) - 1)
    hit = (negatives[place] == targets_N).nonzero()[:, 0]
    return positive, negative.index_put((hit, place[hit]), negative.new_tensor(-torch.inf))
