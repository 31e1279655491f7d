"""The training loop. Takes any source of batches and any validation function; knows no file of the catalogue.

Batches, masks and negatives are pure functions of (seed, epoch, step); dropout uses torch's generator, which the
checkpoint stores. So a run that was killed and resumed on a CPU ends with the same bits as one that was not.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter
from torch import Tensor, nn

from everyitem.model import checkpoint
from everyitem.model.items import Items
from everyitem.model.ranks import agreed, ranks, reseed, several_on_cpu, share_of
from everyitem.model.transformer import Backbone, GBERT4Rec

MASKED_SHARE = 0.2
"""Of the events of a row, for masked training (RecJPQ's code; BERT4Rec's paper tunes it per data set)."""

Loss = Callable[[Items, Tensor, Tensor, Tensor, Tensor], Tensor]


class EpochBatches(Protocol):
    """Where batches come from: `data.batches.Batches` is one."""

    def epoch(self, number: int, *, start: int = 0) -> Iterator[NDArray[np.int32]]:
        """Batches (U, T) of positions padded with -1 on the right, from step `start` on; the same at every call."""
        ...


class Objective(nn.Module):
    """One batch of positions in, one loss out: what training differentiates."""

    def __init__(self, backbone: Backbone, items: Items, loss: Loss) -> None:
        super().__init__()
        self.backbone, self.items, self.loss = backbone, items, loss

    def forward(self, ids_UT: Tensor, negatives: Tensor, masked_UT: Tensor | None) -> Tensor:
        """`masked_UT` marks the events to predict from both sides; None predicts every event from those before it."""
        vectors_UTD = self.items(ids_UT.clamp(min=0))
        if masked_UT is None:
            asked, targets = ids_UT[:, 1:] >= 0, ids_UT[:, 1:]
            hidden = self.backbone(vectors_UTD[:, :-1], asked)
        else:
            assert isinstance(self.backbone, GBERT4Rec)
            asked, targets = masked_UT, ids_UT
            x_UTD = torch.where(masked_UT[..., None], self.backbone.mask_vector, vectors_UTD)
            hidden = self.backbone(x_UTD, ids_UT >= 0)
        hidden_ND, targets_N = hidden[asked], targets[asked].long()
        row_NT = ids_UT.repeat_interleave(asked.sum(1), dim=0)
        other_NT = _distinct(ids_UT).repeat_interleave(asked.sum(1), dim=0) & (row_NT != targets_N[:, None])
        own_NT = (hidden @ vectors_UTD.transpose(1, 2))[asked].masked_fill(~other_NT, -torch.inf)
        return self.loss(self.items, hidden_ND, targets_N, negatives, own_NT)


def _distinct(ids_UT: Tensor) -> Tensor:
    """(U, T) bool: the first occurrence of every item in its row, padding left out."""
    same = ids_UT[:, :, None] == ids_UT[:, None, :]
    return (ids_UT >= 0) & ~same.tril(-1).any(2)


@dataclass
class Progressed:
    """Counters of a run, and the precision it computes in; they are stored in every checkpoint."""

    precision: str  # "bf16" or "float32"
    epoch: int = 0
    step: int = 0  # inside the epoch
    updates: int = 0
    positions: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    best_update: int = 0
    stale: int = 0  # validations since the best one


def train(
    objective: Objective,
    batches: EpochBatches,
    folder: Path,
    *,
    validate: Callable[[], float],
    num_negatives: int,
    negatives_per_position: bool = False,
    learning_rate: float,
    epochs: int,
    minutes: float | None = None,
    validate_every: int,
    patience: int,
    seed: int,
    resume: bool = False,
    show: bool = True,
) -> Progressed:
    """Train until validation stops improving, or time or epochs run out; leaves the best weights in `objective`.

    Adam (lr as published), bf16 where the device computes in it, one checkpoint per validation, metrics as JSON lines
    (`log.jsonl`) and TensorBoard files in `folder`. Started by `torchrun` in several processes, they divide every batch
    (`ranks.py`) and need the same `folder`.

    Args:
        objective: backbone, items and loss.
        batches: see `EpochBatches`.
        folder: checkpoints and logs; created.
        validate: a score of the present weights, higher is better (NDCG@10).
        num_negatives: K uniform negatives.
        negatives_per_position: draw K for every position instead of K for the batch.
        learning_rate: of Adam.
        epochs: at most so many passes.
        minutes: at most so much training time, earlier parts of a resumed run included.
        validate_every: updates between validations.
        patience: validations without improvement after which training stops.
        seed: of batches, negatives and dropout.
        resume: go on from the checkpoint in `folder`, where there is one.
        show: a progress bar.

    Raises:
        ValueError: the checkpoint to resume from is damaged, of another model, or of a run in another precision.
        FloatingPointError: the loss is no longer finite.

    Cost: one forward and backward pass per position and epoch. Memory: parameters x 4, plus one batch.
    """
    first = ranks().is_main_process
    precision = "bf16" if computes_in_bf16() else "float32"
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=several_on_cpu())
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(objective.parameters(), lr=learning_rate, fused=True)
    objective, optimiser = accelerator.prepare(objective, optimiser)
    plain = accelerator.unwrap_model(objective)
    folder.mkdir(parents=True, exist_ok=True)
    state = Progressed(precision)
    if resume and (counters := checkpoint.load(folder / "last", plain, optimiser)) is not None:
        state = _resumed(counters, precision, folder)
    reseed(seed, state.updates)

    with ExitStack() as stack:
        log = stack.enter_context((folder / "log.jsonl" if first else Path(os.devnull)).open("a" if resume else "w"))
        board = stack.enter_context(SummaryWriter(str(folder), write_to_disk=first))
        bar = stack.enter_context(_progress(show and first))
        task = bar.add_task("training", total=minutes * 60 if minutes else None, numbers="")
        started = time.perf_counter() - state.seconds
        losses: list[float] = []
        while state.epoch < epochs and state.stale < patience and not _over(state, minutes):
            for ids in batches.epoch(state.epoch, start=state.step):
                loss = _update(
                    accelerator, objective, optimiser, ids, num_negatives, negatives_per_position, seed, state
                )
                losses.append(loss)
                state.seconds = agreed(time.perf_counter() - started)
                bar.update(
                    task, completed=min(state.seconds, (minutes or math.inf) * 60), numbers=_numbers(state, losses)
                )
                if state.updates % validate_every == 0 or _over(state, minutes):
                    _validate(plain, validate, folder, state, optimiser, losses, log, board)
                    reseed(seed, state.updates)
                    if state.stale >= patience or _over(state, minutes):
                        break
            else:
                state.epoch, state.step = state.epoch + 1, 0
        if losses:  # updates that no validation has seen
            _validate(plain, validate, folder, state, optimiser, losses, log, board)
    ranks().wait_for_everyone()  # the best weights are there when rank 0 says so
    _keep_best(folder, plain, optimiser)
    return state


def _resumed(counters: dict[str, Any], precision: str, folder: Path) -> Progressed:
    if counters.get("precision") != precision:
        raise ValueError(
            f"{folder}: this run computed in {counters.get('precision')} so far, and this machine computes in "
            f"{precision}; resume it on a machine of the first kind, or train anew"
        )
    return Progressed(**counters)


def computes_in_bf16() -> bool:
    """Whether bf16 is faster here than float32: on such CPUs by 1.7 (docs/log.md), elsewhere it is emulated."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _update(
    accelerator: Accelerator,
    objective: nn.Module,
    optimiser: Any,
    ids: NDArray[np.int32],
    num_negatives: int,
    per_position: bool,
    seed: int,
    state: Progressed,
) -> float:
    """One optimiser step; advances the counters and returns the loss."""
    plain: Objective = accelerator.unwrap_model(objective)
    rng = np.random.default_rng([seed, state.epoch, state.step, 1])
    masked = _mask(ids, rng) if plain.backbone.objective == "masked" else None
    asked = int(masked.sum()) if masked is not None else int((ids[:, 1:] >= 0).sum())
    shape = (asked, num_negatives) if per_position else (num_negatives,)
    negatives = rng.integers(0, plain.items.num_items, shape, dtype=np.int32)
    ids, negatives, masked, weight = share_of(
        ids, negatives, masked, accelerator.process_index, accelerator.num_processes
    )
    device = accelerator.device
    with accelerator.autocast():
        loss = objective(*(None if a is None else torch.from_numpy(a).to(device) for a in (ids, negatives, masked)))
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss became {value} at update {state.updates}; lower the learning rate")
    optimiser.zero_grad(set_to_none=True)
    accelerator.backward(loss * weight)
    optimiser.step()
    state.step += 1
    state.updates += 1
    state.positions += asked
    return value


