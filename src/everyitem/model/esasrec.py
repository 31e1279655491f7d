"""The modern backbone: SASRec's objective with the layers of today's sequence recommenders. Knows no items, no loss."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyitem.model.attention import Attention, causal_mask, extend, no_past, start_as_identity


class GatedBlock(nn.Module):
    """Pre-norm attention and SwiGLU, both let into the residual stream by learned gates (LiGR, arXiv:2502.03417):

    x + sigmoid(W_a x) * attention(LayerNorm(x)), then x + sigmoid(W_f x) * W_n (silu(W_s n) * W_u n), n = LayerNorm(x).

    An event's score gains a learned number per head and distance, as in HSTU (arXiv:2402.17152) and T5: relative, so
    that it does not change when a history grows, and left of the softmax alone, so that `Attention.newest` stays true.
    """

    def __init__(self, dim: int, heads: int, length: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout)
        self.bias_HT = nn.Parameter(torch.zeros(heads, length))
        self.attention_gate, self.feed_forward_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, 2 * inner), nn.Linear(inner, dim)

    def forward(self, x_UTD: Tensor) -> Tensor:
        """All positions of whole rows."""
        return self._added(x_UTD, self.attention(self.normed(x_UTD), self._mask(x_UTD[:, :0], x_UTD)))

    def normed(self, x_UTD: Tensor) -> Tensor:
        """What attention sees."""
        return self.attention_norm(x_UTD)  # type: ignore[no-any-return]

    def extend(self, x_UTD: Tensor, past_UPE: Tensor) -> tuple[Tensor, Tensor]:
        """New events behind known ones; see `Attention.extend`."""
        attended, key_value = self.attention.extend(self.normed(x_UTD), past_UPE, self._mask(past_UPE, x_UTD))
        return self._added(x_UTD, attended), key_value

    def newest(self, x_UD: Tensor, seen_UTD: Tensor) -> Tensor:
        """The newest event alone; see `Attention.newest`."""
        back = torch.arange(seen_UTD.shape[1] - 1, -1, -1, device=x_UD.device)
        return self._added(x_UD, self.attention.newest(self.normed(x_UD), seen_UTD, self.bias_HT[:, back]))

    def _mask(self, past_UPE: Tensor, x_UTD: Tensor) -> Tensor:
        """(H, T, P + T): the number of an event's distance, -inf for what comes later."""
        known = past_UPE.shape[1]
        every = torch.arange(known + x_UTD.shape[1], device=x_UTD.device)
        back = (every[known:, None] - every).clamp(min=0)
        return self.bias_HT[:, back] + causal_mask(past_UPE, x_UTD)

    def _added(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + torch.sigmoid(self.attention_gate(x)) * self._drop(attended)
        signal, gate = self.widen(self.feed_forward_norm(x)).chunk(2, dim=-1)
        wide = self.narrow(self._drop(F.silu(gate) * signal))
        return x + torch.sigmoid(self.feed_forward_gate(x)) * self._drop(wide)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class ESASRec(nn.Module):
    """eSASRec (arXiv:2508.06450): SASRec's next-item objective, LiGR layers, sampled softmax.

    Deviations: relative positions in the attention scores instead of learned absolute ones, inner width 1 instead of 4
    (as SASRec's here, so that a query takes as long), blocks that start as the identity.

    Args:
        dim: D.
        blocks: gated blocks, at least one.
        heads: attention heads.
        length: T, the newest events that are seen.
        dropout: on embeddings, attention and both residual branches.
        feed_forward: inner width over D.
    """

    objective: Literal["next", "masked"] = "next"

    def __init__(
        self,
        dim: int,
        *,
        blocks: int = 2,
        heads: int = 2,
        length: int = 50,
        dropout: float = 0.2,
        feed_forward: int = 1,
    ) -> None:
        super().__init__()
        self.dim, self.length, self.dropout = dim, length, dropout
        made = [GatedBlock(dim, heads, length, feed_forward * dim, dropout) for _ in range(blocks)]
        self.blocks, self.norm = nn.ModuleList(made), nn.LayerNorm(dim)
        start_as_identity(self, [layer for block in made for layer in (block.attention.output, block.narrow)])

    def forward(self, x_UTD: Tensor, real_UT: Tensor) -> Tensor:
        """Hidden states (U, T, D); state t has seen events 0..t."""
        x_UTD = F.dropout(x_UTD, self.dropout, self.training)
        for block in self.blocks:
            x_UTD = block(x_UTD)
        return self.norm(x_UTD)  # type: ignore[no-any-return]

    def last(self, x_UTD: Tensor) -> Tensor:
        """Queries (U, D) of rows of equal length, 1 <= T <= `length`, without padding."""
        return self.extend(x_UTD, no_past(x_UTD, list(self.blocks)))[0]  # type: ignore[arg-type]

    def extend(self, x_UTD: Tensor, past_UPE: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (U, D) after T more events, P + T <= `length`, and their state (U, T, E); see `attention.py`."""
        hidden_UD, state_UTE = extend(list(self.blocks), x_UTD, past_UPE)  # type: ignore[arg-type]
        return self.norm(hidden_UD), state_UTE
