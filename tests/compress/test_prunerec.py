import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from everyitem.compress import prunerec, rivals
from everyitem.compress.cut import parameters
from everyitem.compress.importance import head_scores, hidden_scores, layer_scores, neuron_scores
from everyitem.compress.plan import best, choose_heads, sizes_of
from everyitem.compress.prunerec import AT_ONCE, WIDTH_TO_DEPTH, Calibration, dry_run, plan_of, run
from everyitem.compress.sizes import Curves, Keep, kept_sizes, measure_curves, sizes_within

KEEP = Keep(heads=4, hidden=24, neurons=16, drop_layers=1)


@pytest.fixture
def teacher(language_model):
    return language_model("qwen2")


@pytest.fixture
def text(text_batches):
    return Calibration(text_batches, text_batches)


def logits(model):
    with torch.inference_mode():
        return model(torch.arange(3, 20)[None]).logits


def pruned(teacher, out, text, **changes):
    settings = {"epochs": 3, "show": False} | changes
    return run(teacher, out, text, settings.pop("keep", KEEP), **settings)


def test_three_stages_to_a_plain_checkpoint(teacher, text, tmp_path):
    before = logits(teacher)
    report = pruned(teacher, tmp_path / "out", text)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert sizes_of(loaded.config) == (2, 4, 2, 24, 16, 61)
    stage = AutoModelForCausalLM.from_pretrained(tmp_path / "out/stages/3-layers/model")
    assert torch.equal(logits(loaded), logits(stage))
    assert torch.equal(logits(teacher), before), "the teacher is not touched"
    assert [stage["parts"] for stage in report["stages"]] == [list(parts) for parts in WIDTH_TO_DEPTH]
    assert all(stage["difference_from_masked"] < 1e-5 for stage in report["stages"])
    assert all(stage["restored"]["perplexity"] < stage["cut"]["perplexity"] for stage in report["stages"])
    assert report["after"]["parameters"] == sum(p.numel() for p in loaded.parameters())
    assert report["before"]["parameters_without_embeddings"] == parameters(teacher.config, sizes_of(teacher.config))
    assert report == json.loads((tmp_path / "out" / "prunerec.json").read_text())


def test_a_killed_run_goes_on_after_its_last_stage(teacher, text, tmp_path, monkeypatch):
    whole = pruned(teacher, tmp_path / "whole", text)

    def dies(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prunerec, "layer_scores", dies)
        with pytest.raises(KeyboardInterrupt):
            pruned(teacher, tmp_path / "killed", text)
    assert not (tmp_path / "killed" / "config.json").exists()
    with monkeypatch.context() as patch:
        for name in ("head_scores", "hidden_scores", "neuron_scores"):
            patch.setattr(prunerec, name, dies)  # those stages are done
        again = pruned(teacher, tmp_path / "killed", text)
    assert torch.equal(*(logits(AutoModelForCausalLM.from_pretrained(tmp_path / name)) for name in ("whole", "killed")))
    assert again["after"]["perplexity"] == whole["after"]["perplexity"]
    done = pruned(teacher, tmp_path / "killed", text)
    assert done["stages"] == again["stages"]


def test_a_restoration_that_was_killed_cuts_by_the_same_plan(teacher, text, tmp_path, monkeypatch):
    def dies(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prunerec, "restore", dies)
        with pytest.raises(KeyboardInterrupt):
            pruned(teacher, tmp_path / "out", text, method="random", seed=3)
    plan = (tmp_path / "out/stages/1-heads-hidden/plan.json").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(rivals, "random", dies)
        with pytest.raises(KeyboardInterrupt):  # in stage 2, not in stage 1
            pruned(teacher, tmp_path / "out", text, method="random", seed=3)
    assert (tmp_path / "out/stages/1-heads-hidden/plan.json").read_text() == plan
    assert (tmp_path / "out/stages/1-heads-hidden/report.json").exists()


def test_other_settings_are_refused(teacher, text, tmp_path):
    pruned(teacher, tmp_path / "out", text, alpha=0.5)
    with pytest.raises(ValueError, match=r"of a run with alpha=0.5; give the same, or another folder"):
        pruned(teacher, tmp_path / "out", text, alpha=0.7)


def test_sizes_that_the_model_cannot_have_write_nothing(teacher, text, tmp_path):
    for keep, said in (
        (KEEP._replace(heads=3), "allowed: multiples of 2 up to 6"),
        (KEEP._replace(hidden=49), "got 49 hidden to keep; allowed: 1 to 48"),
        (KEEP._replace(neurons=0), "got 0 neurons to keep; allowed: 1 to 40"),
        (KEEP._replace(drop_layers=3), "got 0 layers to keep; allowed: 1 to 3"),
    ):
        with pytest.raises(ValueError, match=said):
            pruned(teacher, tmp_path / "out", text, keep=keep)
    assert not (tmp_path / "out").exists()


def test_a_cut_that_is_wrong_is_not_restored(teacher, text, tmp_path, monkeypatch):
    monkeypatch.setattr(prunerec, "largest_difference", lambda *_: 0.1)
    with pytest.raises(RuntimeError, match=r"1.0e-01 away from the masked one; allowed 1e-04"):
        pruned(teacher, tmp_path / "out", text)


