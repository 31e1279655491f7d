import numpy as np
import pytest
import torch

from everyitem.compress import encoder
from everyitem.compress.distil import restore
from everyitem.compress.encoder import EncoderPlan, ItemLoss, Questions, cut, in_shape, keep_everything, shape_of
from everyitem.compress.plan import best
from everyitem.model.export import export_onnx
from everyitem.model.items import DenseItems, PQItems
from everyitem.model.transformer import GBERT4Rec, SASRec

D, NUM_ITEMS, T = 24, 40, 8
IDS = torch.tensor(
    [[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, -1, -1, -1, -1], [8, -1, -1, -1, -1, -1, -1], [9, 7, 9, 3, 2, -1, -1]]
)
ASKED = Questions(IDS, torch.tensor([1, 2, 3, 4]))


def backbone(kind, seed=0):
    torch.manual_seed(seed)
    made = kind(D, blocks=3, heads=4, length=T, feed_forward=2, dropout=0.1)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return made.eval()


def items():
    torch.manual_seed(7)
    made = DenseItems(NUM_ITEMS, D)
    with torch.no_grad():
        made.vectors.mul_(30)
    return made


def drawn(made, blocks=(0, 2), heads=2, neurons=17):
    rng, rows = np.random.default_rng(0), len(made.blocks)
    heads_LH = np.stack([best(rng.random(4), heads) for _ in range(rows)])
    return EncoderPlan(np.array(blocks), heads_LH, np.stack([best(rng.random(2 * D), neurons) for _ in range(rows)]))


both = pytest.mark.parametrize("kind", [SASRec, GBERT4Rec])


@both
@pytest.mark.parametrize("changes", [{}, {"blocks": (0, 1, 2)}, {"heads": 4}, {"neurons": 2 * D}, {"blocks": (1,)}])
def test_the_cut_backbone_computes_what_the_masked_one_does(kind, changes):
    model, table = backbone(kind), items()
    plan = drawn(model, **changes)
    with torch.inference_mode():
        with encoder.masked(model, plan):
            expected = encoder.answers(model, table, ASKED)
        whole = encoder.answers(model, table, ASKED)
        found = encoder.answers(cut(model, plan), table, ASKED)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert (whole - expected).abs().max() > 0.05


@both
def test_every_way_to_ask_a_cut_backbone_is_the_same(kind, tmp_path):
    """Whole rows, the newest event alone, event by event, and the exported graph."""
    smaller = cut(backbone(kind), drawn(backbone(kind)))
    x = torch.randn(3, 6, D)
    with torch.inference_mode():
        last = smaller.last(x)
        if kind is SASRec:
            torch.testing.assert_close(smaller(x, torch.ones(3, 6, dtype=torch.bool))[:, -1], last, rtol=0, atol=1e-5)
            from everyitem.model.attention import no_past

            _, state = smaller.extend(x[:, :4], no_past(x, list(smaller.blocks)))
            again, _ = smaller.extend(x[:, 4:], state)
            torch.testing.assert_close(again, last, rtol=0, atol=1e-5)
    assert export_onnx(smaller, tmp_path / "encoder.onnx") < 1e-5


@both
def test_answers_are_those_of_the_query(kind):
    """Row by row without padding, through `last`."""
    model, table = backbone(kind), items()
    with torch.inference_mode():
        found = encoder.answers(model, table, ASKED)
        for row, ids in enumerate(IDS):
            query = model.last(table(ids[ids >= 0])[None])
            expected = torch.log_softmax(query @ table.vectors.T, -1)
            torch.testing.assert_close(found[row : row + 1], expected, rtol=0, atol=2e-5)


@both
def test_a_shape_can_be_made_again(kind):
    smaller = cut(backbone(kind), drawn(backbone(kind)))
    again = in_shape(kind(D, blocks=3, length=T, feed_forward=2), **shape_of(smaller))
    again.load_state_dict(smaller.state_dict())
    x = torch.randn(2, 5, D)
    with torch.inference_mode():
        assert torch.equal(again.eval().last(x), smaller.eval().last(x))


@both
def test_heads_that_do_nothing_and_neurons_that_are_silent_score_least(kind):
    model, table = backbone(kind), items()
    width = D // 4
    with torch.no_grad():
        for block, head in zip(model.blocks, (2, 0, 3), strict=True):
            block.attention.output.weight[:, head * width : (head + 1) * width] = 0
            block.widen.weight[5], block.widen.bias[5] = 0, 0
    assert list(encoder.head_scores(model, table, ASKED, keep=4, alpha=0.0).argmin(1)) == [2, 0, 3]
    neurons = encoder.neuron_scores(model, table, ASKED, keep=10)
    assert (neurons[:, 5] <= neurons.min(1)).all()
    real = int((IDS >= 0).sum())
    assert np.floor(neurons).sum() == 3 * 10 * real


@both
def test_blocks_go_greedily(kind):
    model, table = backbone(kind), items()
    scores = encoder.block_scores(model, table, ASKED, drop=1)
    losses = []
    for block in range(3):
        kept = keep_everything(model)._replace(blocks_L=np.delete(np.arange(3), block))
        losses.append(encoder.loss_of(cut(model, kept), table, ASKED))
    assert scores.argmin() == np.argmin(losses)


@both
@pytest.mark.parametrize(
    "make", [items, lambda: PQItems(np.random.default_rng(0).integers(0, 9, (NUM_ITEMS, 4), np.uint8), D)]
)
def test_restoring_brings_the_answers_back_with_any_items(kind, make, tmp_path):
    teacher, table = backbone(kind), make()
    student = cut(teacher, drawn(teacher))
    rows = np.random.default_rng(1).integers(0, NUM_ITEMS, (16, 7), np.int32)
    loss = ItemLoss(student, teacher, table, [rows[::2], rows[1::2]], truth=0.0, negatives=30)
    before = table.arrays()
    start = float(loss(0).detach())
    restore(student, loss, 2, tmp_path / "run", epochs=30, learning_rate=5e-3, show=False)
    assert float(loss(0).detach()) < 0.5 * start
    assert all(np.array_equal(before[name], array) for name, array in table.arrays().items())


def test_the_loss_is_the_sum_by_hand():
    teacher, student, table = backbone(SASRec), backbone(SASRec, seed=3), items()
    rows = np.array([[3, 1, 4], [6, 5, -1]], np.int32)
    loss = ItemLoss(student, teacher, table, [rows], truth=0.3, negatives=12, seed=5)
    found = float(loss(0).detach())
    drawn_items = np.random.default_rng([5, 0]).integers(0, NUM_ITEMS, 12, dtype=np.int64)
    terms = []
    for prefix, target in (([3], 1), ([3, 1], 4), ([6], 5)):
        p = []
        for model in (student, teacher):
            with torch.inference_mode():
                query = model.last(table(torch.tensor([prefix])))[0].numpy()
            vectors = table.vectors.detach().numpy()
            scores = [float(query @ vectors[item]) for item in [target, *drawn_items[drawn_items != target]]]
            p.append(np.exp(scores - np.max(scores)) / np.exp(scores - np.max(scores)).sum())
        q, p = p
        terms.append(0.7 * (p * np.log(p / q)).sum() - 0.3 * np.log(q[0]))
    assert found == pytest.approx(np.mean(terms), rel=1e-3)
