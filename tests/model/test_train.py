import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from everyitem.data.batches import Batches, windows
from everyitem.model import checkpoint
from everyitem.model.items import DenseItems, PQItems
from everyitem.model.loss import full_softmax, gbce, sampled_softmax
from everyitem.model.train import Objective, train
from everyitem.model.transformer import GBERT4Rec, SASRec
from everyitem.types import Histories

NUM_ITEMS, D, LENGTH = 12, 16, 6


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def objective_of(backbone="sasrec", items="dense", loss=sampled_softmax, dropout=0.3):
    torch.manual_seed(0)
    codes = np.stack([np.arange(NUM_ITEMS) % 4, np.arange(NUM_ITEMS) // 4], 1).astype(np.uint8)
    table = DenseItems(NUM_ITEMS, D) if items == "dense" else PQItems(codes, D)
    network = {"sasrec": SASRec, "gbert4rec": GBERT4Rec}[backbone](D, blocks=1, heads=2, length=LENGTH, dropout=dropout)
    return Objective(network, table, loss)


def circles(seed=0):
    """Every user walks around a circle of items: what comes next is certain."""
    rng = np.random.default_rng(seed)
    rows = [(rng.integers(NUM_ITEMS) + np.arange(rng.integers(3, 15))) % NUM_ITEMS for _ in range(80)]
    return Histories.from_lists(rows)


def batches_of(objective, positions=120):
    length = LENGTH if objective.backbone.objective == "next" else LENGTH - 1
    return Batches(windows(circles(), length), positions=positions, seed=4)


def ndcg_of(objective):
    """NDCG@10 of the next item on the circle, after every item and at several lengths."""
    values = []
    for length in range(1, LENGTH):
        ids = (torch.arange(NUM_ITEMS)[:, None] + torch.arange(length)) % NUM_ITEMS
        scores = objective.backbone.last(objective.items(ids)) @ objective.items(torch.arange(NUM_ITEMS)).T
        better = (scores > scores.gather(1, (ids[:, -1:] + 1) % NUM_ITEMS)).sum(1)
        values.append((1 / torch.log2(better + 2.0)).mean())
    return float(torch.stack(values).mean())


def run(objective, folder, **settings):
    settings = {
        "validate": lambda: ndcg_of(objective),
        "validate_every": 4,
        "num_negatives": 5,
        "learning_rate": 1e-3,
        "epochs": 1000,
        "patience": 5,
        "seed": 0,
        "show": False,
    } | settings
    batches = settings.pop("batches", None) or batches_of(objective)
    return train(objective, batches, folder, **settings)


def bits(module):
    return {name: value.numpy().tobytes() for name, value in module.state_dict().items()}


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_clock(entry):
    return {key: value for key, value in entry.items() if "seconds" not in key and "second" not in key}


@pytest.mark.parametrize("backbone", ["sasrec", "gbert4rec"])
@pytest.mark.parametrize("items", ["dense", "pq"])
def test_what_can_be_learned_is_learned(backbone, items, tmp_path):
    objective = objective_of(backbone, items, dropout=0.0)
    state = run(objective, tmp_path, learning_rate=0.01, epochs=150, validate_every=50, num_negatives=20)
    assert state.best > 0.98
    assert ndcg_of(objective) == state.best
    assert not objective.training


def ragged():
    return torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, -1, -1], [7, 8, -1, -1, -1]], dtype=torch.int32)


def seen_by_loss(objective, ids, masked):
    """Hidden states and targets that reach the loss."""
    seen = []
    objective.loss = lambda items, hidden, targets, negatives, own: seen.append((hidden, targets)) or hidden.sum()
    objective.eval()(ids, torch.tensor([0]), masked)
    return seen[0]


