import json
import math

import numpy as np
import pytest
import torch

from everyitem.compress.calibration import batch_of, mean_loss, target_logits
from everyitem.compress.cut import cut
from everyitem.compress.distil import (
    TextLoss,
    answers_of,
    divergence,
    keep_answers,
    read_answers,
    restore,
    seen_through,
)
from everyitem.compress.plan import keep_everything, with_layers

KINDS = ("forward", "reverse", "js", "skewed-forward", "skewed-reverse")


def naive_divergence(q, p, kind):
    """Sums over classes, one term at a time."""

    def kl(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    def mix(a, b, share):
        return [share * x + (1 - share) * y for x, y in zip(a, b, strict=True)]

    if kind == "forward":
        return kl(p, q)
    if kind == "reverse":
        return kl(q, p)
    if kind == "js":
        return (kl(p, mix(p, q, 0.5)) + kl(q, mix(p, q, 0.5))) / 2
    return kl(p, mix(p, q, 0.1)) if kind == "skewed-forward" else kl(q, mix(q, p, 0.1))


@pytest.mark.parametrize("kind", KINDS)
def test_divergences_are_the_textbook_sums(kind):
    rng = np.random.default_rng(0)
    q_NV, p_NV = rng.dirichlet(np.ones(9), 6), rng.dirichlet(np.full(9, 0.3), 6)
    found = divergence(torch.log(torch.tensor(q_NV)), torch.log(torch.tensor(p_NV)), kind)
    expected = [naive_divergence(q, p, kind) for q, p in zip(q_NV, p_NV, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (found > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_divergence_from_oneself_and_no_gradient_to_the_teacher(kind):
    p = torch.log_softmax(torch.randn(3, 5, dtype=torch.float64), -1).requires_grad_()
    q = p.detach().clone().requires_grad_()
    value = divergence(q, p, kind)
    np.testing.assert_allclose(value.detach(), 0, atol=1e-12)
    value.sum().backward()
    assert p.grad is None


def test_an_impossible_class_of_the_teacher_adds_nothing():
    p = torch.log(torch.tensor([[0.5, 0.5, 0.0]]))
    q = torch.log_softmax(torch.zeros(1, 3), -1).requires_grad_()
    value = divergence(q, p, "forward")
    assert float(value.detach()) == pytest.approx(math.log(1.5))
    value.sum().backward()
    assert torch.isfinite(q.grad).all()


def test_an_unknown_divergence_is_refused():
    with pytest.raises(ValueError, match="got divergence 'kl'; allowed: forward, reverse, js"):
        divergence(torch.zeros(1, 2), torch.zeros(1, 2), "kl")


def shifted_by_hand(student, teacher, batch, truth, kind):
    """The loss written out position by position in NumPy: logits at t, label at t + 1."""
    with torch.inference_mode():
        q_UTV, p_UTV = (torch.softmax(m(batch.ids_UT).logits.double(), -1).numpy() for m in (student, teacher))
    terms = []
    for row in range(len(batch.ids_UT)):
        for t in range(batch.ids_UT.shape[1] - 1):
            label = int(batch.labels_UT[row, t + 1])
            if label == -100:
                continue
            q, p = q_UTV[row, t], p_UTV[row, t]
            terms.append((1 - truth) * naive_divergence(q, p, kind) - truth * math.log(q[label]))
    return np.mean(terms)


@pytest.mark.parametrize("truth", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_shifted_and_masked(language_model, text_batches, kind, truth):
    student, teacher = language_model("qwen2", seed=3), language_model("qwen2")
    loss = TextLoss(student, text_batches, teacher, kind=kind, truth=truth)
    for number, batch in enumerate(text_batches):
        expected = shifted_by_hand(student, teacher, batch, truth, kind)
        assert float(loss(number)) == pytest.approx(expected, rel=1e-4)


def test_the_last_prompt_position_counts_and_what_follows_the_end_does_not(language_model):
    """One token asked for: only the logits before it matter, so a change at or after it leaves the loss alone."""
    student, teacher = language_model("qwen2", seed=3), language_model("qwen2")
    ids = torch.tensor([5, 6, 7, 8, 9])
    labels = torch.tensor([-100, -100, -100, 8, -100])
    other = torch.tensor([5, 6, 7, 8, 30])
    before = torch.tensor([5, 6, 31, 8, 9])

    def loss(row):
        return float(TextLoss(student, [batch_of([(row, labels)], padding=0)], teacher)(0))

    assert loss(ids) == pytest.approx(loss(other), rel=1e-6)
    assert abs(loss(ids) - loss(before)) > 1e-3


def test_answers_hold_the_likeliest_and_the_rest():
    log_p = torch.log_softmax(torch.randn(4, 12, dtype=torch.float64), -1).float()
    found = answers_of(log_p, 5)
    p = log_p.exp().numpy()
    for row in range(4):
        order = np.argsort(-p[row])[:5]
        assert list(found.tokens_NK[row]) == list(order)
        np.testing.assert_allclose(np.exp(found.log_p_NC[row]), [*p[row][order], 1 - p[row][order].sum()], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_lose_information_only(kind):
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.log_softmax(torch.randn(50, 20, generator=generator), -1) for _ in range(2))
    answers = answers_of(p, 6)
    seen = seen_through(q, torch.from_numpy(answers.tokens_NK))
    np.testing.assert_allclose(seen.exp().sum(1), 1, atol=1e-5)
    coarse, fine = divergence(seen, torch.from_numpy(answers.log_p_NC), kind), divergence(q, p, kind)
    assert (coarse <= fine + 1e-5).all()
    assert (coarse > 0).all()


def test_stored_answers_teach_as_the_teacher_does(language_model, text_batches, tmp_path):
    student, teacher = language_model("qwen2", seed=3), language_model("qwen2")
    keep_answers(teacher, text_batches, tmp_path, k=60)
    for number in range(2):
        asked = TextLoss(student, text_batches, teacher)(number)
        stored = TextLoss(student, text_batches, tmp_path)(number)
        assert float(stored) == pytest.approx(float(asked), rel=1e-3)
    few = tmp_path / "few"
    keep_answers(teacher, text_batches, few, k=8)
    assert read_answers(few, 0).log_p_NC.shape == (len(text_batches[0].targets_N), 9)
    loss = TextLoss(student, text_batches, few)(0)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters())


def test_answers_about_other_text_are_refused(language_model, text_batches, tmp_path):
    teacher = language_model("qwen2")
    keep_answers(teacher, text_batches, tmp_path, k=4)
    with pytest.raises(ValueError, match="a teacher's answers about other text"):
        keep_answers(teacher, text_batches[::-1], tmp_path, k=4)


def test_an_interrupted_teacher_goes_on(language_model, text_batches, tmp_path):
    teacher = language_model("qwen2")
    keep_answers(teacher, text_batches, tmp_path, k=4)
    (tmp_path / "000001.npz").unlink()
    kept = (tmp_path / "000000.npz").stat().st_mtime_ns
    asked = []
    keep_answers(teacher, text_batches, tmp_path, k=4, progress=lambda done, total: asked.append((done, total)))
    assert asked == [(1, 2), (2, 2)]
    assert (tmp_path / "000000.npz").stat().st_mtime_ns == kept
    assert read_answers(tmp_path, 1).tokens_NK.shape[1] == 4


def dropped(model):
    return cut(model, with_layers(keep_everything(model.config), np.array([1.0, 0, 1]), 1))


def test_restoring_brings_the_loss_back(language_model, text_batches, tmp_path):
    teacher = language_model("qwen2")
    student = dropped(teacher)
    before = float(TextLoss(student, text_batches, teacher, truth=0.0)(0))
    state = restore(
        student,
        TextLoss(student, text_batches, teacher, truth=0.0),
        2,
        tmp_path / "run",
        epochs=40,
        learning_rate=3e-3,
        show=False,
    )
    assert state.update == 80
    assert float(TextLoss(student, text_batches, teacher, truth=0.0)(0)) < 0.2 * before
    assert not student.training


def test_a_killed_restoration_ends_as_one_that_was_not(language_model, text_batches, tmp_path, monkeypatch):
    from everyitem.compress import distil

    monkeypatch.setattr(distil, "SAVE_EVERY", 3)
    teacher = language_model("qwen2")

    def run(folder, loss_of=None, student=None):
        student = dropped(teacher)
        loss = TextLoss(student, text_batches, teacher)
        restore(student, (loss_of or (lambda loss: loss))(loss), 2, folder, epochs=4, show=False)
        return student

    def dies(loss):
        calls = iter(range(100))

        def once(number):
            if next(calls) == 5:
                raise KeyboardInterrupt
            return loss(number)

        return once

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", dies)
    assert json.loads((tmp_path / "killed" / "counters.json").read_text())["update"] == 3
    again = run(tmp_path / "killed")
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_loss_that_is_not_finite_stops_the_run(language_model, text_batches, tmp_path):
    student = dropped(language_model("qwen2"))
    with pytest.raises(FloatingPointError, match="the loss became nan; lower the learning rate"):
        restore(student, lambda number: next(student.parameters()).sum() * math.nan, 2, tmp_path / "run", show=False)


def test_truth_is_a_share(language_model, text_batches):
    model = language_model("qwen2")
    with pytest.raises(ValueError, match=r"truth is 1.5; allowed: 0 .* to 1"):
        TextLoss(model, text_batches, model, truth=1.5)


def test_perplexity_is_of_the_tokens_asked_for(language_model, text_batches):
    model = language_model("qwen2")
    with torch.inference_mode():
        rows = [
            torch.nn.functional.cross_entropy(target_logits(model, b), b.targets_N, reduction="none")
            for b in text_batches
        ]
    assert mean_loss(model, text_batches) == pytest.approx(float(torch.cat(rows).mean()), rel=1e-5)
    nothing = text_batches[0]._replace(labels_UT=torch.full_like(text_batches[0].labels_UT, -100))
    with pytest.raises(ValueError, match="no token is asked for"):
        mean_loss(model, [nothing])
