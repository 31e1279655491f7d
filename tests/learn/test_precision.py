import importlib.util
import json

import numpy as np
import pytest

from everyitem.data.interactions import read_log
from everyitem.learn import precision
from everyitem.learn.precision import overlap_of, set_precision
from everyitem.model.encode import Encoder
from everyitem.recommender import load


@pytest.fixture(scope="module")
def log(tiny_log):
    return read_log(tiny_log)


@pytest.fixture
def history(log):
    return [log.items["item_id"].gather(log.histories[0]).to_list()]


def test_overlap_counts_the_items_that_both_have():
    expected = np.array([[1, 2, 3, 4], [5, 6, -1, -1]], np.int32)
    assert overlap_of(expected, expected) == 1
    assert overlap_of(expected[:, ::-1], expected) == 1
    assert overlap_of(np.array([[1, 9, 3, 8], [5, -1, -1, -1]], np.int32), expected) == 3 / 6
    assert overlap_of(expected[:0], expected[:0]) == 0


def test_int8_answers_and_can_be_taken_back(copied, log, history, monkeypatch):
    monkeypatch.setattr(precision, "OVERLAP", 0.5)  # a tiny model's scores lie close together
    folder = copied()
    before = load(folder).recommend(history)
    assert 0.5 < set_precision(folder, log, "int8") <= 1
    small = load(folder)
    assert small.encoder.precision == "int8"
    assert small.encoder.keeps_state
    assert json.loads((folder / "recommender.json").read_text())["precision"] == "int8"
    queries = [model.encode(log.histories) for model in (small, load(copied("dense")))]
    assert not np.array_equal(queries[0], queries[1])
    assert set_precision(folder, log, "float32") == 1
    assert load(folder).encoder.precision == "float32"
    assert load(folder).recommend(history).equals(before)


def test_an_encoder_that_recommends_other_items_is_refused_with_the_figure(copied, log, monkeypatch):
    folder = copied()
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def noisy(path, out):
        out.write_bytes(path.read_bytes())
        monkeypatch.setattr(Encoder, "__call__", lambda self, x: -np.abs(x).mean(1))

    monkeypatch.setattr(precision, "quantise_encoder", noisy)
    with pytest.raises(
        ValueError, match=r"int8 finds \d+\.\d% of the 10 best items of float32 .* allowed: 99% or more"
    ):
        set_precision(folder, log, "int8")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == files


def test_a_damaged_int8_encoder_is_named(copied, log, monkeypatch):
    monkeypatch.setattr(precision, "OVERLAP", 0.0)
    folder = copied()
    set_precision(folder, log, "int8")
    path = folder / "encoder.int8.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"encoder\.int8\.onnx: damaged"):
        load(folder)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the extra openvino")
def test_bf16_answers_as_float32_does(copied, log):
    folder = copied()
    set_precision(folder, log, "bf16")
    model, plain = load(folder), Encoder(folder / "encoder.onnx", 10)
    x = model.index.vectors(log.histories[0][-5:])[None]
    np.testing.assert_allclose(model.encoder(x), plain(x), rtol=0, atol=0.05)
    state = model.encoder.extend(x[:, :3])[1]
    np.testing.assert_allclose(model.encoder.extend(x[:, 3:], state)[0], plain(x), rtol=0, atol=0.05)


def test_bf16_without_openvino_says_what_is_missing(copied, log, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ModuleNotFoundError, match="openvino"):
        set_precision(copied(), log, "bf16")


def test_the_command_says_what_stays(copied, tiny_log, works):
    folder = copied()
    assert "answers in float32: 100.00% of the ten best" in works("encoder", folder, tiny_log, "--precision", "float32")