def test_next_items_are_predicted_from_the_events_before_them():
    objective, ids = objective_of(), ragged()
    hidden, targets = seen_by_loss(objective, ids, None)
    rows = [row[row >= 0] for row in ids]
    states = [objective.backbone(objective.items(r[None, :-1]), torch.ones(1, len(r) - 1).bool())[0] for r in rows]
    torch.testing.assert_close(hidden, torch.cat(states), rtol=0, atol=1e-5)
    assert targets.tolist() == [i for row in rows for i in row[1:].tolist()]


def test_masked_items_are_predicted_from_both_sides_and_hidden():
    objective, ids = objective_of("gbert4rec"), ragged()
    masked = torch.tensor([[0, 1, 0, 0, 1], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0]]).bool()
    hidden, targets = seen_by_loss(objective, ids, masked)
    expected = []
    for row, mask in zip(ids, masked, strict=True):
        x, mask = objective.items(row[row >= 0])[None], mask[row >= 0]
        x = torch.where(mask[:, None], objective.backbone.mask_vector, x)
        expected.append(objective.backbone(x, torch.ones(1, len(mask)).bool())[0][mask])
    torch.testing.assert_close(hidden, torch.cat(expected), rtol=0, atol=1e-5)
    assert targets.tolist() == [1, 5, 9, 8]
    answers_changed = torch.where(masked, (ids + 1) % NUM_ITEMS, ids)
    assert torch.equal(seen_by_loss(objective, answers_changed, masked)[0], hidden)


def test_a_masked_row_hides_a_fifth_of_its_events_and_at_least_one(tmp_path):
    objective, shares, rows = objective_of("gbert4rec"), [], [row.tolist() for row in circles()]

    def counting(items, hidden, targets, negatives, own):
        shares.append(len(targets))
        assert ((targets >= 0) & (targets < NUM_ITEMS)).all()
        return full_softmax(items, hidden, targets)

    objective.loss = counting
    everyone = Batches(Histories.from_lists(row[:5] for row in rows), positions=10**6)
    state = run(objective, tmp_path, batches=everyone, epochs=30)
    events = sum(len(row[:5]) for row in rows)
    chance = sum(len(row[:5]) * 0.2 + 0.8 ** len(row[:5]) for row in rows)  # one more where none fell
    assert state.positions == sum(shares)
    assert min(shares) >= len(rows)
    assert max(shares) < events / 2
    assert np.mean(shares) == pytest.approx(chance, rel=0.03)


@pytest.mark.parametrize("per_position", [False, True])
def test_negatives_are_drawn_over_the_whole_catalogue(per_position, tmp_path):
    objective, seen = objective_of(), []

    def watching(items, hidden, targets, negatives, own):
        seen.append(negatives)
        assert negatives.shape == ((len(hidden), 5) if per_position else (5,))
        return gbce(items, hidden, targets, negatives)

    objective.loss = watching
    run(objective, tmp_path, epochs=4, negatives_per_position=per_position)
    assert torch.cat([draw.flatten() for draw in seen]).unique().tolist() == list(range(NUM_ITEMS))


def test_every_epoch_is_trained_exactly_once_however_often_it_is_resumed(tmp_path):
    objective = objective_of()
    steps = len(list(batches_of(objective).epoch(0)))
    assert steps % 4
    state = run(objective, tmp_path, epochs=2)
    assert (state.epoch, state.step, state.updates) == (2, 0, 2 * steps)
    once = lines(tmp_path)
    assert [line["updates"] for line in once] == [*range(4, 2 * steps, 4), 2 * steps]
    weights = bits(objective)
    again = run(objective, tmp_path, epochs=2, resume=True)
    assert again == state
    assert lines(tmp_path) == once
    assert bits(objective) == weights
    assert run(objective_of(), tmp_path, epochs=3, resume=True).updates == 3 * steps


class Killed(BaseException):
    pass


def killed_after(validations, objective):
    """A validation that dies, in the place of a process that does, when it is asked once more."""
    count = iter(range(validations))

    def validate():
        if next(count, None) is None:
            raise Killed
        return ndcg_of(objective)

    return validate


