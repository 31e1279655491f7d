"""From the space of item vectors to that of a language model, which is many times as wide."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 1 << 16
"""Rows projected at a time where all are."""


class Projection(nn.Module):
    """P(e) = GELU(W e + b), as in arXiv:2509.03746: one layer, which both reads and scores items.

    The language model reads P(e) where an item stands, and a hidden state h scores an item by h . P(e). So a table of
    item vectors costs `item_dim` numbers per item in training, and an index of P(e) answers exactly.

    Args:
        item_dim: of the item vectors.
        dim: D of the language model.
    """

    def __init__(self, item_dim: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(item_dim, dim)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., item_dim) -> (..., D)."""
        return F.gelu(self.linear(vectors))


def projected(table: Tensor, projection: nn.Module) -> NDArray[np.float32]:
    """All rows of a trained table, projected, for an index."""
    with torch.no_grad():
        rows = torch.cat([projection(part) for part in torch.split(table, CHUNK)])
    whole: NDArray[np.float32] = rows.float().cpu().numpy()
    return whole
