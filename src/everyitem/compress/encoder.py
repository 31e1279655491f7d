"""PruneRec on the backbones of item-ID recommenders: heads, feed-forward width and blocks of SASRec and gBERT4Rec.

The same three words as for language models, the same scorers underneath. What is compared is the distribution over the
whole catalogue after a history; item vectors stay as they are, and so do the dimensions that they share with the model.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from everyitem.compress import DivergenceName
from everyitem.compress.distil import divergence
from everyitem.compress.importance import broken_ties, greedy_scores, most_active, recursive_scores
from everyitem.compress.mask import columns_of, inputs_kept
from everyitem.compress.plan import Positions, Scores, best
from everyitem.model.items import Items
from everyitem.model.train import MASKED_SHARE
from everyitem.model.transformer import Block, GBERT4Rec, SASRec

Encoder = SASRec | GBERT4Rec


class EncoderPlan(NamedTuple):
    """What stays, as ascending positions in the backbone before the cut."""

    blocks_L: Positions
    heads_LH: Positions
    """Of every block there was, the same number in each."""
    neurons_LF: Positions


class Questions(NamedTuple):
    """Histories and what came next."""

    ids_UT: Tensor
    """(U, T) item positions, padded on the right with -1."""
    targets_U: Tensor


def keep_everything(backbone: Encoder) -> EncoderPlan:
    """The plan that changes nothing."""
    blocks = blocks_of(backbone)
    heads, neurons = blocks[0].attention.heads, blocks[0].widen.out_features
    rows = len(blocks)
    return EncoderPlan(np.arange(rows), np.tile(np.arange(heads), (rows, 1)), np.tile(np.arange(neurons), (rows, 1)))


def blocks_of(backbone: Encoder) -> list[Block]:
    """The attention blocks."""
    return [block for block in backbone.blocks if isinstance(block, Block)]


@contextmanager
def masked(backbone: Encoder, plan: EncoderPlan) -> Iterator[None]:
    """Within it, `forward` computes as if only what the plan keeps were there: the oracle of `cut`."""
    with ExitStack() as stack:
        for number, block in enumerate(blocks_of(backbone)):
            if number not in plan.blocks_L:
                stack.enter_context(_skipped(block))
                continue
            width = block.attention.query.out_features // block.attention.heads
            stack.enter_context(inputs_kept(block.attention.output, columns_of(plan.heads_LH[number], width)))
            stack.enter_context(inputs_kept(block.narrow, plan.neurons_LF[number]))
        yield


@contextmanager
def _skipped(block: Block) -> Iterator[None]:
    block.forward = lambda x_UTD, *_, **__: x_UTD  # type: ignore[method-assign]
    try:
        yield
    finally:
        del block.forward


def cut(backbone: Encoder, plan: EncoderPlan) -> Encoder:
    """A new backbone with what the plan keeps; it computes what the masked one does.

    Its blocks are narrower than the constructor makes them: `shape_of` says how, `in_shape` makes such a backbone.
    """
    smaller = deepcopy(backbone)
    blocks = blocks_of(smaller)
    for number in plan.blocks_L:
        block, heads_H, neurons_F = blocks[number], plan.heads_LH[number], plan.neurons_LF[number]
        attention = block.attention
        inner = attention.query.out_features
        columns = columns_of(heads_H, inner // attention.heads)
        attention.query = _rows(attention.query, columns)
        attention.key_value = _rows(attention.key_value, np.concatenate([columns, inner + columns]))
        attention.output = _columns(attention.output, columns)
        attention.heads = len(heads_H)
        block.widen, block.narrow = _rows(block.widen, neurons_F), _columns(block.narrow, neurons_F)
    smaller.blocks = nn.ModuleList(blocks[number] for number in plan.blocks_L)
    return smaller


def shape_of(backbone: Encoder) -> dict[str, int]:
    """What `in_shape` needs beside the constructor's arguments."""
    first = blocks_of(backbone)[0]
    return {
        "blocks": len(backbone.blocks),
        "heads": first.attention.heads,
        "head_width": first.attention.query.out_features // first.attention.heads,
        "neurons": first.widen.out_features,
    }