@pytest.mark.parametrize("backbone", ["sasrec", "gbert4rec"])
@pytest.mark.parametrize("validate_every", [1, 4, "epoch"])
def test_a_resumed_run_logs_and_ends_as_an_uninterrupted_one(backbone, validate_every, tmp_path):
    objective = objective_of(backbone, "pq")
    if validate_every == "epoch":  # the checkpoint is written after the last step of an epoch, before the next begins
        validate_every = len(list(batches_of(objective).epoch(0)))
    settings = {"epochs": 3, "validate_every": validate_every, "learning_rate": 0.05, "patience": 3}
    state = run(objective, tmp_path / "whole", **settings)
    expected = lines(tmp_path / "whole")
    for validations in range(1, len(expected)):
        folder = tmp_path / str(validations)
        other = objective_of(backbone, "pq")
        with pytest.raises(Killed):
            run(other, folder, **settings, validate=killed_after(validations, other))
        other = objective_of(backbone, "pq")
        torch.manual_seed(99)
        resumed = run(other, folder, **settings, resume=True)
        assert without_clock(vars(resumed)) == without_clock(vars(state))
        assert [*map(without_clock, lines(folder))] == [*map(without_clock, expected)]
        assert bits(other) == bits(objective)


def test_a_kill_at_any_rename_of_a_checkpoint_changes_nothing_in_the_end(tmp_path, monkeypatch):
    settings = {"epochs": 2, "validate_every": 3, "learning_rate": 0.05}
    whole = objective_of()
    run(whole, tmp_path / "whole", **settings)
    rename = Path.rename
    for number in range(100):
        calls = iter(range(number))

        def dying(path, target, calls=calls):
            if next(calls, None) is None:
                raise Killed
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", dying)
        objective = objective_of()
        try:
            run(objective, tmp_path / str(number), **settings)
            break
        except Killed:
            monkeypatch.setattr(Path, "rename", rename)
        objective = objective_of()
        run(objective, tmp_path / str(number), **settings, resume=True)
        assert bits(objective) == bits(whole), number
    assert number >= 10


PROGRAM = """
import hashlib, json, os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_train

root, random = Path(sys.argv[2]), random.Random(int(sys.argv[3]))

def start(backbone, folder, resume):
    child = os.fork()
    if child == 0:
        objective = test_train.objective_of(backbone, "pq")
        test_train.run(objective, folder, epochs=4, validate_every=2, patience=100, resume=resume)
        digest = hashlib.sha256(b"".join(test_train.bits(objective).values())).hexdigest()
        (folder / "digest").write_text(digest)
        os._exit(0)
    return child

for backbone in (["sasrec", "gbert4rec"][int(sys.argv[3]) % 2],):
    whole, broken, kills = root / backbone, root / (backbone + "-killed"), 0
    began = time.time()
    os.waitpid(start(backbone, whole, False), 0)
    patience = time.time() - began
    while not (broken / "digest").exists():
        child = start(backbone, broken, kills > 0)
        if kills < 4:
            time.sleep(random.uniform(0.2, 0.6) * patience)
            os.kill(child, signal.SIGKILL)
            kills += 1
        os.waitpid(child, 0)
    print(json.dumps([kills, (whole / "digest").read_text(), (broken / "digest").read_text()]))
"""


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    seed = int(time.time())
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path), str(seed)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        kills, whole, broken = json.loads(line)
        assert kills >= 3, seed
        assert whole == broken, seed
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize("file", ["state.safetensors", "counters.json"])
def test_a_damaged_checkpoint_is_refused(file, tmp_path):
    run(objective_of(), tmp_path, epochs=1)
    path = tmp_path / "last" / file
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(ValueError, match="checkpoint is damaged"):
        run(objective_of(), tmp_path, epochs=2, resume=True)


