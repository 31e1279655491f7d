import numpy as np
import pytest
import torch

from everyitem.data.batches import Batches, windows
from everyitem.learn.folder import build_index
from everyitem.model.encode import Encoder
from everyitem.model.export import export_onnx
from everyitem.model.items import DenseItems, PQItems
from everyitem.model.llm import LLM, save_language_model, small_language_model
from everyitem.model.loss import full_softmax, two_level_softmax
from everyitem.model.projection import Projection
from everyitem.model.train import Objective, train
from everyitem.model.two_level import TwoLevelItems
from everyitem.types import Histories

KINDS = ("qwen2", "qwen3", "llama", "gemma3")
PROMPT, LENGTH, D, NUM_ITEMS = "So far: {item}, ", 9, 16, 12


@pytest.fixture
def backbone(language_model, tokenizer):
    def make(kind="qwen2", **settings):
        settings = {"length": LENGTH, "prompt": PROMPT} | settings
        return LLM(language_model(kind), tokenizer, **settings).eval()

    return make


def vectors(rows=3, length=LENGTH, dim=D):
    return torch.randn(rows, length, dim, generator=torch.Generator().manual_seed(0)) * 0.3


def real(lengths, width=LENGTH):
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def close(ours, expected, atol=1e-5):
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_items_stand_between_the_words_of_the_prompt(kind, backbone, tokenizer):
    """Oracle: items that look like words, read by the language model itself as text."""
    model = backbone(kind)
    words = torch.tensor([[40, 7, 99, 40]])
    before, after = (tokenizer(text)["input_ids"] for text in PROMPT.split("{item}"))
    text = torch.tensor([before + [token for word in words[0].tolist() for token in (word, *after)]])
    expected = model.model.get_decoder()(text).last_hidden_state
    x = model.model.get_input_embeddings()(words)
    found = model(x, torch.ones(1, 4).bool())
    close(found, expected[:, len(before) + len(after) :: 1 + len(after)])
    close(model.last(x), expected[:, -1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pack", [None, 1, 70])
def test_a_row_depends_neither_on_padding_nor_on_its_batch_nor_on_packing(kind, pack, backbone):
    model, x, lengths = backbone(kind, pack=pack), vectors(5), [9, 1, 4, 8, 2]
    together = model(x, real(lengths))
    for row, length in enumerate(lengths):
        for newest in range(1, length + 1):
            close(together[row, newest - 1], model.last(x[row : row + 1, :newest])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_short_rows_are_trained_with_another_attention_that_says_the_same(kind, backbone, monkeypatch):
    monkeypatch.setattr("everyitem.model.llm.computes_in_bf16", lambda: True)
    model, x, lengths = backbone(kind), vectors(), real([2, LENGTH, 5])
    expected = model(x, lengths)
    found = model.train()(x, lengths)
    assert model.model.config._attn_implementation == "eager"
    close(found[lengths], expected[lengths])
    monkeypatch.setattr("everyitem.model.llm.PLAIN_UP_TO", 8)
    close(model(x, lengths)[lengths], expected[lengths])
    assert model.model.config._attn_implementation == "sdpa"


def test_packing_computes_fewer_tokens(backbone):
    seen, x, lengths = [], vectors(5), [9, 1, 4, 8, 2]
    for pack in (None, 70):
        model = backbone(pack=pack, prompt="{item}")
        model._hidden = lambda tokens, positions=None, inner=model._hidden: (
            seen.append(tokens.shape[:2]) or inner(tokens, positions)
        )
        model(x, real(lengths))
    assert seen == [(5, 9), (1, 70)]


def test_gradient_checkpointing_changes_no_gradient(backbone):
    gradients = []
    for checkpointing in (False, True):
        model = backbone(gradient_checkpointing=checkpointing).train()
        model(vectors(), real([9, 3, 5])).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 10
    for ours, theirs in zip(*gradients, strict=True):
        close(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "no item"}, "names {item} 0 times; allowed: once"),
        ({"prompt": "{item} and {item}"}, "names {item} 2 times; allowed: once"),
        ({"length": 30}, "30 items and their prompt are 98 tokens, and the language model takes 64"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(settings, message, backbone, language_model):
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        backbone(**settings)
    with pytest.raises(ValueError, match="has words, and this language model comes without a tokenizer"):
        LLM(language_model(), None, prompt=PROMPT)


def test_the_exported_encoder_is_the_torch_one(backbone, tmp_path):
    model = backbone("gemma3")  # whose layers look back differently far; an export takes seconds
    assert export_onnx(model, tmp_path / "encoder.onnx") <= 1e-5
    encoder = Encoder(tmp_path / "encoder.onnx", LENGTH)
    for rows, length in ((1, 1), (3, 2), (2, LENGTH)):
        x = vectors(rows, length)
        with torch.inference_mode():
            close(torch.from_numpy(encoder(x.numpy())), model.last(x))


def circles():
    """Every user walks around a circle of items: what comes next is certain."""
    rng = np.random.default_rng(0)
    return Histories.from_lists(
        [(rng.integers(NUM_ITEMS) + np.arange(rng.integers(3, 15))) % NUM_ITEMS for _ in range(60)]
    )


def objective_of(network, items="dense"):
    torch.manual_seed(0)
    codes_IM = np.stack([np.arange(NUM_ITEMS) % 4, np.arange(NUM_ITEMS) // 4], 1).astype(np.uint8)
    projection = Projection(8, network.dim)
    table, loss = {
        "dense": (DenseItems(NUM_ITEMS, 8, projection=projection), full_softmax),
        "two-level": (TwoLevelItems(codes_IM[:, 1], 8, projection=projection), two_level_softmax),
        "pq": (PQItems(codes_IM, network.dim), full_softmax),
    }[items]
    return Objective(network, table, loss).train()


def hits(objective):
    """Share of items after which the next one on the circle comes first."""
    ids = (torch.arange(NUM_ITEMS)[:, None] + torch.arange(3)) % NUM_ITEMS
    query = objective.backbone.last(objective.items(ids)).detach().numpy()
    best = torch.from_numpy(build_index(objective.items).top_k(query, 1).items[:, 0])
    return float((best == (ids[:, -1] + 1) % NUM_ITEMS).float().mean())


def run(objective, folder, **settings):
    batches = Batches(windows(circles(), LENGTH), positions=120, seed=4)
    fixed = {"num_negatives": 1, "learning_rate": 0.01, "patience": 100, "seed": 0, "show": False}
    fixed |= {"validate": lambda: hits(objective), "validate_every": 10, "epochs": 12}
    return train(objective, batches, folder, **fixed | settings)


@pytest.mark.parametrize(("items", "pack"), [("dense", None), ("pq", 40), ("two-level", None)])
def test_what_can_be_learned_is_learned(items, pack, tmp_path):
    objective = objective_of(LLM(small_language_model(32, 1), length=LENGTH, pack=pack), items)
    assert hits(objective) < 0.5
    run(objective, tmp_path)
    assert hits(objective) == 1


def test_low_rank_updates_are_all_that_is_trained_in_the_language_model(backbone, tmp_path):
    objective = objective_of(backbone(lora_rank=4))
    before = {name: value.clone() for name, value in objective.named_parameters()}
    run(objective, tmp_path, epochs=2)
    changed = {name for name, value in objective.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name or name.startswith("items.")}
    assert sum("lora_" in name for name in changed) == 2 * 2 * 7  # A and B of every linear layer
    merged, x = objective.backbone, vectors()
    expected = merged.last(x)
    merged.save(tmp_path / "language_model")
    close(merged.last(x), expected)
    again = backbone(lora_rank=4)
    again.restore(tmp_path / "language_model")
    close(again.last(x), expected)


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_a_resumed_run_ends_with_the_same_bits(lora_rank, backbone, tmp_path):
    states = []
    for folder, parts in (("whole", (4,)), ("parts", (2, 4))):
        for epochs in parts:
            objective = objective_of(backbone("llama", lora_rank=lora_rank, dropout=0.2))
            run(objective, tmp_path / folder, epochs=epochs, validate_every=3, resume=True)
        states.append((tmp_path / folder / "last" / "state.safetensors").read_bytes())
    assert states[0] == states[1]


def test_a_saved_backbone_is_a_language_model(backbone, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    model = backbone("gemma3")
    model.save(tmp_path)
    ids = torch.arange(6)[None]
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(ids).logits, model.model(ids).logits)
    save_language_model(tmp_path / "bare", again, None)
    assert not (tmp_path / "bare" / "tokenizer.json").exists()
