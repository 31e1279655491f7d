import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from everyitem.model import loss as losses
from everyitem.model.items import DenseItems, PQItems

NUM_ITEMS, N, D = 30, 11, 8
generator = torch.Generator().manual_seed(0)
HIDDEN = torch.randn(N, D, generator=generator)
TARGETS = torch.randint(0, NUM_ITEMS, (N,), generator=generator)
CODES = np.random.default_rng(0).integers(0, 5, (NUM_ITEMS, 4)).astype(np.uint8)


def items_of(kind="dense", scale=1.0):
    torch.manual_seed(1)
    items = DenseItems(NUM_ITEMS, D) if kind == "dense" else PQItems(CODES, D)
    with torch.no_grad():
        next(items.parameters()).normal_(0, scale)
    return items


def negatives_of(shape):
    """Negatives that differ from the target of every row that meets them."""
    draw = torch.randint(0, NUM_ITEMS - 1, (N, shape[-1]), generator=torch.Generator().manual_seed(2))
    if len(shape) == 2:
        return (draw + (draw >= TARGETS[:, None])).int()
    free = torch.tensor([i for i in range(NUM_ITEMS) if i not in TARGETS])
    return free[draw[0] % len(free)].int()


def dots(items, ids):
    """(N, K) float64 scores, by the vectors."""
    vectors = items(ids.expand(N, ids.shape[-1])).detach().double()
    return (HIDDEN.double()[:, None] * vectors).sum(-1)


def published_gbce(positive, negative, t):
    """The logit transform in float64 of the gSASRec code (arXiv:2308.07192), then binary cross-entropy."""
    alpha = negative.shape[1] / (NUM_ITEMS - 1)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    probability = torch.clamp(torch.sigmoid(positive), 1e-10, 1 - 1e-10)
    transformed = torch.log(1 / (probability ** (-beta) - 1))
    logits = torch.cat([transformed[:, None], negative], 1)
    return binary_cross_entropy(logits)


def binary_cross_entropy(logits):
    """Summed over the candidates of a row, where the published code takes their mean."""
    labels = (torch.arange(logits.shape[1]) == 0).double().expand_as(logits)
    return logits.shape[1] * F.binary_cross_entropy_with_logits(logits, labels)


