"""Rows of text that a language model is measured and restored with, and what the model says at the tokens asked for.

A token is asked for where its label is not -100: it is predicted by the position before it. Rows are padded on the
right, so a causal model needs no mask for padding and nothing asked for sees any.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from everyitem.model.llm import suit_attention

IGNORED = -100


class Batch(NamedTuple):
    """Rows of tokens, padded on the right."""

    ids_UT: Tensor
    """(U, T) int64 tokens; padding may be any token."""
    real_UT: Tensor
    """(U, T) bool: not padding."""
    labels_UT: Tensor
    """(U, T) int64: the token itself where it is asked for, else -100. The first of a row is never asked for."""

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(*(part.to(device) for part in self))

    @property
    def asked(self) -> Tensor:
        """(U, T - 1) bool: positions whose next token is asked for."""
        return self.labels_UT[:, 1:] != IGNORED

    @property
    def targets_N(self) -> Tensor:
        """(N,) the tokens asked for, row by row."""
        return self.labels_UT[:, 1:][self.asked]


Batches = Iterable[Batch]


def target_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(N, V) float32 logits for the tokens asked for, in the order of `Batch.targets_N`.

    The output table is multiplied at those positions alone; elsewhere its product would be most of the work of a small
    model.
    """
    suit_attention(model, batch.ids_UT.shape[1])
    hidden_UTD = model.model(input_ids=batch.ids_UT[:, :-1], use_cache=False).last_hidden_state
    return _logits(model, hidden_UTD[batch.asked])


def _logits(model: PreTrainedModel, hidden_ND: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(hidden_ND).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def target_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """(N,) negative log likelihood of the tokens asked for, in nats."""
    return F.cross_entropy(target_logits(model, batch), batch.targets_N, reduction="none")


def every_token(batch: Batch) -> Batch:
    """The batch with every token but a row's first asked for."""
    return batch._replace(labels_UT=batch.ids_UT.masked_fill(~batch.real_UT, IGNORED))


def mean_loss(model: PreTrainedModel, batches: Batches) -> float:
    """Mean negative log likelihood over all tokens asked for; its exponential is the perplexity."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in batches:
            loss_N = target_loss(model, batch)
            total, count = total + float(loss_N.sum(dtype=torch.float64)), count + len(loss_N)
    if not count:
        raise ValueError("no token is asked for in the calibration rows; give rows with labels")
    return total / count


def batch_of(rows: Iterable[tuple[Any, Any]], *, padding: int) -> Batch:
    """Rows as one batch.

    Args:
        rows: (tokens, labels) of every row, each a sequence of integers of the same length.
        padding: token that fills the rows up.
    """
    ids, labels = zip(*((torch.as_tensor(i), torch.as_tensor(j)) for i, j in rows), strict=True)
    lengths = torch.tensor([len(row) for row in ids])
    width = int(lengths.max())
    real = torch.arange(width) < lengths[:, None]
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(pad(list(ids), True, padding).long(), real, pad(list(labels), True, IGNORED).long())
