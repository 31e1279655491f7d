"""Every scorer against a naive twin that removes things by zeroing copies of the weights."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from everyitem.compress import rivals
from everyitem.compress.activity import top_shares
from everyitem.compress.calibration import batch_of, every_token, mean_loss, target_logits, target_loss
from everyitem.compress.importance import head_scores, hidden_scores, layer_scores, neuron_scores
from everyitem.compress.plan import best, choose_heads

WIDTH, HEADS, GROUPS, LAYERS, DIM, NEURONS = 8, 6, 2, 3, 48, 40


@pytest.fixture(params=["qwen2", "gemma3_text"])
def model(request, language_model):
    return language_model(request.param)


def without(model, heads=(), layers=()):
    """A copy whose named heads (layer, head) and layers write nothing."""
    copy = deepcopy(model)
    with torch.no_grad():
        for layer, head in heads:
            copy.model.layers[layer].self_attn.o_proj.weight[:, head * WIDTH : (head + 1) * WIDTH] = 0
        for layer in layers:
            copy.model.layers[layer].self_attn.o_proj.weight[:] = 0
            copy.model.layers[layer].mlp.down_proj.weight[:] = 0
    return copy


def probabilities(model, batch):
    """Softmax at every position whose next token is asked for, one by one."""
    with torch.inference_mode():
        logits = model(batch.ids_UT).logits.double()
    rows = [
        torch.softmax(logits[u, t - 1], -1)
        for u in range(len(batch.labels_UT))
        for t in range(1, batch.labels_UT.shape[1])
        if batch.labels_UT[u, t] != -100
    ]
    return torch.stack(rows).numpy()


def divergence(p, q):
    return (p * np.log(p / q)).sum(1)


def naive_head_scores(model, batches, keep, alpha):
    gone, previous, out = [], None, []
    for layer in range(LAYERS):
        lost = []
        for head in range(HEADS):
            other = without(model, [*gone, (layer, head)])
            pairs = [divergence(probabilities(model, b), probabilities(other, b)) for b in batches]
            lost.append(np.concatenate(pairs).mean())
        r = 1 - np.array(lost)
        r = (r - r.min()) / (r.max() - r.min())
        previous = r if previous is None else alpha * previous + (1 - alpha) * r
        out.append(1 - previous)
        stays = set()
        for group in range(GROUPS):
            own = sorted(range(group * 3, group * 3 + 3), key=lambda h: (-out[-1][h], h))
            stays |= set(own[: keep // GROUPS])
        gone += [(layer, head) for head in range(HEADS) if head not in stays]
    return np.stack(out)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_head_scores_are_the_recursion_over_true_removal(model, text_batches, alpha):
    found = head_scores(model, text_batches, keep=4, alpha=alpha)
    np.testing.assert_allclose(found, naive_head_scores(model, text_batches, 4, alpha), atol=2e-4)


def test_published_head_scores_scale_queries_and_look_at_the_last_position(language_model, text_batches):
    model = language_model("qwen2")
    found = head_scores(model, text_batches, keep=6, alpha=0.0, paper=True)
    lost = np.zeros(HEADS)
    for head in range(HEADS):  # with keep = all nothing is cumulative, so layer 1 stands for itself
        other = deepcopy(model)
        attention = other.model.layers[1].self_attn
        with torch.no_grad():
            attention.q_proj.weight[head * WIDTH : (head + 1) * WIDTH] *= 1e-4
            attention.q_proj.bias[head * WIDTH : (head + 1) * WIDTH] *= 1e-4
        rows = []
        for batch in text_batches:
            with torch.inference_mode():
                mask = batch.real_UT.long()
                p, q = (torch.softmax(m(batch.ids_UT, attention_mask=mask).logits[:, -1], -1) for m in (model, other))
            rows.append(divergence(p.double().numpy() + 1e-12, q.double().numpy() + 1e-12))
        lost[head] = np.concatenate(rows).mean()
    r = 1 - lost
    np.testing.assert_allclose(found[1], 1 - (r - r.min()) / (r.max() - r.min()), atol=1e-3)


def test_a_head_that_does_nothing_scores_least(model, text_batches):
    idle = without(model, [(0, 4), (1, 1), (2, 5)])
    scores = head_scores(idle, text_batches, keep=6, alpha=0.0)
    assert list(scores.argmin(1)) == [4, 1, 5]


def test_hidden_scores_are_the_slope_at_a_dimension(language_model, text_batches):
    """d loss(x + (s - 1) x_d) / ds at s = 1 is the sum of gradient times activation: by finite differences."""
    model = language_model("qwen2").double()
    found = hidden_scores(model, text_batches)

    def slope(module, dimension, batch, row, place):
        """What the loss gains when one entry of what the module reads is scaled."""
        losses = []
        for scale in (1 - 1e-4, 1 + 1e-4):

            def change(_, given, scale=scale):
                x = given[0].clone()
                x[row, place, dimension] *= scale
                return (x, *given[1:])

            hook = module.register_forward_pre_hook(change)
            with torch.inference_mode():
                losses.append(float(target_loss(model, batch).double().sum()))
            hook.remove()
        return (losses[1] - losses[0]) / 2e-4

    for dimension in (7,):
        total = 0.0
        for module in [*model.model.layers, model.model.norm]:
            slopes = [
                slope(module, dimension, batch, row, place)
                for batch in text_batches
                for row in range(len(batch.ids_UT))
                for place in range(batch.ids_UT.shape[1] - 1)
            ]
            total += np.sqrt(np.square(slopes).sum())
        assert found[dimension] == pytest.approx(total, rel=2e-2)


def test_published_hidden_scores_are_one_output_vector_times_one_state(language_model, text_batches):
    model, first = language_model("llama"), text_batches[0].ids_UT[:1]
    with torch.inference_mode():
        state = model.model(first).last_hidden_state[0, -1]
        row = model.lm_head.weight[(model.lm_head.weight @ state).argmax()]
    np.testing.assert_allclose(hidden_scores(model, text_batches, paper=True), (state * row).abs().detach(), rtol=1e-4)


@pytest.mark.parametrize("of", ["product", "up"])
def test_neuron_scores_count_the_most_active_of_each_real_token(language_model, text_batches, of):
    model, keep = language_model("llama"), 7
    found = neuron_scores(model, text_batches, keep=keep, of=of)
    expected = np.zeros((LAYERS, NEURONS))
    for batch in text_batches:
        states = []
        hooks = [
            layer.mlp.register_forward_pre_hook(lambda _, x, states=states: states.append(x[0]))
            for layer in model.model.layers
        ]
        with torch.inference_mode():
            model(batch.ids_UT)
        for hook in hooks:
            hook.remove()
        for number, (layer, x) in enumerate(zip(model.model.layers, states, strict=True)):
            with torch.inference_mode():
                up = layer.mlp.up_proj(x)
                value = torch.nn.functional.silu(layer.mlp.gate_proj(x)) * up if of == "product" else up
            for row, length in enumerate(batch.real_UT.sum(1)):
                for token in value[row, :length].abs().numpy():
                    expected[number, np.argsort(-token)[:keep]] += 1
    assert np.array_equal(np.floor(found), expected)
    assert (found - expected < 1).all()


def test_published_neuron_scores_take_raw_up_of_one_row_with_its_padding(language_model, text_batches):
    model = language_model("llama")
    found = neuron_scores(model, text_batches[::-1], keep=5, paper=True)
    with torch.inference_mode():
        x = model.model.embed_tokens(text_batches[1].ids_UT[:1])
        outputs = []
        hook = model.model.layers[0].mlp.up_proj.register_forward_hook(lambda _, __, y: outputs.append(y))
        model.model(inputs_embeds=x)
        hook.remove()
    counts = np.zeros(NEURONS)
    for token in outputs[0][0].numpy():
        counts[np.argsort(-token)[:5]] += 1
    assert np.array_equal(found[0], counts)
    assert found.sum() == LAYERS * 5 * text_batches[1].ids_UT.shape[1]


def test_layers_go_greedily(model, text_batches):
    scores = layer_scores(model, text_batches, drop=2)
    gone = []
    for rank in range(2):
        left = [layer for layer in range(LAYERS) if layer not in gone]
        losses = [mean_loss(without(model, layers=[*gone, layer]), text_batches) for layer in left]
        gone.append(left[int(np.argmin(losses))])
        assert scores[gone[-1]] == rank
    assert sorted(scores) == [0, 1, 2]


def test_published_layers_look_at_every_token(language_model, text_batches):
    model = language_model("qwen2")
    scores = layer_scores(model, text_batches, drop=1, paper=True)
    losses = []
    for layer in range(LAYERS):
        other, rows = without(model, layers=[layer]), []
        for batch in text_batches:
            for ids, length in zip(batch.ids_UT, batch.real_UT.sum(1), strict=True):
                row = ids[:length]
                with torch.inference_mode():
                    logits = other(row[None]).logits[0]
                rows.append(float(torch.nn.functional.cross_entropy(logits[:-1], row[1:])))
        losses.append(np.mean(rows))
    assert scores.argmin() == np.argmin(losses)


def test_one_layer_has_to_stay(model, text_batches):
    with pytest.raises(ValueError, match="got 3 layers to drop; allowed: 0 to 2"):
        layer_scores(model, text_batches, drop=3)


def test_padding_and_company_change_no_score(language_model, text_batches):
    """Rows one by one, with other padding, give what they give together."""
    model = language_model("qwen2")
    alone = [
        batch_of([(ids[:n], labels[:n])], padding=7)
        for batch in text_batches
        for ids, labels, n in zip(batch.ids_UT, batch.labels_UT, batch.real_UT.sum(1), strict=True)
    ]
    np.testing.assert_allclose(hidden_scores(model, alone), hidden_scores(model, text_batches), rtol=1e-4)
    np.testing.assert_allclose(head_scores(model, alone, keep=4), head_scores(model, text_batches, keep=4), atol=1e-3)
    np.testing.assert_allclose(neuron_scores(model, alone, keep=5), neuron_scores(model, text_batches, keep=5), 1e-5)
    np.testing.assert_allclose(rivals.block_influence(model, alone), rivals.block_influence(model, text_batches), 1e-4)
    for one, other in zip(rivals.wanda(model, alone), rivals.wanda(model, text_batches), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_target_logits_are_those_of_the_position_before(model, text_batches):
    for batch in text_batches:
        with torch.inference_mode():
            found = torch.softmax(target_logits(model, batch).double(), -1).numpy()
        np.testing.assert_allclose(found, probabilities(model, batch), atol=1e-5)
        whole = every_token(batch)
        assert len(whole.targets_N) == batch.real_UT.sum() - len(batch.real_UT)


def naive_parts(values):
    """Sums over parts of one layer's values, entry by entry: heads, neurons."""
    heads, neurons = np.zeros(HEADS), np.zeros(NEURONS)
    for head in range(HEADS):
        rows = slice(head * WIDTH, (head + 1) * WIDTH)
        heads[head] = values["self_attn.q_proj.weight"][rows].sum() + values["self_attn.o_proj.weight"][:, rows].sum()
        if "self_attn.q_proj.bias" in values:
            heads[head] += values["self_attn.q_proj.bias"][rows].sum()
    for neuron in range(NEURONS):
        neurons[neuron] = values["mlp.down_proj.weight"][:, neuron].sum()
        for name in ("gate", "up"):
            neurons[neuron] += values[f"mlp.{name}_proj.weight"][neuron].sum()
    return heads, neurons


