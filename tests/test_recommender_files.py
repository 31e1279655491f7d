"""Model folders: what is saved comes back, what is damaged is refused, and none of it needs torch."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from everyitem.recommender import load

HISTORY = ["item-003", "item-017", "item-250"]


@pytest.mark.parametrize("items", ["pq", "dense"])
def test_what_is_saved_comes_back(copied, items):
    folder = copied(items)
    model = load(folder)
    model.add_items(pl.DataFrame({"item_id": ["new"]}), like=[HISTORY])
    model.remove_items(["item-009"])
    model.save(folder)
    again = load(folder)
    assert again.items.equals(model.items)
    assert again.recommend([HISTORY, ["new"]], k=400).equals(model.recommend([HISTORY, ["new"]], k=400))
    assert "item-009" not in again.recommend([HISTORY], k=400)["item_id"].to_list()
    again.save(folder)
    assert load(folder).recommend([HISTORY]).equals(model.recommend([HISTORY]))


def refusal(folder):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_a_model_says_so(tmp_path):
    assert "everyitem train" in refusal(tmp_path)
    assert "everyitem train" in refusal(tmp_path / "nothing")


@pytest.mark.parametrize(
    "part", ["recommender.json", "items.parquet", "encoder.onnx", "memory.safetensors", "index/v000001/manifest.json"]
)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "noise", "flip", "appended"])
def test_damage_to_any_part_is_one_line_that_names_it(copied, part, damage, capfd):
    path = copied("pq") / part
    data = path.read_bytes()
    middle = len(data) // 2
    contents = {
        "empty": b"",
        "cut": data[:middle],
        "noise": np.random.default_rng(0).bytes(len(data)),
        "flip": data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :],
        "appended": data + b"0",
    }
    path.write_bytes(contents[damage]) if damage in contents else path.unlink()
    assert part.split("/")[0] in refusal(path.parents[part.count("/")])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("part", ["recommender.json", "items.parquet", "encoder.onnx", "memory.safetensors"])
def test_flipped_bits_are_noticed_or_change_nothing(copied, part):
    folder = copied("pq")
    path, expected = folder / part, load(folder).recommend([HISTORY])
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        at, bit = int(rng.integers(len(data))), 1 << int(rng.integers(8))
        path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        try:
            model = load(folder)
        except (ValueError, FileNotFoundError):
            continue
        assert part == "recommender.json"  # only there are bytes without meaning
        assert model.recommend([HISTORY]).equals(expected)


def test_a_damaged_section_of_the_index_is_named(copied):
    folder = copied("pq")
    path = folder / "index" / "v000001" / "codes.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "section codes" in refusal(folder)


@pytest.mark.parametrize("part", ["encoder.onnx", "items.parquet", "index"])
def test_parts_of_another_model_are_refused(copied, part, tmp_path):
    folder, other = copied("pq"), copied("dense")
    if part == "items.parquet":
        load(other).items.reverse().write_parquet(other / part)
    (folder / part).rename(tmp_path / "away")
    (other / part).rename(folder / part)
    assert part.split(".")[0] in refusal(folder)


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"history_length": "ten"}', "[" * 100_000, "\ud800"])
def test_json_that_is_no_metadata_is_refused(copied, content):
    folder = copied("pq")
    (folder / "recommender.json").write_bytes(content.encode(errors="surrogatepass"))
    assert "recommender.json" in refusal(folder)


def test_metadata_is_readable_json(tiny_models):
    metadata = json.loads((tiny_models["pq"] / "recommender.json").read_text())
    assert metadata == load(tiny_models["pq"]).metadata


def test_everything_works_where_torch_cannot_be_imported(copied):
    folder = str(copied("pq"))
    program = f"""
import sys
sys.modules["torch"] = None
import polars as pl
import everyitem as ei
model = ei.load({folder!r})
best = model.recommend([{HISTORY!r}], k=3, where="in_stock")["item_id"][0]
model.explain({HISTORY!r}, best), model.similar_items(best)
model.add_items(pl.DataFrame({{"item_id": ["new"]}}), like=[[best]])
model.remove_items(["item-009"])
model.save({folder!r})
assert len(ei.load({folder!r}).recommend([["new"]], k=999)) == 399
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
