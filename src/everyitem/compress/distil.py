"""Restores a cut model: it learns to answer as the uncut one does, and what really came next.

loss = (1 - truth) KD + truth CE, averaged over the tokens (or items) asked for. Logits stand at the position before
their token, as everywhere (the published code compares them with the token they have just read). The teacher is the
model before any cut, at every stage. A small budget asks it once: `keep_answers` stores its largest probabilities.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from everyitem.compress import DivergenceName
from everyitem.compress.calibration import Batch, target_logits
from everyitem.model import checkpoint
from everyitem.model.train import computes_in_bf16

SKEW: Final = 0.1
"""Share of the other distribution in the skewed divergences."""
SAVE_EVERY: Final = 200
"""Updates between checkpoints."""


def divergence(student_NV: Tensor, teacher_NV: Tensor, kind: DivergenceName = "forward") -> Tensor:
    """How far the student's distribution is from the teacher's, row by row.

    With p of the teacher and q of the student: "forward" KL(p || q), "reverse" KL(q || p), "js" the mean of
    KL(p || m) and KL(q || m) with m = (p + q) / 2, "skewed-forward" KL(p || .1 p + .9 q), "skewed-reverse"
    KL(q || .1 q + .9 p) (arXiv:2402.03898).

    Args:
        student_NV: log probabilities.
        teacher_NV: log probabilities; gradients do not enter.
        kind: one of the above.

    Returns:
        (N,) nats, 0 where both agree.
    """
    q, p = student_NV, teacher_NV.detach()
    if kind == "forward":
        return _kl(p, q)
    if kind == "reverse":
        return _kl(q, p)
    if kind == "js":
        middle = _mix(p, q, 0.5)
        return (_kl(p, middle) + _kl(q, middle)) / 2
    if kind == "skewed-forward":
        return _kl(p, _mix(p, q, SKEW))
    if kind == "skewed-reverse":
        return _kl(q, _mix(q, p, SKEW))
    raise ValueError(f"got divergence {kind!r}; allowed: forward, reverse, js, skewed-forward, skewed-reverse")


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row; a term of probability 0 is 0, whatever q says."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)


def _mix(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """Log of share p + (1 - share) q."""
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


class Answers(NamedTuple):
    """What a teacher says at N tokens: its K likeliest and, in one class, all others together."""

    tokens_NK: NDArray[np.int32]
    log_p_NC: NDArray[np.float32]
    """(N, K + 1): the last column is the log of what the K leave over."""


def answers_of(log_p_NV: Tensor, k: int) -> Answers:
    """The K likeliest of every row, likeliest first, and the rest in one class."""
    top = log_p_NV.topk(min(k, log_p_NV.shape[1]), dim=1)
    rest_N1 = torch.log1p(-top.values.double().exp().sum(1, keepdim=True).clamp(max=1 - 1e-12)).float()
    return Answers(top.indices.int().cpu().numpy(), torch.cat([top.values, rest_N1], 1).cpu().numpy())


def seen_through(log_q_NV: Tensor, tokens_NK: Tensor) -> Tensor:
    """A student's log probabilities in the classes of `Answers`: (N, K + 1).

    Classes can only lose information: a divergence between them never exceeds the one between all tokens.
    """
    found_NK = log_q_NV.gather(1, tokens_NK.long())
    others_NV = log_q_NV.scatter(1, tokens_NK.long(), -torch.inf)
    rest_N1 = others_NV.logsumexp(1, keepdim=True).clamp(min=-80.0)  # no token may be left; its gradient then is 0
    return torch.cat([found_NK, rest_N1], 1)


def keep_answers(
    teacher: PreTrainedModel,
    batches: Sequence[Batch],
    folder: Path,
    *,
    k: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Ask the teacher once about every batch and keep its `k` likeliest tokens on disk.

    Files `<number>.npz`, complete or not there, so that an interrupted run goes on where it was; `answers.json` says
    what they answer, and other batches or another k are refused.

    Cost: a forward pass of the teacher; (8 k + 4) bytes per token asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about, path = {"k": k, "batches": len(batches), "tokens": _fingerprint(batches)}, folder / "answers.json"
    if path.is_file() and json.loads(path.read_text()) != about:
        raise ValueError(f"{folder}: holds a teacher's answers about other text; delete it or choose another folder")
    path.write_text(json.dumps(about))
    teacher.train(False)
    with torch.inference_mode():
        for number, batch in enumerate(batches):
            target = folder / f"{number:06}.npz"
            if not target.is_file():
                log_p_NV = torch.log_softmax(target_logits(teacher, batch.to(teacher.device)), -1)
                temporary = folder / "new.npz"
                np.savez(temporary, **answers_of(log_p_NV, k)._asdict())
                temporary.replace(target)
            if progress:
                progress(number + 1, len(batches))


def read_answers(folder: Path, number: int) -> Answers:
    """What the teacher said about one batch."""
    with np.load(folder / f"{number:06}.npz", allow_pickle=False) as stored:
        return Answers(**stored)


def _fingerprint(batches: Sequence[Batch]) -> list[int]:
    """Tokens, tokens asked for, and a sum that depends on where which token stands."""
    count = sum(int(batch.real_UT.sum()) for batch in batches)
    asked = sum(int(batch.asked.sum()) for batch in batches)
    weighed = sum(
        int((batch.targets_N * torch.arange(1, len(batch.targets_N) + 1)).sum()) * (number + 1)
        for number, batch in enumerate(batches)
    )
    return [count, asked, weighed % (1 << 53)]


class TextLoss:
    """What a cut language model is restored with: a batch's number in, its mean loss out.

    Args:
        student: the cut model.
        batches: rows of text.
        teacher: the model before any cut, or the folder of `keep_answers` about the very same batches.
        kind: of the divergence.
        truth: weight of the cross-entropy with what came next; the published runs have .2.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        batches: Sequence[Batch],
        teacher: PreTrainedModel | Path,
        *,
        kind: DivergenceName = "forward",
        truth: float = 0.2,
    ) -> None:
        if not 0 <= truth <= 1:
            raise ValueError(f"truth is {truth}; allowed: 0 (the teacher alone) to 1 (what came next alone)")
        self.student, self.batches, self.teacher, self.kind, self.truth = student, batches, teacher, kind, truth

    def __call__(self, number: int) -> Tensor:
        """The mean loss over the tokens asked for in one batch."""
        batch = self.batches[number].to(self.student.device)
        log_q_NV = torch.log_softmax(target_logits(self.student, batch), -1)
        told_N = F.nll_loss(log_q_NV, batch.targets_N, reduction="none")
        if self.truth == 1:
            return told_N.mean()
        if isinstance(self.teacher, Path):
            answers = read_answers(self.teacher, number)
            tokens_NK = torch.from_numpy(answers.tokens_NK).to(log_q_NV.device)
            taught_N = divergence(
                seen_through(log_q_NV, tokens_NK), torch.from_numpy(answers.log_p_NC).to(log_q_NV.device), self.kind
            )
        else:
            with torch.no_grad():
                log_p_NV = torch.log_softmax(target_logits(self.teacher, batch), -1)
            taught_N = divergence(log_q_NV, log_p_NV, self.kind)
        return ((1 - self.truth) * taught_N + self.truth * told_N).mean()