def in_shape(backbone: Encoder, *, blocks: int, heads: int, head_width: int, neurons: int) -> Encoder:
    """A backbone with blocks of these sizes, weights arbitrary, for the weights of one that was cut."""
    whole = keep_everything(backbone)
    inner = blocks_of(backbone)[0].attention.query.out_features
    for block in blocks_of(backbone):
        block.attention.heads = inner // head_width  # heads are cut below; their width is what matters
    rows = len(whole.blocks_L)
    plan = EncoderPlan(np.arange(blocks), np.tile(np.arange(heads), (rows, 1)), np.tile(np.arange(neurons), (rows, 1)))
    return cut(backbone, plan)


def _rows(layer: nn.Linear, kept: Positions) -> nn.Linear:
    return _layer(layer.weight[torch.from_numpy(kept)], layer.bias[torch.from_numpy(kept)])


def _columns(layer: nn.Linear, kept: Positions) -> nn.Linear:
    return _layer(layer.weight[:, torch.from_numpy(kept)], layer.bias)


def _layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight, made.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return made


def answers(backbone: Encoder, items: Items, asked: Questions) -> Tensor:
    """(U, I) log probabilities of the next item: softmax of the scores of the whole catalogue."""
    ids_UT = asked.ids_UT
    x_UTD, real_UT = items(ids_UT.clamp(min=0)), ids_UT >= 0
    lengths_U = real_UT.sum(1)
    row_U = torch.arange(len(ids_UT))
    if isinstance(backbone, GBERT4Rec):  # the mask stands behind the newest event
        x_UTD, real_UT = F.pad(x_UTD, (0, 0, 0, 1)), F.pad(real_UT, (0, 1))
        x_UTD[row_U, lengths_U], real_UT[row_U, lengths_U] = backbone.mask_vector, True
        lengths_U = lengths_U + 1
    hidden_UD = backbone(x_UTD, real_UT)[row_U, lengths_U - 1]
    every = torch.arange(items.num_items)
    return torch.log_softmax(items.scores(hidden_UD, every).float(), -1)


def loss_of(backbone: Encoder, items: Items, asked: Questions) -> float:
    """Mean negative log likelihood of what came next."""
    with torch.inference_mode():
        return float(F.nll_loss(answers(backbone, items, asked), asked.targets_U))


def head_scores(backbone: Encoder, items: Items, asked: Questions, *, keep: int, alpha: float = 0.7) -> Scores:
    """(L, H): `importance.head_scores`, with the distribution over items in place of that over tokens."""
    plan = keep_everything(backbone)
    with torch.inference_mode():
        full_UI = answers(backbone, items, asked)

        def lost(kept: list[Positions]) -> float:
            ragged: Any = kept
            with masked(backbone, plan._replace(heads_LH=ragged)):
                return float(divergence(answers(backbone, items, asked), full_UI, "forward").mean())

        shape = (plan.heads_LH.shape[0], plan.heads_LH.shape[1])
        return recursive_scores(shape, lost, lambda scores_H: best(scores_H, keep), alpha=alpha)


def neuron_scores(backbone: Encoder, items: Items, asked: Questions, *, keep: int) -> Scores:
    """(L, F): how often a neuron is among the `keep` most active of an event, as in `importance.neuron_scores`."""
    real_UT, counts, sums = asked.ids_UT >= 0, [], []

    def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        value_NF = given[0][:, : real_UT.shape[1]][real_UT].abs()
        counts.append(most_active(value_NF, keep))
        sums.append(value_NF.sum(0, dtype=torch.float64))

    hooks = [block.narrow.register_forward_pre_hook(count) for block in blocks_of(backbone)]
    with torch.inference_mode():
        answers(backbone, items, asked)
    for hook in hooks:
        hook.remove()
    return broken_ties(torch.stack(counts), torch.stack(sums))


