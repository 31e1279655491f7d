import numpy as np
import pytest
import torch
from torch import nn

from everyitem.model.encode import Encoder, equal_lengths
from everyitem.model.esasrec import ESASRec
from everyitem.model.export import export_onnx, history_length, torch_queries
from everyitem.model.items import DenseItems
from everyitem.model.transformer import GBERT4Rec, SASRec
from everyitem.types import Histories

D, LENGTH, NUM_ITEMS = 8, 6, 20


@pytest.fixture(scope="module", params=[SASRec, ESASRec, GBERT4Rec])
def exported(request, tmp_path_factory):
    torch.manual_seed(0)
    backbone = request.param(D, length=LENGTH, heads=2, dropout=0.5).eval()
    with torch.no_grad():  # a new model's blocks are the identity, which would hide every fault
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    path = tmp_path_factory.mktemp("model") / "encoder.onnx"
    assert export_onnx(backbone, path) <= 1e-5
    return backbone, Encoder(path, history_length(backbone)), path


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [1, 2, LENGTH - 2, LENGTH - 1, LENGTH])
def test_the_exported_encoder_is_the_torch_one(exported, length, rows):
    backbone, encoder, _ = exported
    x = torch.randn(rows, min(length, encoder.length), D, generator=torch.Generator().manual_seed(length))
    with torch.inference_mode():
        expected = backbone.last(x).numpy()
    query = encoder(x.numpy())
    assert query.dtype == np.float32
    np.testing.assert_allclose(query, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [[1] * LENGTH, [3, 1, 2], [LENGTH - 1, 1]])
def test_a_causal_encoder_goes_on_where_it_was(exported, steps):
    backbone, encoder, _ = exported
    assert encoder.keeps_state != isinstance(backbone, GBERT4Rec)
    if not encoder.keeps_state:
        return
    x = np.random.default_rng(0).standard_normal((3, LENGTH, D), dtype=np.float32)
    past = np.empty((3, 0, encoder.state_width), np.float32)
    for step in steps:
        known = past.shape[1]
        query, state = encoder.extend(x[:, known : known + step], past)
        past = np.concatenate([past, state], axis=1)
        np.testing.assert_allclose(query, encoder(x[:, : known + step]), rtol=0, atol=1e-5)
    assert past.shape == (3, LENGTH, 3 * D)


def test_a_mask_takes_one_place_of_the_length(exported):
    backbone, encoder, _ = exported
    assert encoder.length == LENGTH - isinstance(backbone, GBERT4Rec)


def test_torch_queries_are_those_of_every_history_alone(exported):
    backbone, encoder, _ = exported
    items = DenseItems(NUM_ITEMS, D)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, NUM_ITEMS, n).tolist() for n in (1, 9, 3, 6, 3, 5, 1, 40)]
    queries = torch_queries(backbone, items, Histories.from_lists(rows), batch=2)
    for query, row in zip(queries, rows, strict=True):
        x = items(torch.tensor(row[-encoder.length :]))[None].detach()
        np.testing.assert_allclose(query, encoder(x.numpy())[0], rtol=0, atol=1e-5)


def test_groups_of_equal_length_hold_every_row_once():
    rows = [[1], [2, 3, 4], [5], [6, 7], [8, 9, 10, 11], [12]]
    groups = list(equal_lengths(Histories.from_lists(rows), 3, 2))
    assert {int(u): ids.tolist() for us, block in groups for u, ids in zip(us, block, strict=True)} == {
        u: row[-3:] for u, row in enumerate(rows)
    }
    assert sum(len(us) for us, _ in groups) == len(rows)
    assert all(len(us) <= 2 and (ids >= 0).all() for us, ids in groups)


def test_no_histories_are_no_groups():
    assert list(equal_lengths(Histories.from_lists([]), 3, 2)) == []


class LooksAtValues(nn.Module):
    """What it computes depends on what it sees, as in a mixture of experts: no graph of fixed steps says that."""

    objective, dim, length = "next", D, LENGTH

    def last(self, x_UTD):
        return x_UTD[:, -1] if x_UTD.sum() > 0 else x_UTD[:, 0]


def test_a_backbone_that_cannot_be_exported_is_said_so_in_one_line(tmp_path):
    with pytest.raises(RuntimeError, match=r"encoder\.onnx: this backbone cannot be exported as ONNX") as caught:
        export_onnx(LooksAtValues(), tmp_path / "encoder.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "missing", "text"])
def test_a_damaged_encoder_is_one_line_that_names_the_file(exported, damage, tmp_path):
    data = exported[2].read_bytes()
    path = tmp_path / "encoder.onnx"
    contents = {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "noise": np.random.default_rng(0).bytes(len(data)),
        "text": b"{}",
    }
    if damage in contents:
        path.write_bytes(contents[damage])
    with pytest.raises(ValueError, match=r"encoder\.onnx: the encoder cannot be loaded") as caught:
        Encoder(path, 5)
    assert "\n" not in str(caught.value)
