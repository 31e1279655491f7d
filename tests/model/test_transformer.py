import pytest
import torch

from everyitem.model.attention import no_past
from everyitem.model.esasrec import ESASRec
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


def esasrec(**settings):
    return awake(ESASRec(D, length=LENGTH, **settings))


def gbert4rec(**settings):
    return awake(GBERT4Rec(D, length=LENGTH, **settings))


def test_new_blocks_are_the_identity():
    x = vectors(2, LENGTH)
    for model in (SASRec(D, length=LENGTH).eval(), GBERT4Rec(D, length=LENGTH).eval()):
        close(model(x, real([LENGTH] * 2, LENGTH)), model.norm(x + model.positions))
    model = ESASRec(D, length=LENGTH).eval()
    close(model(x, real([LENGTH] * 2, LENGTH)), model.norm(x))


def vectors(rows, length, seed=0):
    return torch.randn(rows, length, D, generator=torch.Generator().manual_seed(seed))


def real(lengths, width):
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def close(ours, expected, atol=1e-5):
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("make", [sasrec, esasrec])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("changed", range(LENGTH))
def test_a_causal_model_does_not_see_the_future(make, heads, changed):
    model, x = make(heads=heads), vectors(2, LENGTH)
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


@pytest.mark.parametrize("make", [sasrec, esasrec, gbert4rec])
@pytest.mark.parametrize("length", range(1, LENGTH))
def test_padding_on_the_right_changes_nothing(make, length):
    model, x = make(), vectors(3, LENGTH)
    alone = model(x[:, :length], real([length] * 3, length))
    padded = model(x, real([length] * 3, LENGTH))
    close(padded[:, :length], alone)


@pytest.mark.parametrize("make", [sasrec, esasrec, gbert4rec])
def test_a_row_does_not_depend_on_its_batch(make):
    model, x, lengths = make(), vectors(4, LENGTH), [1, 6, 3, 2]
    together = model(x, real(lengths, LENGTH))
    for row, length in enumerate(lengths):
        close(together[row, :length], model(x[row : row + 1, :length], real([length], length))[0])


@pytest.mark.parametrize("make", [sasrec, esasrec])
@pytest.mark.parametrize(("blocks", "heads"), [(1, 1), (2, 3), (3, 1)])
@pytest.mark.parametrize("length", range(1, LENGTH + 1))
def test_last_of_a_causal_model_is_the_state_of_the_newest_event(make, blocks, heads, length):
    model, x = make(blocks=blocks, heads=heads), vectors(3, length)
    close(model.last(x), model(x, real([length] * 3, length))[:, -1])


@pytest.mark.parametrize("make", [sasrec, esasrec])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("steps", [[1] * LENGTH, [2, 1, 3], [LENGTH - 1, 1]])
def test_events_one_after_the_other_are_the_whole_history(make, blocks, steps):
    model, x = make(blocks=blocks, heads=2), vectors(3, LENGTH)
    hidden, past = model(x, real([LENGTH] * 3, LENGTH)), no_past(x, list(model.blocks))
    for step in steps:
        known = past.shape[1]
        query, state = model.extend(x[:, known : known + step], past)
        past = torch.cat([past, state], 1)
        close(query, hidden[:, known + step - 1])
    assert past.shape == (3, LENGTH, (2 * blocks - 1) * D)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("length", range(1, LENGTH))
def test_last_of_gbert4rec_is_the_state_of_an_appended_mask(blocks, length):
    model, x = gbert4rec(blocks=blocks), vectors(3, length)
    masked = torch.cat([x, model.mask_vector.expand(3, 1, D)], 1)
    close(model.last(x), model(masked, real([length + 1] * 3, length + 1))[:, -1])


def still(model):
    """The model with blocks that add nothing."""
    with torch.no_grad():
        for block in model.blocks:
            for layer in (block.attention.output, block.narrow):
                layer.weight.zero_()
                layer.bias.zero_()
    return model


def test_a_causal_model_counts_positions_from_the_oldest_event():
    model = still(sasrec())
    states = model(torch.zeros(2, 4, D), real([4, 2], 4))
    close(states, model.norm(model.positions[:4]).expand(2, 4, D))


def test_a_bidirectional_model_counts_positions_from_the_newest_event():
    model = still(gbert4rec())
    states = model(torch.zeros(2, 4, D), real([4, 2], 4))
    close(states[0, :4], model.norm(model.positions[-4:]))
    close(states[1, :2], model.norm(model.positions[-2:]))


def test_esasrec_weighs_events_by_distance():
    model = esasrec(blocks=1, heads=1)
    x = vectors(1, 1).expand(1, LENGTH, D) + 0.0
    with torch.no_grad():
        model.blocks[0].bias_HT.fill_(-100.0)
        model.blocks[0].bias_HT[0, 2] = 100.0
    x[:, 3] = 1.7  # what the newest event finds two events back
    alone = model.blocks[0].attention.newest(x[:, -1], x, model.blocks[0].bias_HT.flip(1))
    value = model.blocks[0].attention.key_value(x[:, 3])[:, D:]
    close(alone, model.blocks[0].attention.output(value))


@pytest.mark.parametrize("make", [sasrec, esasrec, gbert4rec])
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


@pytest.mark.parametrize("make", [sasrec, esasrec, gbert4rec])
def test_dropout_works_in_training_only(make):
    model, x = make(dropout=0.5), vectors(1, LENGTH - 1)
    lengths = real([LENGTH - 1], LENGTH - 1)
    assert torch.equal(model(x, lengths), model(x, lengths))
    model.train()
    assert not torch.equal(model(x, lengths), model(x, lengths))


@pytest.mark.parametrize("kind", [SASRec, ESASRec, GBERT4Rec])
def test_heads_that_do_not_divide_dim_are_refused(kind):
    with pytest.raises(ValueError, match="dim=10 is not a multiple of heads=3"):
        kind(10, heads=3)
