from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from everyitem.compress.cut import cut, largest_difference, parameters
from everyitem.compress.mask import masked
from everyitem.compress.plan import FAMILIES, Plan, choose_heads, cut_sizes, keep_everything, sizes_of

TOKENS = torch.randint(3, 61, (3, 17), generator=torch.Generator().manual_seed(5))


def logits(model, tokens=TOKENS):
    with torch.inference_mode():
        return model(tokens).logits


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def some(size, keep, seed):
    return np.sort(np.random.default_rng(seed).permutation(size)[:keep])


def drawn(model, key_values="balanced", *, heads=4, hidden=24, neurons=24, layers=(0, 2), tokens=61):
    """A plan that drops something of everything, by chance."""
    sizes, rng = sizes_of(model.config), np.random.default_rng(0)
    rows = range(sizes.layers)
    heads_LH = [choose_heads(rng.random(sizes.heads), heads, sizes.key_values, key_values) for _ in rows]
    return Plan(
        np.array(layers),
        np.stack(heads_LH),
        some(sizes.hidden, hidden, 1),
        np.stack([some(sizes.neurons, neurons, 10 + row) for row in rows]),
        np.arange(tokens),
        key_values,
    )


ONE_PART = {
    "nothing": {"heads": 6, "hidden": 48, "neurons": 40, "layers": (0, 1, 2)},
    "heads": {"hidden": 48, "neurons": 40, "layers": (0, 1, 2)},
    "hidden": {"heads": 6, "neurons": 40, "layers": (0, 1, 2)},
    "neurons": {"heads": 6, "hidden": 48, "layers": (0, 1, 2)},
    "layers": {"heads": 6, "hidden": 48, "neurons": 40},
    "everything": {},
}


@pytest.mark.parametrize("part", ONE_PART)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_cut_model_computes_what_the_masked_one_does(language_model, family, part):
    model = language_model(family)
    plan = drawn(model, **ONE_PART[part])
    with masked(model, plan):
        expected = logits(model)
    smaller = cut(model, plan)
    close(logits(smaller), expected)
    assert largest_difference(model, plan, smaller) < 1e-5
    assert ((expected - logits(model)).abs().max() > 0.1) == (part != "nothing"), "the plan must matter"


