"""Several processes that train one model (`torchrun`, `accelerate launch`): who takes which rows, what they agree on.

A process alone is rank 0 of 1, and nothing here changes what it does. Every rank draws the same batch, takes its rows
and weighs its loss, so that the mean of all ranks' gradients is the gradient of the whole batch. Rank 0 validates and
writes; the others follow what it says. Knows no model.
"""

import functools
import os
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from numpy.typing import NDArray

PATIENCE = timedelta(days=1)
"""How long ranks wait for one that is at work, such as on item codes. One that dies is noticed at once."""


@functools.cache
def ranks() -> PartialState:
    """This process among the others; joins them at the first call."""
    return PartialState(cpu=several_on_cpu(), timeout=PATIENCE)


def several_on_cpu() -> bool:
    """Whether there are several processes and no GPU: accelerate wants to be told, and connects them by gloo."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()


def share_of(
    ids_UT: NDArray[np.int32],
    negatives: NDArray[np.int32],
    masked_UT: NDArray[np.bool_] | None,
    rank: int,
    num_ranks: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_] | None, float]:
    """A rank's rows of a batch, and the weight of its mean loss: its share of the predicted events, times the ranks.

    Args:
        ids_UT: the batch, padded with -1 on the right.
        negatives: (K,) for all rows, or (N, K) with a row for every predicted event of the batch.
        masked_UT: the predicted events; None: all but the first of every row.
        rank, num_ranks: whose share.

    Returns:
        ids, negatives, masked, weight; a rank that is left without a row gets the first one, with weight 0.
    """
    if num_ranks == 1:
        return ids_UT, negatives, masked_UT, 1.0
    predicted_U = (ids_UT[:, 1:] >= 0 if masked_UT is None else masked_UT).sum(axis=1)
    own_U = np.arange(len(ids_UT)) % num_ranks == rank
    weight = num_ranks * predicted_U[own_U].sum() / predicted_U.sum()
    if not own_U.any():
        own_U[0] = True
    if negatives.ndim == 2:
        negatives = negatives[np.repeat(own_U, predicted_U)]
    return ids_UT[own_U], negatives, None if masked_UT is None else masked_UT[own_U], float(weight)


def agreed(value: float) -> float:
    """What rank 0 says, on every rank: where each had its own clock or score, they would part."""
    if ranks().num_processes == 1:
        return value
    said: Any = broadcast(torch.tensor([value], dtype=torch.float64, device=ranks().device))
    return float(said[0])


def reseed(seed: int, updates: int) -> None:
    """Random numbers of each rank's own, the same whether a run came here or was resumed here; one alone keeps its."""
    if ranks().num_processes > 1:
        drawn = np.random.SeedSequence([seed, updates, ranks().process_index]).generate_state(1, np.uint64)
        torch.manual_seed(int(drawn[0]))