def _mask(ids: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Events to hide: each with the same chance, at least one per row."""
    real = ids >= 0
    draw = np.where(real, rng.random(ids.shape), 2.0)
    hidden: NDArray[np.bool_] = (draw < MASKED_SHARE) | (real & (draw == draw.min(axis=1, keepdims=True)))
    return hidden


def _validate(
    plain: Objective,
    validate: Callable[[], float],
    folder: Path,
    state: Progressed,
    optimiser: Any,
    losses: list[float],
    log: Any,
    board: SummaryWriter,
) -> None:
    first = ranks().is_main_process
    plain.eval()
    with torch.inference_mode():
        score = agreed(validate() if first else 0.0)
    plain.train()
    improved = score > state.best
    if improved:
        state.best, state.best_update, state.stale = score, state.updates, 0
    else:
        state.stale += 1
    line = asdict(state) | {"loss": float(np.mean(losses)), "ndcg@10": score, "positions_per_second": _speed(state)}
    losses.clear()
    log.write(json.dumps(line) + "\n")
    log.flush()
    for name in ("loss", "ndcg@10", "positions_per_second"):
        board.add_scalar(name, line[name], state.updates)
    if not first:
        return
    if improved:  # before "last": a run that resumes from there relies on the best weights being stored
        checkpoint.save(folder / "best", plain, optimiser, asdict(state))
    checkpoint.save(folder / "last", plain, optimiser, asdict(state))


def _keep_best(folder: Path, plain: Objective, optimiser: Any) -> None:
    if checkpoint.load(folder / "best", plain, optimiser) is None:
        raise ValueError("no validation took place: give at least one epoch")
    plain.eval()


def _over(state: Progressed, minutes: float | None) -> bool:
    return minutes is not None and state.seconds >= minutes * 60


def _speed(state: Progressed) -> float:
    return state.positions / max(state.seconds, 1e-9)


def _numbers(state: Progressed, losses: list[float]) -> str:
    best = f"best NDCG@10 {state.best:.4f}" if state.best_update else ""
    return f"epoch {state.epoch + 1}  loss {np.mean(losses[-50:]):.3f}  {_speed(state):,.0f} positions/s  {best}"


def _progress(show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[numbers]}"), disable=not show, refresh_per_second=2)
