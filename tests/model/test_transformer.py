import pytest
import torch

from everyitem.model.transformer import GBERT4Rec, SASRec

D, LENGTH = 12, 6


def awake(model):
    """Weights as after training: a new model's blocks are the identity, which would hide every fault."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def sasrec(**settings):
    return awake(SASRec(D, length=LENGTH, **settings))


def gbert4rec(**settings):
    return awake(GBERT4Rec(D, length=LENGTH, **settings))


def test_new_blocks_are_the_identity():
    x = vectors(2, LENGTH)
    for model in (SASRec(D, length=LENGTH).eval(), GBERT4Rec(D, length=LENGTH).eval()):
        close(model(x, real([LENGTH] * 2, LENGTH)), model.stack.norm(x + model.stack.positions))


def vectors(rows, length, seed=0):
    return torch.randn(rows, length, D, generator=torch.Generator().manual_seed(seed))


def real(lengths, width):
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def close(ours, expected, atol=1e-5):
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("changed", range(LENGTH))
def test_sasrec_does_not_see_the_future(heads, changed):
    model, x = sasrec(heads=heads), vectors(2, LENGTH)
    other = x.clone()
    other[:, changed] *= -1
    lengths = real([LENGTH] * 2, LENGTH)
    before, after = model(x, lengths), model(other, lengths)
    close(after[:, :changed], before[:, :changed], atol=0)
    assert ((after - before)[:, changed:].abs().amax(-1) > 1e-4).all()


def test_gbert4rec_sees_both_sides():
    model, x = gbert4rec(), vectors(1, LENGTH)
    other = x.clone()
    other[:, 3] *= -1
    difference = model(x, real([LENGTH], LENGTH)) - model(other, real([LENGTH], LENGTH))
    assert (difference.abs().amax(-1) > 1e-5).all()


@pytest.mark.parametrize("make", [sasrec, gbert4rec])
@pytest.mark.parametrize("length", range(1, LENGTH))
def test_padding_on_the_right_changes_nothing(make, length):
    model, x = make(), vectors(3, LENGTH)
    alone = model(x[:, :length], real([length] * 3, length))
    padded = model(x, real([length] * 3, LENGTH))
    close(padded[:, :length], alone)


@pytest.mark.parametrize("make", [sasrec, gbert4rec])
def test_a_row_does_not_depend_on_its_batch(make):
    model, x, lengths = make(), vectors(4, LENGTH), [1, 6, 3, 2]
    together = model(x, real(lengths, LENGTH))
    for row, length in enumerate(lengths):
        close(together[row, :length], model(x[row : row + 1, :length], real([length], length))[0])


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("length", range(1, LENGTH + 1))
def test_last_of_sasrec_is_the_state_of_the_newest_event(blocks, length):
    model, x = sasrec(blocks=blocks), vectors(3, length)
    close(model.last(x), model(x, real([length] * 3, length))[:, -1])


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("length", range(1, LENGTH))
def test_last_of_gbert4rec_is_the_state_of_an_appended_mask(blocks, length):
    model, x = gbert4rec(blocks=blocks), vectors(3, length)
    masked = torch.cat([x, model.mask_vector.expand(3, 1, D)], 1)
    close(model.last(x), model(masked, real([length + 1] * 3, length + 1))[:, -1])


@pytest.mark.parametrize("make", [sasrec, gbert4rec])
def test_positions_are_counted_from_the_newest_event(make):
    model = make(blocks=0, dropout=0.0)
    states = model(torch.zeros(2, 4, D), real([4, 2], 4))
    close(states[0, :4], model.stack.norm(model.stack.positions[-4:]))
    close(states[1, :2], model.stack.norm(model.stack.positions[-2:]))


@pytest.mark.parametrize("make", [sasrec, gbert4rec])
def test_every_parameter_learns(make):
    model = make().train()
    x = vectors(4, LENGTH - 1)
    lengths = real([5, 5, 3, 1], 5)
    (
        (model(x, lengths)[lengths] * vectors(1, 14, seed=1)).sum() + (model.last(x) * vectors(1, 4, seed=2)).sum()
    ).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("make", [sasrec, gbert4rec])
def test_dropout_works_in_training_only(make):
    model, x = make(dropout=0.5), vectors(1, LENGTH - 1)
    lengths = real([LENGTH - 1], LENGTH - 1)
    assert torch.equal(model(x, lengths), model(x, lengths))
    model.train()
    assert not torch.equal(model(x, lengths), model(x, lengths))


@pytest.mark.parametrize("kind", [SASRec, GBERT4Rec])
def test_heads_that_do_not_divide_dim_are_refused(kind):
    with pytest.raises(ValueError, match="dim=10 is not a multiple of heads=3"):
        kind(10, heads=3)