@pytest.mark.parametrize(
    ("key_values", "heads", "kept", "hidden"), [("balanced", 4, 2, 28), ("groups", 3, 1, 27), ("expand", 5, 5, 30)]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_key_value_heads_follow_the_plan(language_model, family, key_values, heads, kept, hidden):
    model = language_model(family)
    plan = drawn(model, key_values, heads=heads, hidden=hidden)
    smaller = cut(model, plan)
    assert sizes_of(smaller.config) == (2, heads, kept, hidden, 24, 61)
    assert largest_difference(model, plan, smaller) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cut_model_is_a_plain_checkpoint(language_model, family, tmp_path):
    smaller = cut(model := language_model(family), drawn(model))
    smaller.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(smaller))
    assert type(loaded) is type(model)
    tied = loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    assert tied == model.config.tie_word_embeddings


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_renumbered_for_the_cache(language_model, family):
    smaller = cut(model := language_model(family), drawn(model, layers=(1, 2)))
    assert [layer.self_attn.layer_idx for layer in smaller.model.layers] == [0, 1]
    with torch.inference_mode():
        step = smaller.generate(TOKENS[:, :9], max_new_tokens=5, do_sample=False, pad_token_id=0)
        whole = TOKENS[:, :9]
        for _ in range(step.shape[1] - 9):
            whole = torch.cat([whole, smaller(whole, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    alive = ~((whole == 2).cumsum(1) > 0)  # what follows the end is padding
    assert torch.equal(step[alive], whole[alive])


@pytest.mark.parametrize("family", ["gemma3_text", "mistral"])
def test_the_kinds_of_layers_stay_with_their_layers(language_model, family):
    smaller = cut(model := language_model(family), drawn(model, layers=(1, 2)))
    if family == "gemma3_text":
        assert smaller.config.layer_types == ["full_attention", "sliding_attention"]
    assert smaller.config.num_hidden_layers == 2


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])
def test_tokens_that_go_take_their_column_along(language_model, family):
    model = language_model(family)
    plan = replace(keep_everything(model.config), vocabulary_V=np.array([0, 1, 2, 5, 8, 9, 30, 60]))
    smaller = cut(model, plan)
    kept = torch.from_numpy(plan.vocabulary_V)
    rows = torch.tensor([[3, 4, 7, 5], [6, 6, 3, 4]])
    close(logits(smaller, rows), logits(model, kept[rows])[..., kept])


def test_special_tokens_are_renumbered_and_not_dropped(language_model):
    model = language_model("qwen2", eos_token_id=9)
    plan = keep_everything(model.config)
    assert cut(model, replace(plan, vocabulary_V=np.array([0, 1, 9, 11]))).config.eos_token_id == 2
    with pytest.raises(ValueError, match="drops token 9, which is the model's eos_token_id"):
        cut(model, replace(plan, vocabulary_V=np.array([0, 1, 8, 11])))


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_without_building_the_model(language_model, family):
    model = language_model(family)
    plan = drawn(model)
    smaller = cut(model, plan)
    sizes = cut_sizes(model.config, plan)
    assert parameters(model.config, sizes, embeddings=True) == sum(p.numel() for p in smaller.parameters())
    tables = {smaller.lm_head.weight.data_ptr(): smaller.lm_head.weight}
    tables[smaller.model.embed_tokens.weight.data_ptr()] = smaller.model.embed_tokens.weight
    inside = sum(p.numel() for p in smaller.parameters()) - sum(p.numel() for p in tables.values())
    assert parameters(model.config, sizes) == inside


def test_the_published_sizes_of_qwen2():
    from transformers import Qwen2Config

    config = Qwen2Config(
        hidden_size=896,
        num_attention_heads=14,
        num_key_value_heads=2,
        intermediate_size=4864,
        num_hidden_layers=24,
        tie_word_embeddings=True,
    )
    before = parameters(config, sizes_of(config))
    after = parameters(config, sizes_of(config)._replace(heads=7, key_values=7, hidden=448, neurons=896, layers=8))
    assert before == 357_898_112
    assert after / before == pytest.approx(0.045, abs=5e-4)  # 16 layers of 24 are dropped, 8 stay


@pytest.mark.parametrize("key_values", ["balanced", "groups"])
def test_heads_that_do_not_fit_their_groups_are_refused(language_model, key_values):
    model = language_model("qwen2")
    plan = replace(keep_everything(model.config), heads_LH=np.tile([0, 1, 4], (3, 1)), key_values=key_values)
    with pytest.raises(ValueError, match='choose such heads or key_values="expand"'):
        cut(model, plan)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("layers_L", np.array([], int)),
        ("layers_L", np.array([1, 0])),
        ("hidden_D", np.array([1, 48])),
        ("heads_LH", np.array([[0, 3]])),
        ("neurons_LF", np.array([[0, 0]] * 3)),
        ("vocabulary_V", np.array([-1, 4])),
    ],
)
def test_a_plan_that_does_not_fit_the_model_is_refused(language_model, part, value):
    model = language_model("qwen2")
    with pytest.raises(ValueError, match="must be ascending positions"):
        cut(model, replace(keep_everything(model.config), **{part: value}))


def test_an_architecture_that_is_not_known_is_refused():
    from transformers import GPT2Config

    with pytest.raises(ValueError, match="got a model of type gpt2; what can be pruned: qwen2"):
        sizes_of(GPT2Config())


def test_hidden_sizes_that_a_loader_would_refuse_are_refused(language_model):
    model = language_model("llama")
    with pytest.raises(ValueError, match="multiple of the heads; got 30 and 4: keep 28"):
        cut(model, drawn(model, hidden=30))


def test_a_plan_survives_json(language_model):
    import json

    plan = drawn(language_model("qwen2"))
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again.key_values == plan.key_values
    for name in ("layers_L", "heads_LH", "hidden_D", "neurons_LF", "vocabulary_V"):
        assert np.array_equal(getattr(again, name), getattr(plan, name))


def test_masking_leaves_no_trace(language_model):
    model = language_model("qwen2")
    before = logits(model)
    with masked(model, drawn(model)):
        pass
    assert torch.equal(logits(model), before)
