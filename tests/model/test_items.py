import numpy as np
import pytest
import torch

from everyitem.model.items import DenseItems, PQItems

NUM_ITEMS, M, B, D = 40, 4, 7, 12
rng = np.random.default_rng(0)
CODES = rng.integers(0, B, (NUM_ITEMS, M)).astype(np.uint8)
CODEBOOKS = rng.normal(size=(M, B, D // M)).astype(np.float32)


def pq():
    return PQItems(CODES, D, codebooks_MBd=CODEBOOKS)


def dense():
    torch.manual_seed(0)
    return DenseItems(NUM_ITEMS, D)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 0)])
def test_a_pq_item_is_the_concatenation_of_its_sub_items(shape):
    ids = rng.integers(0, NUM_ITEMS, shape)
    twin = np.concatenate([CODEBOOKS[m, CODES[ids, m]] for m in range(M)], axis=-1)
    assert np.array_equal(pq()(torch.tensor(ids, dtype=torch.int32)).detach().numpy(), twin)


@pytest.mark.parametrize("make", [pq, dense])
@pytest.mark.parametrize("shape", [(9,), (6, 9)])
def test_a_score_is_the_dot_product_with_the_item(make, shape):
    items, hidden = make(), torch.randn(6, D, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor(rng.integers(0, NUM_ITEMS, shape), dtype=torch.int32)
    vectors = items(ids.expand(6, 9)).detach().numpy()
    expected = np.einsum("nd,nkd->nk", hidden.numpy(), vectors)
    np.testing.assert_allclose(items.scores(hidden, ids).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("make", [pq, dense])
def test_shared_and_per_row_candidates_have_the_same_gradients(make):
    ids = torch.tensor(rng.integers(0, NUM_ITEMS, 9))
    gradients = []
    for candidates in (ids, ids.expand(6, 9)):
        items, hidden = make(), torch.ones(6, D, requires_grad=True)
        items.scores(hidden, candidates).square().sum().backward()
        gradients.append((hidden.grad, next(items.parameters()).grad))
    for shared, own in zip(*gradients, strict=True):
        torch.testing.assert_close(shared, own, rtol=1e-5, atol=1e-4)


def test_arrays_are_what_an_index_is_built_from():
    arrays = pq().arrays()
    assert np.array_equal(arrays["codes_IM"], CODES)
    assert arrays["codes_IM"].dtype == np.uint8
    assert np.array_equal(arrays["codebooks_MBd"], CODEBOOKS)
    assert np.array_equal(dense().arrays()["vectors_ID"], dense().vectors.detach().numpy())


def test_codes_are_frozen_and_sub_items_are_shared_by_input_and_output():
    items = pq()
    assert [name for name, _ in items.named_parameters()] == ["sub_items"]
    assert items.state_dict()["codes"].dtype == torch.uint8


def test_sub_items_start_small_and_uniform_and_cover_every_code():
    items = PQItems(CODES, D)
    assert items.sub_items.shape == (M, CODES.max() + 1, D // M)
    assert 0.03 < items.sub_items.abs().max() <= 0.05


def test_a_dim_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="dim=10 is not a multiple of the 4 splits"):
        PQItems(CODES, 10)


def test_a_rotation_turns_vectors_and_scores_alike():
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((D, D)))[0].astype(np.float32)
    turned, plain = PQItems(CODES, D, codebooks_MBd=CODEBOOKS, rotation_DD=rotation), pq()
    every = torch.arange(len(CODES))
    torch.testing.assert_close(turned(every), plain(every) @ torch.tensor(rotation))
    hidden = torch.randn(3, D, generator=torch.Generator().manual_seed(0))
    shared = turned.scores(hidden, every)
    torch.testing.assert_close(shared, hidden @ turned(every).T)
    torch.testing.assert_close(turned.scores(hidden, every.expand(3, -1)), shared)
    assert np.array_equal(turned.arrays()["rotation_DD"], rotation)
