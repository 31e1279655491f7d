"""Backbones: histories of item vectors in, hidden states out: `(x_UTD, real_UT) -> hidden_UTD`.

They know no items and no loss. Rows are padded on the right, so a causal model needs no padding mask; positions are
counted from the newest event (its position is always `length` - 1), exactly as with the papers' left padding.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with its residual: x + f(LayerNorm(x)).

    As written in the SASRec paper (arXiv:1808.09781, section 3.2). Its code normalises the queries only and adds the
    residual to the normalised queries; that is a slip we do not copy.
    """

    def __init__(self, dim: int, heads: int, feed_forward: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout, self.activation = heads, dropout, activation
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, feed_forward), nn.Linear(feed_forward, dim)

    def forward(self, x_UTD: Tensor, allowed: Tensor | None, *, causal: bool, last_only: bool = False) -> Tensor:
        """One block; with `last_only` the newest position alone is computed (it still attends to all)."""
        normed = self.attention_norm(x_UTD)
        x_UTD, asking = (x_UTD[:, -1:], normed[:, -1:]) if last_only else (x_UTD, normed)
        key, value = self._split(self.key_value(normed)).chunk(2, dim=1)
        mixed = F.scaled_dot_product_attention(
            self._split(self.query(asking)),
            key,
            value,
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal and not last_only,
        )
        x_UTD = x_UTD + self._drop(self.output(mixed.transpose(1, 2).flatten(2)))
        wide = self.widen(self.feed_forward_norm(x_UTD))
        wide = F.relu(wide) if self.activation == "relu" else F.gelu(wide)
        return x_UTD + self._drop(self.narrow(self._drop(wide)))

    def _split(self, x: Tensor) -> Tensor:
        """(U, T, n D) -> (U, n H, T, D / H)."""
        return x.view(*x.shape[:2], -1, self.width).transpose(1, 2)

    @property
    def width(self) -> int:
        """Dimensions of one head."""
        return self.query.out_features // self.heads

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class _Stack(nn.Module):
    """Positions, blocks and the final norm, shared by the causal and the bidirectional backbone."""

    def __init__(
        self, dim: int, blocks: int, heads: int, length: int, dropout: float, wide: int, activation: str
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} is not a multiple of heads={heads}")
        self.length, self.dropout = length, dropout
        self.positions = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, heads, wide, activation, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            # blocks start as the identity: the first query is the newest item's own vector, which codes from
            # co-occurrence already place near what comes next (docs/log.md)
            assert isinstance(block, Block)
            nn.init.zeros_(block.output.weight)
            nn.init.zeros_(block.narrow.weight)

    def forward(self, x_UTD: Tensor, real_UT: Tensor, *, causal: bool) -> Tensor:
        lengths = real_UT.sum(1, keepdim=True)
        from_end = (self.length - lengths + torch.arange(x_UTD.shape[1], device=x_UTD.device)).clamp(0, self.length - 1)
        x_UTD = F.dropout(x_UTD + F.embedding(from_end, self.positions), self.dropout, self.training)
        allowed = None if causal else real_UT[:, None, None, :]
        for block in self.blocks:
            x_UTD = block(x_UTD, allowed, causal=causal)
        return self.norm(x_UTD)  # type: ignore[no-any-return]

    def last(self, x_UTD: Tensor, *, causal: bool) -> Tensor:
        """(U, D) hidden state of the newest position of rows without padding."""
        x_UTD = x_UTD + self.positions[self.length - x_UTD.shape[1] :]
        for number, block in enumerate(self.blocks):
            x_UTD = block(x_UTD, None, causal=causal, last_only=number == len(self.blocks) - 1)
        return self.norm(x_UTD[:, -1])  # type: ignore[no-any-return]


class SASRec(nn.Module):
    """SASRec (arXiv:1808.09781): causal self-attention; every position predicts the next item.

    Args:
        dim: D. The published runs use 50 (paper) to 512 (RecJPQ).
        blocks: attention blocks.
        heads: attention heads.
        length: T, the newest events that are seen.
        dropout: on embeddings, attention and both residual branches.
        feed_forward: inner width over D. The paper has 1; 4 is today's practice and slower.
    """

    objective: Literal["next", "masked"] = "next"

    def __init__(
        self,
        dim: int,
        *,
        blocks: int = 2,
        heads: int = 1,
        length: int = 50,
        dropout: float = 0.3,
        feed_forward: int = 1,
    ) -> None:
        super().__init__()
        self.dim, self.length = dim, length
        self.stack = _Stack(dim, blocks, heads, length, dropout, feed_forward * dim, "relu")

    def forward(self, x_UTD: Tensor, real_UT: Tensor) -> Tensor:
        """Hidden states (U, T, D); state t has seen events 0..t."""
        return self.stack(x_UTD, real_UT, causal=True)  # type: ignore[no-any-return]

    def last(self, x_UTD: Tensor) -> Tensor:
        """Queries (U, D) of rows of equal length, 1 <= T <= `length`, without padding."""
        return self.stack.last(x_UTD, causal=True)


class GBERT4Rec(nn.Module):
    """gBERT4Rec (RecJPQ's code; BERT4Rec, arXiv:1904.06690): bidirectional; masked events are predicted.

    A learned mask vector stands for a hidden event; at inference it is appended after the newest event. Pre-norm, where
    BERT has post-norm: the latter needs a warm-up of the learning rate and gains nothing at two or three blocks.

    Args:
        dim: D.
        blocks: attention blocks.
        heads: attention heads.
        length: T, events seen, the mask included.
        dropout: on embeddings, attention and both residual branches.
        feed_forward: inner width over D.
    """

    objective: Literal["next", "masked"] = "masked"

    def __init__(
        self,
        dim: int,
        *,
        blocks: int = 2,
        heads: int = 2,
        length: int = 50,
        dropout: float = 0.2,
        feed_forward: int = 4,
    ) -> None:
        super().__init__()
        self.dim, self.length = dim, length
        self.mask_vector = nn.Parameter(torch.randn(dim) * 0.02)
        self.stack = _Stack(dim, blocks, heads, length, dropout, feed_forward * dim, "gelu")

    def forward(self, x_UTD: Tensor, real_UT: Tensor) -> Tensor:
        """Hidden states (U, T, D); every state has seen the whole row."""
        return self.stack(x_UTD, real_UT, causal=False)  # type: ignore[no-any-return]

    def last(self, x_UTD: Tensor) -> Tensor:
        """Queries (U, D) of rows of equal length, 1 <= T < `length`, without padding: the state of an appended mask."""
        mask = self.mask_vector.expand(x_UTD.shape[0], 1, -1)
        return self.stack.last(torch.cat([x_UTD, mask], dim=1), causal=False)


Backbone = SASRec | GBERT4Rec