def block_scores(backbone: Encoder, items: Items, asked: Questions, *, drop: int) -> Scores:
    """(L,): blocks by greedy search, as in `importance.layer_scores`."""
    plan = keep_everything(backbone)

    def loss(kept_L: Positions) -> float:
        with masked(backbone, plan._replace(blocks_L=kept_L)):
            return loss_of(backbone, items, asked)

    return greedy_scores(len(plan.blocks_L), loss, drop=drop)


class ItemLoss:
    """What a cut backbone is restored with: a batch's number in, its mean loss out.

    Teacher and student are compared on the true item and a sample shared by the batch; item vectors are frozen.

    Args:
        student: the cut backbone.
        teacher: the backbone before any cut.
        items: the item side of both.
        batches: histories (U, T), padded on the right with -1.
        kind: of the divergence.
        truth: weight of the cross-entropy with the true item.
        negatives: items of the sample.
        seed: of samples and masks.
    """

    def __init__(
        self,
        student: Encoder,
        teacher: Encoder,
        items: Items,
        batches: Sequence[NDArray[np.int32]],
        *,
        kind: DivergenceName = "forward",
        truth: float = 0.2,
        negatives: int = 1024,
        seed: int = 0,
    ) -> None:
        self.student, self.teacher, self.items, self.batches = student, teacher.eval(), items, batches
        self.kind, self.truth, self.negatives, self.seed = kind, truth, negatives, seed
        items.requires_grad_(False)

    def __call__(self, number: int) -> Tensor:
        """The mean loss over the items asked for in one batch."""
        rng = np.random.default_rng([self.seed, number])
        ids_UT = torch.from_numpy(self.batches[number])
        with torch.no_grad():
            vectors_UTD = self.items(ids_UT.clamp(min=0))
            drawn = torch.from_numpy(rng.integers(0, self.items.num_items, self.negatives, dtype=np.int64))
        if isinstance(self.student, GBERT4Rec):
            asked_UT = (ids_UT >= 0) & torch.from_numpy(rng.random(ids_UT.shape) < MASKED_SHARE)
            asked_UT[:, 0] |= ~asked_UT.any(1)
            targets_N = ids_UT[asked_UT].long()
        else:
            asked_UT, targets_N = ids_UT[:, 1:] >= 0, ids_UT[:, 1:][ids_UT[:, 1:] >= 0].long()

        def hidden(model: Encoder) -> Tensor:
            """(N, D) states that the items asked for are predicted from."""
            if isinstance(model, GBERT4Rec):
                x_UTD = torch.where(asked_UT[..., None], model.mask_vector, vectors_UTD)
                return model(x_UTD, ids_UT >= 0)[asked_UT]  # type: ignore[no-any-return]
            return model(vectors_UTD[:, :-1], asked_UT)[asked_UT]  # type: ignore[no-any-return]

        log_q = self._log_probs(hidden(self.student), targets_N, drawn)
        with torch.no_grad():
            log_p = self._log_probs(hidden(self.teacher), targets_N, drawn)
        taught_N = divergence(log_q, log_p, self.kind)
        return ((1 - self.truth) * taught_N - self.truth * log_q[:, 0]).mean()

    def _log_probs(self, hidden_ND: Tensor, targets_N: Tensor, drawn: Tensor) -> Tensor:
        """(N, 1 + K): the true item first; a sampled one that is the true one has no share."""
        scores_NK = self.items.scores(hidden_ND, drawn).float()
        scores_NK = scores_NK.masked_fill(drawn == targets_N[:, None], -1e4)
        true_N1 = self.items.scores(hidden_ND, targets_N[:, None]).float()
        return torch.log_softmax(torch.cat([true_N1, scores_NK], 1), -1)