def test_a_run_goes_on_in_its_precision_only(tmp_path):
    objective = objective_of()
    state = run(objective, tmp_path, epochs=1)
    other = {"bf16": "float32", "float32": "bf16"}[state.precision]
    optimiser = torch.optim.Adam(objective.parameters())
    counters = checkpoint.load(tmp_path / "last", objective, optimiser)
    checkpoint.save(tmp_path / "last", objective, optimiser, counters | {"precision": other})
    with pytest.raises(ValueError, match=f"computed in {other} so far, and this machine computes in {state.precision}"):
        run(objective_of(), tmp_path, epochs=2, resume=True)


def test_training_stops_early_and_keeps_the_best_weights(tmp_path):
    objective, scores, snapshots = objective_of(), iter([0.1, 0.3, 0.2, 0.3, 0.2, 0.9]), []

    def validate():
        assert not objective.training
        snapshots.append(bits(objective))
        return next(scores)

    state = run(objective, tmp_path, validate=validate, patience=3)
    assert (state.best, state.best_update, state.stale, state.updates) == (0.3, 8, 3, 20)
    assert bits(objective) == snapshots[1]
    assert len({str(weights) for weights in snapshots}) == 5


def test_more_patience_goes_on_where_training_stopped(tmp_path):
    scores = iter([0.5] * 20)
    stopped = run(objective_of(), tmp_path, validate=lambda: next(scores), patience=2)
    on = run(objective_of(), tmp_path, validate=lambda: next(scores), patience=4, resume=True)
    assert (stopped.updates, on.updates, on.stale, on.best_update) == (12, 20, 4, 4)


def test_minutes_are_kept_also_over_a_resume(tmp_path):
    began = time.perf_counter()
    state = run(objective_of(), tmp_path, minutes=0.01, epochs=10**6, patience=10**6, validate_every=10**6)
    assert 0.6 <= state.seconds < time.perf_counter() - began < 5
    assert state.best_update == state.updates
    assert run(objective_of(), tmp_path, minutes=0.01, epochs=10**6, resume=True).updates == state.updates
    longer = run(objective_of(), tmp_path, minutes=0.015, epochs=10**6, patience=10**6, resume=True)
    assert longer.updates > state.updates
    assert 0.9 <= longer.seconds < 5


def test_a_loss_that_is_not_finite_stops_training_before_it_spoils_the_weights(tmp_path):
    objective = objective_of()
    before = bits(objective)
    objective.loss = lambda items, hidden, targets, negatives, own: hidden.sum() * math.nan
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        run(objective, tmp_path)
    assert bits(objective) == before


def test_nothing_to_train_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one epoch"):
        run(objective_of(), tmp_path, epochs=0)


def test_the_logged_loss_is_the_mean_since_the_last_validation(tmp_path):
    objective, losses = objective_of(), []

    def recording(items, hidden, targets, negatives, own):
        value = F.cross_entropy(items.scores(hidden, torch.arange(NUM_ITEMS)), targets)
        losses.append(value.item())
        return value

    objective.loss = recording
    run(objective, tmp_path, epochs=2)
    first = 0
    for line in lines(tmp_path):
        assert line["loss"] == pytest.approx(np.mean(losses[first : line["updates"]]))
        first = line["updates"]
    assert first == len(losses)


def test_a_loss_sees_the_scores_of_the_other_items_of_the_history():
    objective, seen = objective_of("sasrec"), []
    objective.loss = lambda items, hidden, targets, negatives, own: seen.append((hidden, targets, own)) or hidden.sum()
    objective.eval()(torch.tensor([[3, 5, 3, 8], [2, 2, -1, -1]], dtype=torch.int32), torch.tensor([0]), None)
    hidden, targets, own = seen[0]
    assert targets.tolist() == [5, 3, 8, 2]
    # row by row: every other item of the history once, and never the target
    expected = [[3, None, None, 8], [None, 5, None, 8], [3, 5, None, None], [None] * 4]
    for state, row, scores in zip(hidden, expected, own, strict=True):
        for item, score in zip(row, scores, strict=True):
            if item is None:
                assert score == -torch.inf
            else:
                torch.testing.assert_close(score, state @ objective.items(torch.tensor(item)))
