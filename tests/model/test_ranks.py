import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from everyitem.data.batches import Batches, windows
from everyitem.model import train as training
from everyitem.model.items import DenseItems
from everyitem.model.loss import gbce, sampled_softmax
from everyitem.model.ranks import share_of
from everyitem.model.train import Objective
from everyitem.model.transformer import GBERT4Rec, SASRec
from everyitem.types import Histories

NUM_ITEMS = 12


def objective_of(backbone, loss):
    torch.manual_seed(0)
    return Objective(backbone(16, blocks=1, heads=2, length=6, dropout=0.0), DenseItems(NUM_ITEMS, 16), loss)


def gradients(objective, ids, negatives, masked, weight):
    objective.zero_grad()
    (objective(*(None if a is None else torch.from_numpy(a) for a in (ids, negatives, masked))) * weight).backward()
    return [parameter.grad.clone() for parameter in objective.parameters()]


@pytest.mark.parametrize(("backbone", "loss"), [(SASRec, sampled_softmax), (GBERT4Rec, gbce), (SASRec, gbce)])
@pytest.mark.parametrize("num_ranks", [2, 3, 7])
def test_the_mean_of_the_ranks_gradients_is_that_of_the_batch(backbone, loss, num_ranks):
    rng = np.random.default_rng(0)
    ids = np.full((5, 6), -1, np.int32)
    for row, length in zip(ids, (6, 2, 3, 5, 4), strict=True):
        row[:length] = rng.integers(0, NUM_ITEMS, length)
    masked = (ids >= 0) & (np.arange(6) % 2 == 0) if backbone is GBERT4Rec else None
    predicted = int((ids[:, 1:] >= 0 if masked is None else masked).sum())
    negatives = rng.integers(0, NUM_ITEMS, (predicted, 1) if loss is gbce else (4,), dtype=np.int32)
    objective = objective_of(backbone, loss)
    whole = gradients(objective, ids, negatives, masked, 1.0)
    shares = [share_of(ids, negatives, masked, rank, num_ranks) for rank in range(num_ranks)]
    assert sum(weight for *_, weight in shares) == pytest.approx(num_ranks)
    parts = [gradients(objective, *share) for share in shares]
    for expected, *found in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(found) / num_ranks, expected, rtol=1e-4, atol=1e-6)


def circles():
    rng = np.random.default_rng(0)
    rows = [(rng.integers(NUM_ITEMS) + np.arange(rng.integers(3, 15))) % NUM_ITEMS for _ in range(80)]
    return Batches(windows(Histories.from_lists(rows), 6), positions=120, seed=4)


def learn(folder, *, resume=False, dying_after=None):
    """Train for 12 updates; one of several processes may kill itself after so many."""
    batches = circles()
    if dying_after is not None:
        batches = _Dying(batches, dying_after)
    settings = {"validate_every": 4, "num_negatives": 5, "learning_rate": 1e-3, "epochs": 2, "patience": 99, "seed": 0}
    objective = objective_of(SASRec, sampled_softmax)
    torch.set_num_threads(1)
    better_and_better = itertools.count(99 if resume else 0)
    AcceleratorState._reset_state()  # another precision than that of the tests around this one
    with patch.object(training, "computes_in_bf16", return_value=False):
        training.train(
            objective,
            batches,
            folder,
            validate=lambda: next(better_and_better),
            **settings,
            resume=resume,
            show=False,
        )
    AcceleratorState._reset_state()
    return objective


class _Dying:
    def __init__(self, batches, after):
        self.batches, self.after = batches, after

    def epoch(self, number, *, start=0):
        for ids in self.batches.epoch(number, start=start):
            self.after -= 1
            if self.after < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            yield ids


def launched(folder, num_ranks, **how):
    """Exit codes of ranks that train together, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_ranks as t; "
    running = []
    for rank in range(num_ranks):
        said = how | ({} if rank == num_ranks - 1 else {"dying_after": None})
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = os.environ | {name: str(value) for name, value in names.items()}
        call = f"{program}t.learn(t.Path({str(folder)!r}), **{said})"
        running.append(subprocess.Popen([sys.executable, "-c", call], env=environment, stderr=subprocess.PIPE))
    return [(process.wait(timeout=120), process.communicate()[1].decode()) for process in running]


def test_two_ranks_learn_what_one_learns_and_end_when_one_of_them_is_killed(tmp_path):
    alone = learn(tmp_path / "alone")
    (code, said), (killed, _) = launched(tmp_path / "both", 2, dying_after=9)
    assert killed == -signal.SIGKILL
    assert code == 1, said  # an error, neither a hang nor a half-trained success
    assert json.loads((tmp_path / "both" / "last" / "counters.json").read_text())["updates"] == 8
    both = learn(tmp_path / "both", resume=True)
    assert (scores(alone) - scores(objective_of(SASRec, sampled_softmax))).abs().max() > 0.05  # it has moved
    torch.testing.assert_close(scores(both), scores(alone), rtol=0, atol=1e-4)


def scores(objective):
    """Of every item after every piece of the circle."""
    ids = (torch.arange(NUM_ITEMS)[:, None] + torch.arange(3)) % NUM_ITEMS
    with torch.inference_mode():
        return objective.eval().backbone.last(objective.items(ids)) @ objective.items(torch.arange(NUM_ITEMS)).T