def test_magnitude_adds_sizes_of_weights(language_model):
    model = language_model("qwen2")
    found = rivals.magnitude(model)
    for number, layer in enumerate(model.model.layers):
        values = {name: weight.detach().abs().double().numpy() for name, weight in layer.named_parameters()}
        heads, neurons = naive_parts(values)
        np.testing.assert_allclose(found.heads_LH[number], heads)
        np.testing.assert_allclose(found.neurons_LF[number], neurons)
        assert found.layers_L[number] == pytest.approx(sum(value.sum() for value in values.values()))
    other = model.model.embed_tokens.weight[:, 3].abs().sum() + model.model.norm.weight[3].abs()
    for layer in model.model.layers:
        for name, weight in layer.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "layernorm.weight")):
                other = other + weight[3].abs().sum()
            elif name.endswith("proj.weight"):
                other = other + weight[:, 3].abs().sum()
    assert found.hidden_D[3] == pytest.approx(float(other.detach()), rel=1e-5)


def test_wanda_weighs_by_the_norm_of_the_input(language_model, text_batches):
    model = language_model("llama")
    found = rivals.wanda(model, text_batches)
    inputs = {}
    modules = {name: m for name, m in model.model.layers[1].named_modules() if isinstance(m, torch.nn.Linear)}
    hooks = [
        m.register_forward_pre_hook(lambda _, x, name=name: inputs.setdefault(name, []).append(x[0]))
        for name, m in modules.items()
    ]
    with torch.inference_mode():
        for batch in text_batches:
            model(batch.ids_UT)
    for hook in hooks:
        hook.remove()
    values = {}
    for name, module in modules.items():
        rows = [x[batch.real_UT] for x, batch in zip(inputs[name], text_batches, strict=True)]
        norm = torch.cat(rows).norm(dim=0)
        values[f"{name}.weight"] = (module.weight.detach().abs() * norm).double().numpy()
    heads, neurons = naive_parts(values)
    np.testing.assert_allclose(found.heads_LH[1], heads, rtol=1e-5)
    np.testing.assert_allclose(found.neurons_LF[1], neurons, rtol=1e-5)