@dataclass
class Restored:
    """How far a restoration has come; stored in every checkpoint."""

    update: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    """Mean over the updates since the last checkpoint."""


def restore(
    student: nn.Module,
    loss_of: Callable[[int], Tensor],
    num_batches: int,
    folder: Path,
    *,
    epochs: float = 3.0,
    minutes: float | None = None,
    learning_rate: float = 3e-4,
    seed: int = 0,
    show: bool = True,
) -> Restored:
    """Train a cut model, all its weights, on a loss; goes on from the checkpoint in `folder` where there is one.

    AdamW with weight decay .01, gradients clipped to 1, a warm-up over the first 2 % of the updates (at most 20, the
    published number) and a cosine down to a tenth of the learning rate, by updates done or time spent, whichever is
    further. Batch order is a function of (seed, epoch): without `minutes` a run that was killed ends as one that was
    not. Computes in bf16 where that is fast, as training does.

    Args:
        student: the cut model; trained in place, left in evaluation mode.
        loss_of: a batch's number to its mean loss, such as `TextLoss`.
        num_batches: batches there are.
        folder: of the checkpoint.
        epochs: passes over the batches, at most.
        minutes: of training, at most.
        learning_rate: at its highest.
        seed: of the order.
        show: a progress bar.

    Raises:
        FloatingPointError: the loss is no longer finite.
        ValueError: the checkpoint is of another model.

    Cost: a forward and a backward pass per batch, and one of the teacher if it is asked each time.
    """
    total = max(1, round(epochs * num_batches))
    accelerator = Accelerator(mixed_precision="bf16" if computes_in_bf16() else "no")
    torch.manual_seed(seed)
    optimiser = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=0.01)
    student.to(accelerator.device)
    state = Restored(**(checkpoint.load(folder, student, optimiser) or {}))
    student.train()
    started, losses = time.perf_counter() - state.seconds, list[float]()
    with _bar(show) as bar:
        task = bar.add_task("restoring", total=1.0, numbers="")
        while (done := _share_done(state, total, minutes)) < 1:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * _rate(state.update, total, done)
            with accelerator.autocast():
                loss = loss_of(_batch(state.update, num_batches, seed))
            losses.append(_step(accelerator, student, optimiser, loss))
            state.update, state.seconds = state.update + 1, time.perf_counter() - started
            done = _share_done(state, total, minutes)
            bar.update(task, completed=done, numbers=f"update {state.update:,}  loss {np.mean(losses[-50:]):.3f}")
            if state.update % SAVE_EVERY == 0 or done >= 1:
                state.loss = float(np.mean(losses))
                losses.clear()
                checkpoint.save(folder, student, optimiser, asdict(state))
    student.eval()
    return state


def _share_done(state: Restored, total: int, minutes: float | None) -> float:
    by_time = 0.0 if minutes is None else state.seconds / (minutes * 60)
    return max(state.update / total, by_time)


def _rate(update: int, total: int, done: float) -> float:
    warm = max(1, min(20, round(0.02 * total)))
    return min(1.0, (update + 1) / warm) * (0.55 + 0.45 * math.cos(math.pi * min(done, 1.0)))


def _batch(update: int, num_batches: int, seed: int) -> int:
    epoch, place = divmod(update, num_batches)
    return int(np.random.default_rng([seed, epoch]).permutation(num_batches)[place])


def _step(accelerator: Accelerator, student: nn.Module, optimiser: Any, loss: Tensor) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss became {value}; lower the learning rate")
    optimiser.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimiser.step()
    return value


def _bar(show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[numbers]}"), disable=not show, refresh_per_second=2)