@pytest.mark.parametrize("kind", ["dense", "pq"])
@pytest.mark.parametrize("t", [0.0, 0.25, 0.75, 1.0])
@pytest.mark.parametrize("offset", [0.0, 2.5])
@pytest.mark.parametrize("shape", [(1,), (9,), (N, 9)])
def test_gbce_is_the_published_one(kind, t, offset, shape):
    items, negatives = items_of(kind), negatives_of(shape)
    positive, negative = dots(items, TARGETS[:, None])[:, 0], dots(items, negatives)
    expected = published_gbce(positive - offset, negative - offset, t)
    value = losses.gbce(items, HIDDEN, TARGETS, negatives, calibration=t, offset=offset)
    assert float(value.detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("shape", [(9,), (N, 9)])
def test_without_calibration_gbce_is_binary_cross_entropy(shape):
    items, negatives = items_of(), negatives_of(shape)
    expected = binary_cross_entropy(torch.cat([dots(items, TARGETS[:, None]), dots(items, negatives)], 1))
    value = losses.gbce(items, HIDDEN, TARGETS, negatives, calibration=0.0)
    assert float(value.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_gbce_stays_finite_where_the_published_detour_does_not():
    items = items_of(scale=100.0)
    assert torch.isfinite(losses.gbce(items, HIDDEN, TARGETS, negatives_of((9,))))


@pytest.mark.parametrize("kind", ["dense", "pq"])
def test_sampled_softmax_against_every_item_is_the_full_softmax(kind):
    items = items_of(kind)
    sampled = losses.sampled_softmax(items, HIDDEN, TARGETS, torch.arange(NUM_ITEMS, dtype=torch.int32))
    assert float(sampled.detach()) == pytest.approx(
        float(losses.full_softmax(items, HIDDEN, TARGETS).detach()), abs=1e-5
    )


@pytest.mark.parametrize("kind", ["dense", "pq"])
@pytest.mark.parametrize("chunk", [N, 3 * N, 7 * N + 1, NUM_ITEMS * N - 1, NUM_ITEMS * N])
def test_full_softmax_in_chunks_is_cross_entropy_in_value_and_gradient(kind, chunk, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_LOGITS", chunk)
    results = []
    for chunked in (True, False):
        items, hidden = items_of(kind), HIDDEN.clone().requires_grad_()
        if chunked:
            value = losses.full_softmax(items, hidden, TARGETS)
        else:
            value = F.cross_entropy(hidden @ items(torch.arange(NUM_ITEMS)).T, TARGETS)
        value.backward()
        results.append((value.detach(), hidden.grad, next(items.parameters()).grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [losses.sampled_softmax, losses.gbce])
def test_a_negative_that_is_the_target_does_not_count(loss):
    # the same K negatives, one of them the target or an item that scores as if it were not there
    gradients = []
    for hit in (True, False):
        items = DenseItems(NUM_ITEMS, D)
        with torch.no_grad():
            items.vectors.copy_(items_of().vectors)
            items.vectors[29] = -1e4 * HIDDEN[0]
        targets = torch.tensor([3])
        negatives = torch.tensor([5, 3 if hit else 29, 8])
        hidden = HIDDEN[:1].clone().requires_grad_()
        value = loss(items, hidden, targets, negatives)
        value.backward()
        gradients.append((value.detach(), hidden.grad, items.vectors.grad[3]))
    for ours, expected in zip(*gradients, strict=True):
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [losses.sampled_softmax, losses.gbce])
def test_only_hits_leave_the_gradient_finite(loss):
    items, hidden = items_of(), HIDDEN.clone().requires_grad_()
    loss(items, hidden, TARGETS, TARGETS[:, None].int()).backward()
    assert torch.isfinite(hidden.grad).all()
    assert torch.isfinite(items.vectors.grad).all()


@pytest.mark.parametrize("loss", [losses.sampled_softmax, losses.gbce, losses.full_softmax])
def test_a_step_downhill_ranks_the_target_higher(loss):
    items, hidden = items_of(scale=0.1), HIDDEN.clone().requires_grad_()
    negatives = torch.arange(NUM_ITEMS, dtype=torch.int32)

    def margin():
        scores = (hidden @ items.vectors.T).detach()
        return float((scores.gather(1, TARGETS[:, None])[:, 0] - scores.mean(1)).mean())

    before = margin()
    loss(items, hidden, TARGETS, negatives).backward()
    with torch.no_grad():
        items.vectors -= 0.5 * items.vectors.grad
    assert margin() > before


def test_own_items_and_the_rest_are_two_strata_of_the_full_softmax():
    items = items_of(scale=0.3)
    own, rest = torch.tensor([1, 4, 9]), torch.tensor([i for i in range(NUM_ITEMS) if i not in (1, 4, 9)])
    targets = torch.full((len(HIDDEN),), 7)
    loss = losses.sampled_softmax(items, HIDDEN, targets, rest, items.scores(HIDDEN, own))
    scores = HIDDEN @ items.vectors.T
    # the draws stand for the whole catalogue, so each weighs I / K
    weights = torch.zeros(NUM_ITEMS).index_fill(0, rest, math.log(NUM_ITEMS / len(rest)))
    expected = F.cross_entropy(scores + weights.index_fill(0, torch.tensor([7]), 0.0), targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_an_own_item_that_is_left_out_counts_for_nothing():
    items, negatives = items_of(), torch.tensor([5, 8, 11])
    absent = torch.full((len(HIDDEN), 4), -torch.inf)
    with_absent = losses.sampled_softmax(items, HIDDEN, TARGETS, negatives, absent)
    torch.testing.assert_close(with_absent, losses.sampled_softmax(items, HIDDEN, TARGETS, negatives))


def split_table(items):
    """(N, M, B) in float64, split by split."""
    books = items.sub_items.detach().double()
    parts = HIDDEN.double().view(N, len(books), -1)
    return torch.stack([parts[:, m] @ books[m].T for m in range(len(books))], 1)


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_split_softmax_is_the_cross_entropy_of_every_split(scale):
    items = items_of("pq", scale)
    table, expected = split_table(items), 0.0
    for n in range(N):
        for m, code in enumerate(CODES[TARGETS[n]]):
            expected -= float(torch.log_softmax(table[n, m], 0)[int(code)]) / N
    assert losses.split_softmax(items, HIDDEN, TARGETS).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_split_softmax_bounds_the_gap_of_the_target(scale):
    items = items_of("pq", scale)
    table = split_table(items)
    best = table.amax(2).sum(1)
    gap = best - dots(items, TARGETS[:, None])[:, 0]
    assert losses.split_softmax(items, HIDDEN, TARGETS).item() >= float(gap.mean()) - 1e-4


def test_concentration_adds_its_share():
    items, negatives = items_of("pq"), negatives_of((9,))
    plain = losses.sampled_softmax(items, HIDDEN, TARGETS, negatives)
    both = losses.concentrated(items, HIDDEN, TARGETS, negatives, loss=losses.sampled_softmax, weight=0.3)
    torch.testing.assert_close(both, plain + 0.3 * losses.split_softmax(items, HIDDEN, TARGETS))


def test_dense_items_have_no_splits():
    with pytest.raises(TypeError, match="DenseItems have no splits"):
        losses.split_softmax(items_of("dense"), HIDDEN, TARGETS)


def test_a_turned_table_adds_up_to_the_scores():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0].astype(np.float32)
    items = PQItems(CODES, D, rotation_DD=rotation)
    table = items.table(HIDDEN)
    sums = torch.stack([table[:, m, CODES[:, m].astype(int)] for m in range(CODES.shape[1])]).sum(0)
    torch.testing.assert_close(sums, HIDDEN @ items(torch.arange(NUM_ITEMS)).T, rtol=0, atol=1e-5)
