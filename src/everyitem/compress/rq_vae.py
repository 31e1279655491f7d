"""RQ-VAE: residual codes that are learned together with the space they live in (TIGER, arXiv:2305.05065, section 3.1).

An encoder takes item vectors to a small latent space, residual codebooks quantise it, a decoder has to find the vectors
again. Knows vectors; no histories and no model.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyitem.compress.semantic_ids import residual_kmeans
from everyitem.types import Floats, Ids

COMMITMENT = 0.25
"""Weight of the loss that holds the encoder to its codes, as published."""
LEARNING_RATE = 1e-3
BATCH = 1024
KMEANS_ROWS = 8192
REVIVED_EVERY = 50


class Learned(NamedTuple):
    """What an RQ-VAE found."""

    codes_IM: Ids
    codebooks_MBd: Floats
    """In the latent space."""
    error: float
    """Share of the vectors' variance that the decoder cannot bring back."""
    used: float
    """Share of the codes that some item has."""


class RQVAE(nn.Module):
    """Encoder, residual codebooks, decoder.

    Args:
        dim: D of the vectors.
        latent: d of the codebooks.
        hidden: width of the one hidden layer on either side.
        num_levels: M.
        num_codes: B per level.
    """

    def __init__(self, dim: int, latent: int, hidden: int, num_levels: int, num_codes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.codebooks = nn.Parameter(torch.zeros(num_levels, num_codes, latent))

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(N, M) codes and the loss: squared error, codebooks to residuals, residuals to codes (weight .25).

        The decoder's gradient passes the quantiser as if it were not there (straight through).
        """
        residual = latent = self.encoder(x_ND)
        codes, quantised, pull = [], torch.zeros_like(latent), x_ND.new_zeros(())
        for book_Bd in self.codebooks:
            code_N = torch.cdist(residual, book_Bd).argmin(1)
            chosen = F.embedding(code_N, book_Bd)
            pull = pull + F.mse_loss(chosen, residual.detach()) + COMMITMENT * F.mse_loss(residual, chosen.detach())
            quantised, residual = quantised + chosen, residual - chosen.detach()
            codes.append(code_N)
        found = self.decoder(latent + (quantised - latent).detach())
        return torch.stack(codes, 1), F.mse_loss(found, x_ND) + pull


def rq_vae_codes(
    vectors_ID: Floats,
    num_levels: int = 3,
    *,
    num_codes: int = 256,
    latent: int = 32,
    hidden: int = 256,
    steps: int = 3000,
    seed: int = 0,
) -> Learned:
    """Learn residual codes of item vectors.

    Deviations from the published code: vectors are scaled to unit variance; codebooks start from residual k-means of
    the first latent vectors (as in TIGER, which has k-means of the first batch); every 50 steps but near the end a code
    that no item has moves to a random item's residual, so that none dies.

    Args:
        vectors_ID: (I, D) finite. Not modified.
        num_levels: M.
        num_codes: B per level, 2 to 256.
        latent: d.
        hidden: width of the hidden layers.
        steps: batches of 1,024 vectors, by turns.
        seed: the same seed gives the same codes on the same machine and BLAS.

    Raises:
        ValueError: as `residual_kmeans`.

    Cost: 3 x steps x 1,024 x (2 hidden (D + d) + M B d) multiplications: a minute for D = 64 on one core.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vectors = torch.from_numpy(np.array(vectors_ID, np.float32))
        vectors = (vectors - vectors.mean(0)) / vectors.std(correction=0).clamp(min=1e-12)
        model = RQVAE(vectors.shape[1], latent, hidden, num_levels, num_codes)
        with torch.no_grad():
            sample = vectors[torch.randperm(len(vectors))[:KMEANS_ROWS]]
            start = residual_kmeans(model.encoder(sample).numpy(), num_levels, num_codes=num_codes, seed=seed)
            model.codebooks.copy_(torch.from_numpy(start.codebooks_MBD))
        _train(model, vectors, steps)
        return _learned(model, vectors)


def _train(model: RQVAE, vectors_ID: Tensor, steps: int) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4, fused=True)
    batches: list[Tensor] = []
    for step in range(steps):
        batches = batches or list(torch.split(torch.randperm(len(vectors_ID)), BATCH))
        _, loss = model(vectors_ID[batches.pop()])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step % REVIVED_EVERY == 0 and step < 0.9 * steps:
            _revive(model, vectors_ID)


@torch.no_grad()
def _revive(model: RQVAE, vectors_ID: Tensor) -> None:
    """Codes without items move to residuals of random items."""
    residual = model.encoder(vectors_ID)
    for book_Bd in model.codebooks:
        code_I = torch.cdist(residual, book_Bd).argmin(1)
        dead = torch.bincount(code_I, minlength=len(book_Bd)) == 0
        book_Bd[dead] = residual[torch.randint(len(residual), (int(dead.sum()),))]
        residual = residual - F.embedding(torch.cdist(residual, book_Bd).argmin(1), book_Bd)


@torch.no_grad()
def _learned(model: RQVAE, vectors_ID: Tensor) -> Learned:
    codes_IM = model(vectors_ID)[0]
    levels = zip(model.codebooks, codes_IM.T, strict=True)
    found = model.decoder(torch.stack([F.embedding(code_I, book_Bd) for book_Bd, code_I in levels]).sum(0))
    used = np.mean([len(np.unique(column)) / model.codebooks.shape[1] for column in codes_IM.T.numpy()])
    return Learned(
        codes_IM.int().numpy(),
        model.codebooks.numpy().copy(),
        float((found - vectors_ID).square().mean() / vectors_ID.square().mean()),
        float(used),
    )