def test_at_once_and_restored_at_the_end_alone(teacher, text, tmp_path):
    once = pruned(teacher, tmp_path / "once", text, stages=AT_ONCE)
    assert [stage["parts"] for stage in once["stages"]] == [["heads", "hidden", "neurons", "layers"]]
    last = pruned(teacher, tmp_path / "last", text, restore_each=False)
    assert ["restored" in stage for stage in last["stages"]] == [False, False, True]
    assert last["stages"][2]["updates"] == 3 * 3 * 2  # as many as three restorations
    assert once["stages"][0]["updates"] == 3 * 2


def test_stored_answers_do_as_well(teacher, text, tmp_path):
    report = pruned(teacher, tmp_path / "out", text, answers=8, truth=0.0, divergence="reverse")
    assert (tmp_path / "out/stages/answers/000001.npz").is_file()
    assert report["after"]["perplexity"] < report["stages"][0]["cut"]["perplexity"]


def test_quality_is_part_of_every_report(teacher, text, tmp_path):
    report = pruned(teacher, tmp_path / "out", text, quality=lambda model: {"layers": len(model.model.layers)})
    assert [stage["restored"]["layers"] for stage in report["stages"]] == [3, 3, 2]
    assert report["before"]["layers"] == 3


def test_the_plan_takes_what_the_scorers_say(teacher, text_batches):
    plan = plan_of(teacher, text_batches, KEEP, alpha=0.3)
    heads_LH = head_scores(teacher, text_batches, keep=4, alpha=0.3)
    assert np.array_equal(plan.heads_LH, [choose_heads(scores, 4, 2, "balanced") for scores in heads_LH])
    assert np.array_equal(plan.hidden_D, best(hidden_scores(teacher, text_batches), 24))
    neurons_LF = neuron_scores(teacher, text_batches, keep=16)
    assert np.array_equal(plan.neurons_LF, [best(scores, 16) for scores in neurons_LF])
    assert np.array_equal(plan.layers_L, best(layer_scores(teacher, text_batches, drop=1), 2))


@pytest.mark.parametrize("method", ["random", "magnitude", "wanda", "taylor"])
def test_rivals_choose_by_their_own_scores(teacher, text_batches, method):
    plan = plan_of(teacher, text_batches, KEEP, method=method)
    scores = getattr(rivals, method)(teacher, text_batches)
    assert np.array_equal(plan.hidden_D, best(scores.hidden_D, 24))
    assert np.array_equal(plan.neurons_LF, [best(row, 16) for row in scores.neurons_LF])
    assert np.array_equal(plan.layers_L, best(scores.layers_L, 2))


def test_shortgpt_is_another_choice_of_layers(teacher, text_batches):
    plan = plan_of(teacher, text_batches, KEEP, method="shortgpt")
    ours = plan_of(teacher, text_batches, KEEP)
    assert np.array_equal(plan.layers_L, best(rivals.block_influence(teacher, text_batches), 2))
    assert np.array_equal(plan.hidden_D, ours.hidden_D)


def test_a_dry_run_says_what_the_run_will_have(teacher, text, tmp_path):
    lines = dry_run(teacher, KEEP._replace(heads=5), WIDTH_TO_DEPTH, "expand")
    report = pruned(teacher, tmp_path / "out", text, keep=KEEP._replace(heads=5), key_values="expand")
    assert [line["stage"] for line in lines] == ["uncut", "heads and hidden", "neurons", "layers"]
    measured = [report["before"], *(stage["cut"] for stage in report["stages"])]
    for line, found in zip(lines, measured, strict=True):
        assert {name: line[name] for name in found["sizes"]} == found["sizes"]
        assert line["parameters"] == found["parameters"]


# sizes by a budget ----------------------------------------------------------------------------------------------------


def test_curves_start_at_nothing_lost(teacher, text_batches):
    curves = measure_curves(teacher, text_batches)
    for curve, whole in zip(curves, (6, 48, 40, 3), strict=True):
        assert curve[whole] == pytest.approx(0, abs=1e-6)
        assert len(curve) >= 3
    assert min(curves.hidden) == 6
    assert all(keep % 2 == 0 for keep in curves.heads)


def test_sizes_within_a_budget_are_the_cheapest_that_fit(teacher):
    curves = Curves({2: 0.5, 6: 0.0}, {12: 2.0, 24: 0.1, 48: 0.0}, {10: 0.2, 40: 0.0}, {1: 3.0, 2: 1.0, 3: 0.0})
    whole = parameters(teacher.config, sizes_of(teacher.config))
    found = sizes_within(teacher.config, curves, 0.3)
    fitting = []
    for heads, a in curves.heads.items():
        for hidden, b in curves.hidden.items():
            for neurons, c in curves.neurons.items():
                for layers, d in curves.layers.items():
                    keep = Keep(heads, hidden, neurons, 3 - layers)
                    count = parameters(teacher.config, kept_sizes(teacher.config, keep, "balanced"))
                    if count <= 0.3 * whole:
                        fitting.append((a + b + c + d, count, keep))
    assert found == min(fitting)[2]
    assert sizes_within(teacher.config, curves, 1.0) == Keep(6, 48, 40, 0)
    with pytest.raises(ValueError, match=r"no combination of the measured sizes has 0.1% of the parameters"):
        sizes_within(teacher.config, curves, 0.001)
