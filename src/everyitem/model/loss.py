"""Losses on hidden states and item scores. Each is `(items, hidden_ND, targets_N, negatives) -> mean loss`.

`negatives` are positions drawn uniformly from the catalogue, (K,) shared by all rows of the batch or (N, K) of their
own. The published code draws them per position; sharing K over a batch turns the scoring into one matrix product, so
for the same time K can be ten times larger, which is worth more (docs/results.md). Positives are not excluded there;
we leave out a negative that equals the row's target.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from everyitem.model.items import Items

CHUNK_LOGITS = 1 << 26
"""Most logits alive at once in the full softmax: 256 MiB in float32."""


def sampled_softmax(items: Items, hidden_ND: Tensor, targets_N: Tensor, negatives: Tensor) -> Tensor:
    """-log( e^s+ / (e^s+ + sum_k e^s_k) ): cross-entropy against K uniform negatives.

    With uniform negatives its optimum ranks like the full softmax: s = log p(item | history) + a constant of the row.
    """
    positive, negative = _scores(items, hidden_ND, targets_N, negatives)
    return (torch.logsumexp(torch.cat([positive[:, None], negative], 1), 1) - positive).mean()


def gbce(
    items: Items,
    hidden_ND: Tensor,
    targets_N: Tensor,
    negatives: Tensor,
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
        calibration: t. 0 is plain binary cross-entropy, 1 makes the scores calibrated; 0.75 goes with K = 256.
        offset: taken off every score, which changes no ranking. log I starts training at the base rate of an item; the
            published 0 leaves it to the embeddings to learn that nearly everything is a negative, which took longer
            than our whole training on amazon14-beauty (docs/log.md).
    """
    positive, negative = _scores(items, hidden_ND, targets_N, negatives)
    alpha = negative.shape[1] / max(1, items.num_items - 1)
    beta = 1 - calibration * (1 - min(1.0, alpha))
    return (beta * F.softplus(offset - positive) + F.softplus(negative - offset).sum(1)).mean()


def full_softmax(items: Items, hidden_ND: Tensor, targets_N: Tensor, negatives: Tensor | None = None) -> Tensor:
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


def _chunk_logsumexp(items: Items, hidden_ND: Tensor, part: Tensor) -> Tensor:
    return torch.logsumexp(items.scores(hidden_ND, part).float(), 1)


def _scores(items: Items, hidden_ND: Tensor, targets_N: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Positive (N,) and negative (N, K) scores in float32; a negative that is the target scores -inf."""
    positive = (hidden_ND * items(targets_N)).sum(-1).float()
    negative = items.scores(hidden_ND, negatives).float()
    return positive, negative.masked_fill(negatives == targets_N[:, None], -torch.inf)
