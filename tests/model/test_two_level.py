import numpy as np
import pytest
import torch

from everyitem.index import TwoLevelIndex
from everyitem.model.loss import two_level_softmax
from everyitem.model.two_level import TwoLevelItems

NUM_ITEMS, C, D, V = 40, 6, 8, 5
rng = np.random.default_rng(0)
CLUSTER_OF = rng.integers(0, C, NUM_ITEMS)
CLUSTER_OF[CLUSTER_OF == 2] = 3  # so that cluster 2 is empty
HIDDEN = torch.tensor(rng.standard_normal((9, D)), dtype=torch.float32)
TARGETS = torch.tensor(rng.integers(0, NUM_ITEMS, 9))
WORDS = torch.tensor(rng.standard_normal((V, D)), dtype=torch.float32)
caps = pytest.mark.parametrize("cap", [None, 1.5])


def made(cap=None):
    vectors = rng.standard_normal((NUM_ITEMS, D)).astype(np.float32)
    items = TwoLevelItems(CLUSTER_OF, D, vectors_ID=vectors, logit_cap=cap)
    torch.manual_seed(0)
    torch.nn.init.normal_(items.clusters)
    return items


def naive(items, words=None):
    """-log p of every word, then of every item, from the whole table in float64: (N, V + I)."""
    cap = items.logit_cap
    squash = (lambda x: x) if cap is None else (lambda x: cap * torch.tanh(x / cap))
    hidden, vectors, clusters = (x.detach().double() for x in (HIDDEN, items.vectors, items.clusters))
    first = squash(hidden @ clusters.T)
    first[:, 2] = -torch.inf
    num_words = 0 if words is None else len(words)
    if words is not None:
        first = torch.cat([squash(hidden @ words.double().T), first], 1)
    first = first.log_softmax(1)
    out = [first[:, :num_words]]
    for i in range(NUM_ITEMS):
        members = np.flatnonzero(CLUSTER_OF[i] == CLUSTER_OF)
        inside = squash(hidden @ vectors[members].T).log_softmax(1)
        out.append((first[:, num_words + CLUSTER_OF[i]] + inside[:, members.tolist().index(i)])[:, None])
    return -torch.cat(out, 1)


@caps
def test_the_loss_is_the_likelihood_of_the_whole_table(cap):
    items = made(cap)
    wanted = naive(items)[torch.arange(9), TARGETS].mean()
    torch.testing.assert_close(two_level_softmax(items, HIDDEN, TARGETS).double(), wanted, rtol=0, atol=1e-5)


@caps
def test_words_and_clusters_share_one_softmax(cap):
    items, table = made(cap), naive(made(cap), WORDS)
    torch.testing.assert_close((-table).exp().sum(1), torch.ones(9, dtype=torch.double))
    targets = torch.tensor([-1, 3, -5, 0, 39, -2, -2, 17, 8])  # -1 - w for word w
    items = made(cap)
    column = torch.where(targets < 0, -1 - targets, V + targets)
    wanted = naive(items, WORDS)[torch.arange(9), column].mean()
    loss = two_level_softmax(items, HIDDEN, targets, words_VD=WORDS)
    torch.testing.assert_close(loss.double(), wanted, rtol=0, atol=1e-5)
    only_words = two_level_softmax(items, HIDDEN, torch.full((9,), -1), words_VD=WORDS)
    torch.testing.assert_close(only_words.double(), naive(items, WORDS)[:, 0].mean(), rtol=0, atol=1e-5)


@caps
def test_gradients_are_those_of_the_whole_table(cap):
    gradients = []
    items = made(cap)
    for loss in (
        lambda h: two_level_softmax(items, h, TARGETS),
        lambda h: -items.scores(h, TARGETS[:, None]).mean(),
    ):
        items.zero_grad()
        hidden = HIDDEN.clone().requires_grad_()
        loss(hidden).backward()
        gradients.append([hidden.grad, items.vectors.grad.clone(), items.clusters.grad.clone()])
    for sparse, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(sparse, whole, rtol=1e-4, atol=1e-6)


def test_only_vectors_of_the_targets_clusters_are_touched():
    items = made()
    two_level_softmax(items, HIDDEN[:2], torch.tensor([0, 1])).backward()
    touched = np.flatnonzero(items.vectors.grad.abs().sum(1).numpy())
    assert set(touched) == set(np.flatnonzero(np.isin(CLUSTER_OF, CLUSTER_OF[:2])))


@caps
@pytest.mark.parametrize("shape", [(7,), (9, 7)])
def test_candidates_score_what_the_index_says(cap, shape):
    items = made(cap)
    ids = torch.tensor(rng.integers(0, NUM_ITEMS, shape))
    index = TwoLevelIndex(**items.arrays(), logit_cap=cap)
    wanted = index.scores(HIDDEN.numpy(), ids.expand(9, 7).numpy())
    np.testing.assert_allclose(items.scores(HIDDEN, ids).detach().numpy(), wanted, atol=1e-5)


def test_clusters_start_at_the_mean_of_their_items_and_are_frozen():
    vectors = rng.standard_normal((NUM_ITEMS, D)).astype(np.float32)
    items = TwoLevelItems(CLUSTER_OF, D, vectors_ID=vectors)
    np.testing.assert_allclose(items.clusters.detach()[3], vectors[CLUSTER_OF == 3].mean(axis=0), atol=1e-6)
    assert (items.clusters[2] == 0).all()
    assert {name for name, _ in items.named_parameters()} == {"vectors", "clusters"}
    assert set(items.state_dict()) == {"vectors", "clusters", "cluster_of"}
    assert items(torch.tensor([[3, 4]])).detach().numpy().tolist() == [vectors[[3, 4]].tolist()]


def test_it_learns_which_item_comes_after_which():
    torch.manual_seed(0)
    items = TwoLevelItems(CLUSTER_OF, D)
    hidden = torch.nn.Parameter(torch.randn(NUM_ITEMS, D))
    optimiser = torch.optim.Adam([hidden, *items.parameters()], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        two_level_softmax(items, hidden, torch.arange(NUM_ITEMS)).backward()
        optimiser.step()
    index = TwoLevelIndex(**items.arrays())
    assert index.top_k(hidden.detach().numpy(), 1).items[:, 0].tolist() == list(range(NUM_ITEMS))


def test_products_inside_clusters_are_float32_where_training_is_bf16():
    items = made()
    hidden = HIDDEN.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = items.inside(hidden, TARGETS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, items.inside(hidden.float(), TARGETS))