def test_taylor_is_weight_times_gradient(language_model, text_batches):
    model = deepcopy(language_model("qwen2"))
    found = rivals.taylor(model, text_batches)
    for batch in text_batches:
        torch.nn.functional.cross_entropy(
            model(batch.ids_UT).logits[:, :-1].flatten(0, 1), batch.labels_UT[:, 1:].flatten(), reduction="sum"
        ).backward()
    layer = model.model.layers[2]
    values = {name: (w.detach() * w.grad).abs().double().numpy() for name, w in layer.named_parameters()}
    heads, neurons = naive_parts(values)
    np.testing.assert_allclose(found.heads_LH[2], heads, rtol=1e-3)
    np.testing.assert_allclose(found.neurons_LF[2], neurons, rtol=1e-3)


def test_block_influence_is_how_far_a_layer_turns(language_model, text_batches):
    model = language_model("llama")
    found = rivals.block_influence(model, text_batches)
    turned = []
    for batch in text_batches:
        with torch.inference_mode():
            states = model.model(batch.ids_UT, output_hidden_states=True).hidden_states
        for row, length in enumerate(batch.real_UT.sum(1)):
            for t in range(length):
                a, b = states[0][row, t].double(), states[1][row, t].double()
                turned.append(float(1 - a @ b / a.norm() / b.norm()))
    assert found[0] == pytest.approx(np.mean(turned), abs=1e-6)


