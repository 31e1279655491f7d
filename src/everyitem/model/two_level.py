"""Item embeddings under a two-level softmax (arXiv:2509.03746): first which cluster, then which item of it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from everyitem.model.projection import Projection, projected


class TwoLevelItems(nn.Module):
    """One trained vector per item and one per cluster; clusters are frozen.

    log p(i | h) = log p(c | h) + log p(i | c, h) for c the item's cluster. The first is a softmax over the clusters
    (and the words of a language model, where there are any), the second one over the items of the cluster, so that a
    training position computes C + |c| logits instead of I: see `loss.two_level_softmax`.

    Args:
        cluster_of_I: integers, below C = the largest + 1; a cluster may be empty.
        dim: D.
        vectors_ID: vectors to start from; None draws them from N(0, .02^2). Clusters start at the mean of their items.
        projection: of items and clusters into the space of the backbone, where that is another one.
        logit_cap: logits x become cap tanh(x / cap), here and in the index; the paper's is 30. None: they stay.
    """

    cluster_of: Tensor
    members: Tensor  # positions, cluster by cluster
    rows: Tensor  # of every position among the members
    starts: Tensor
    sizes: Tensor

    def __init__(
        self,
        cluster_of_I: NDArray[np.integer],
        dim: int,
        *,
        vectors_ID: NDArray[np.float32] | None = None,
        projection: Projection | None = None,
        logit_cap: float | None = None,
    ) -> None:
        super().__init__()
        self.num_items, self.dim, self.logit_cap = len(cluster_of_I), dim, logit_cap
        self.projection = nn.Identity() if projection is None else projection
        cluster_of = torch.from_numpy(np.ascontiguousarray(cluster_of_I, np.int64))
        sizes, members = torch.bincount(cluster_of), torch.argsort(cluster_of, stable=True)
        layout = {"members": members, "rows": torch.argsort(members), "starts": sizes.cumsum(0) - sizes, "sizes": sizes}
        self.register_buffer("cluster_of", cluster_of)
        for name, values in layout.items():
            self.register_buffer(name, values, persistent=False)
        self.vectors = nn.Parameter(
            torch.randn(self.num_items, dim) * 0.02 if vectors_ID is None else torch.tensor(vectors_ID)
        )
        sums = torch.zeros(len(sizes), dim).index_add_(0, cluster_of, self.vectors.detach())
        self.clusters = nn.Parameter(sums / sizes.clamp(min=1)[:, None])

    def forward(self, ids: Tensor) -> Tensor:
        """(...) int positions -> (..., D), of the backbone."""
        return self.projection(F.embedding(ids.long(), self.vectors))  # type: ignore[no-any-return]

    def capped(self, logits: Tensor) -> Tensor:
        """float32 logits, capped as the index caps them."""
        logits = logits.float()
        return logits if self.logit_cap is None else self.logit_cap * torch.tanh(logits / self.logit_cap)

    def cluster_logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, C) float32 logits of the clusters; -inf for those without items."""
        return self.capped(hidden_ND @ self.projection(self.clusters).T).masked_fill(self.sizes == 0, -torch.inf)

    def inside(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """Sum of -log p(i | c, h) over rows and their targets.

        Vectors are gathered once per cluster that the targets are in, and multiplied with the rows of that cluster.
        Cost per row at most: the items of one cluster, in time and memory.
        """
        order = torch.argsort(self.cluster_of[targets_N], stable=True)
        hidden_ND, targets_N = hidden_ND[order], targets_N[order]
        asked, counts = torch.unique_consecutive(self.cluster_of[targets_N], return_counts=True)
        sizes = self.sizes[asked]
        first = torch.repeat_interleave(self.starts[asked] - (sizes.cumsum(0) - sizes), sizes)
        vectors = self(self.members[first + torch.arange(len(first), device=first.device)])
        places = self.rows[targets_N] - self.starts[self.cluster_of[targets_N]]
        rows, members = counts.tolist(), sizes.tolist()
        # in float32: for bf16 the CPU's library compiles products anew for every shape, and every cluster has its own
        parts = (hidden_ND.float(), rows), (vectors.float(), members), (places, rows)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            groups = zip(*(torch.split(values, numbers) for values, numbers in parts), strict=True)
            losses = [F.cross_entropy(self.capped(h @ v.T), place, reduction="sum") for h, v, place in groups]
        return torch.stack(losses).sum() if losses else hidden_ND.sum()

    def scores(self, hidden_ND: Tensor, ids: Tensor) -> Tensor:
        """(N, K) float32 log-probabilities of candidates: ids (K,) shared by all rows, or (N, K).

        Cost: every item, N I D. What trains and serves does without.
        """
        inside = [
            part.log_softmax(1)
            for part in torch.split(self.capped(hidden_ND @ self(self.members).T), self.sizes.tolist(), 1)
        ]
        of_cluster = self.cluster_logits(hidden_ND).log_softmax(1)
        every_NI = of_cluster[:, self.cluster_of] + torch.cat(inside, 1)[:, self.rows]
        return every_NI[:, ids.long()] if ids.dim() == 1 else every_NI.gather(1, ids.long())

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What the index is built from: `vectors_ID`, `clusters_CD` float32, `cluster_of_I` int64."""
        vectors, clusters = (projected(table, self.projection) for table in (self.vectors, self.clusters))
        return {"vectors_ID": vectors, "cluster_of_I": self.cluster_of.cpu().numpy(), "clusters_CD": clusters}
