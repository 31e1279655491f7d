"""Item embeddings: what a past click looks like, and how a hidden state scores an item.

Every kind is an `nn.Module` with the same three methods, `forward`, `scores` and `arrays`, so that backbones, losses
and the trainer do not know which one they have. Input and output share the embeddings, as in RecJPQ.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from everyitem.model.projection import Projection, projected
from everyitem.model.two_level import TwoLevelItems


class DenseItems(nn.Module):
    """One trained vector per item: 4 D bytes each, and as much again twice for the optimiser.

    Args:
        num_items: I.
        dim: D.
        vectors_ID: vectors to start from; None draws them from N(0, .02^2).
        projection: into the space of the backbone, where that is another one: there an item is P(vector).
    """

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        vectors_ID: NDArray[np.float32] | None = None,
        projection: Projection | None = None,
    ) -> None:
        super().__init__()
        self.projection = nn.Identity() if projection is None else projection
        self.num_items, self.dim = num_items, dim
        self.vectors = nn.Parameter(
            torch.randn(num_items, dim) * 0.02 if vectors_ID is None else torch.tensor(vectors_ID)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """(...) int positions -> (..., D), of the backbone."""
        return self.projection(F.embedding(ids.long(), self.vectors))  # type: ignore[no-any-return]

    def scores(self, hidden_ND: Tensor, ids: Tensor) -> Tensor:
        """(N, K) scores of candidates: ids (K,) shared by all rows, or (N, K)."""
        return _dot(hidden_ND, self(ids))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What the index is built from: `vectors_ID` float32, projected."""
        return {"vectors_ID": projected(self.vectors, self.projection)}


class PQItems(nn.Module):
    """RecJPQ (arXiv:2312.06165): an item is the concatenation of M sub-items, named by frozen byte codes.

    vector(i) = concat_m sub_items[m, codes[i, m]]: M I bytes of codes and B D floats, whatever the catalogue's size.

    Args:
        codes_IM: uint8 codes, values below B.
        dim: D, a multiple of M.
        codebooks_MBd: initial sub-items, for example the centroids of k-means codes; None draws them uniformly from
            +-0.05 like the published code.
        rotation_DD: frozen orthonormal matrix into the space of the sub-items (OPQ), so that a backbone trained with
            other item vectors can go on with their codes: vector(i) = rotation.T @ concat(...). None: the identity.
    """

    codes: Tensor
    offsets: Tensor
    rotation: Tensor | None

    def __init__(
        self,
        codes_IM: NDArray[np.uint8],
        dim: int,
        *,
        codebooks_MBd: NDArray[np.float32] | None = None,
        rotation_DD: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__()
        self.num_items, self.num_splits = codes_IM.shape
        if dim % self.num_splits:
            raise ValueError(f"dim={dim} is not a multiple of the {self.num_splits} splits of the codes")
        self.dim = dim
        num_sub_items = max(2, int(codes_IM.max()) + 1) if codebooks_MBd is None else codebooks_MBd.shape[1]
        shape = (self.num_splits, num_sub_items, dim // self.num_splits)
        start = torch.empty(shape).uniform_(-0.05, 0.05) if codebooks_MBd is None else torch.tensor(codebooks_MBd)
        assert start.shape == shape
        self.sub_items = nn.Parameter(start)
        self.register_buffer("codes", torch.from_numpy(np.ascontiguousarray(codes_IM)))
        self.register_buffer("offsets", torch.arange(self.num_splits) * num_sub_items, persistent=False)
        self.register_buffer("rotation", None if rotation_DD is None else torch.tensor(rotation_DD))

    def forward(self, ids: Tensor) -> Tensor:
        """(...) int positions -> (..., D)."""
        codes = F.embedding(ids.long(), self.codes).long() + self.offsets
        vectors = F.embedding(codes, self.sub_items.flatten(0, 1)).flatten(-2)
        return vectors if self.rotation is None else vectors @ self.rotation

    def scores(self, hidden_ND: Tensor, ids: Tensor) -> Tensor:
        """(N, K) scores of candidates: ids (K,) shared by all rows, or (N, K).

        Candidates of their own per row go through the score table (N, M, B), which the backward pass keeps small:
        N K M lookups instead of N K vectors of length D.
        """
        if ids.dim() == 1:
            return _dot(hidden_ND, self(ids))
        codes = (F.embedding(ids.long(), self.codes).long() + self.offsets).flatten(1)
        return self.table(hidden_ND).flatten(1).gather(1, codes).view(*ids.shape, self.num_splits).sum(-1)

    def table(self, hidden_ND: Tensor) -> Tensor:
        """(N, M, B) what every sub-item adds to a score."""
        hidden_ND = hidden_ND if self.rotation is None else hidden_ND @ self.rotation.T
        return torch.einsum("nmd,mbd->nmb", hidden_ND.view(len(hidden_ND), self.num_splits, -1), self.sub_items)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What the index is built from: `codes_IM` uint8, `codebooks_MBd` float32 and, if any, `rotation_DD`."""
        codebooks = self.sub_items.detach().float().cpu().numpy()
        rotation = {} if self.rotation is None else {"rotation_DD": self.rotation.cpu().numpy()}
        return {"codes_IM": self.codes.cpu().numpy(), "codebooks_MBd": codebooks, **rotation}


Items = DenseItems | PQItems | TwoLevelItems


def _dot(hidden_ND: Tensor, vectors: Tensor) -> Tensor:
    return hidden_ND @ vectors.T if vectors.dim() == 2 else torch.einsum("nd,nkd->nk", hidden_ND, vectors)