def test_random_scores_repeat_by_seed(model):
    first, again, other = (rivals.random(model, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.heads_LH, again.heads_LH)
    assert not np.array_equal(first.hidden_D, other.hidden_D)


def test_the_best_heads_within_what_groups_allow():
    scores = np.array([5.0, 1, 1, 4, 9, 0])
    assert list(choose_heads(scores, 3, 2, "expand")) == [0, 3, 4]
    assert list(choose_heads(scores, 4, 2, "balanced")) == [0, 1, 3, 4]
    assert list(choose_heads(scores, 3, 2, "groups")) == [3, 4, 5]
    assert list(best(np.array([1.0, 2, 2, 2]), 2)) == [1, 2]
    for keep, kind, unit in ((3, "balanced", 2), (4, "groups", 3), (7, "expand", 1), (0, "expand", 1)):
        with pytest.raises(ValueError, match=f"allowed: multiples of {unit} up to 6"):
            choose_heads(scores, keep, 2, kind)


@pytest.mark.parametrize("of", ["product", "up", "attention"])
def test_shares_of_the_most_active(language_model, text_batches, of):
    model, sums = language_model("llama"), np.zeros(HEADS * WIDTH if of == "attention" else NEURONS)
    for batch in text_batches:
        seen = []
        layer = model.model.layers[1]
        if of == "up":
            hook = layer.mlp.up_proj.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
        else:
            reader = layer.mlp.down_proj if of == "product" else layer.self_attn.o_proj
            hook = reader.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        with torch.inference_mode():
            model(batch.ids_UT)
        hook.remove()
        for row, length in enumerate(batch.real_UT.sum(1)):
            sums += seen[0][row, :length].abs().double().sum(0).numpy()
    expected = np.sort(sums)[::-1].cumsum() / sums.sum()
    np.testing.assert_allclose(top_shares(model, text_batches, of)[1], expected, rtol=1e-5)
