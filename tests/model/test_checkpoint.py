import itertools
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from everyitem.model import checkpoint

COUNTERS = {"epoch": 1, "step": 7, "best": float("-inf"), "seconds": 0.1}


def fresh(width=3, seed=0):
    torch.manual_seed(seed)
    module = nn.Linear(width, 2)
    return module, torch.optim.Adam(module.parameters(), lr=0.1, fused=True)


def step(module, optimiser):
    """One update that depends on everything a checkpoint must hold: weights, optimiser, random state."""
    optimiser.zero_grad()
    module(torch.randn(4, module.in_features)).square().sum().backward()
    optimiser.step()


def bits(module):
    return [p.detach().numpy().tobytes() for p in module.parameters()]


def saved(folder, updates=2):
    module, optimiser = fresh()
    for _ in range(updates):
        step(module, optimiser)
    checkpoint.save(folder, module, optimiser, COUNTERS | {"updates": updates})
    return module, optimiser


def test_training_goes_on_as_if_nothing_had_happened(tmp_path):
    module, optimiser = saved(tmp_path / "last")
    step(module, optimiser)
    other, its_optimiser = fresh(seed=5)
    assert checkpoint.load(tmp_path / "last", other, its_optimiser) == COUNTERS | {"updates": 2}
    step(other, its_optimiser)
    assert bits(other) == bits(module)


def test_where_there_is_no_checkpoint_nothing_changes(tmp_path):
    module, optimiser = fresh()
    before = bits(module)
    assert checkpoint.load(tmp_path / "last", module, optimiser) is None
    assert bits(module) == before


def test_a_checkpoint_replaces_the_one_before_and_leaves_no_litter(tmp_path):
    saved(tmp_path / "last", 1)
    saved(tmp_path / "last", 3)
    assert checkpoint.load(tmp_path / "last", *fresh())["updates"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


class Killed(BaseException):
    pass


def kill_at(call, patch):
    """Die instead of the n-th change of the file system; a removal dies half way."""
    calls = itertools.count()

    def dying(owner, name):
        real = getattr(owner, name)

        def change(*arguments, **keywords):
            if next(calls) == call:
                if name == "rmtree":
                    for path in list(Path(arguments[0]).glob("*"))[:1]:
                        path.unlink()
                raise Killed
            return real(*arguments, **keywords)

        patch.setattr(owner, name, change)

    for name in ("mkdir", "write_text", "rename"):
        dying(Path, name)
    dying(shutil, "rmtree")
    dying(os, "fsync")
    dying(checkpoint, "save_file")


def save_killed(folder, updates, call, monkeypatch):
    """Save and be killed; False where the save had fewer steps and went through."""
    with monkeypatch.context() as patch:
        kill_at(call, patch)
        try:
            saved(folder, updates)
        except Killed:
            return True
    return False


def moments(folder, monkeypatch):
    """How many changes of the file system one save makes."""
    return next(n for n in itertools.count() if not save_killed(folder, 1, n, monkeypatch))


def test_two_kills_at_any_two_moments_leave_a_checkpoint_that_never_goes_backwards(tmp_path, monkeypatch):
    saved(tmp_path / "count", 1)
    number = moments(tmp_path / "count", monkeypatch)
    assert number >= 8
    for first, second in itertools.product(range(number), repeat=2):
        folder = tmp_path / f"{first}-{second}" / "last"
        saved(folder, 1)
        found = [1]
        for updates, call in ((2, first), (3, second)):
            assert save_killed(folder, updates, call, monkeypatch) or updates == 3  # the second one may be shorter
            found.append(checkpoint.load(folder, *fresh())["updates"])
        assert found == sorted(found), (first, second)
        assert found[-1] in (found[-2], 3)


def test_a_kill_during_the_first_save_leaves_none_or_a_whole_one(tmp_path, monkeypatch):
    for call in itertools.count():
        killed = save_killed(tmp_path / str(call) / "last", 1, call, monkeypatch)
        counters = checkpoint.load(tmp_path / str(call) / "last", *fresh())
        assert counters is None or counters["updates"] == 1
        if not killed:
            break
    assert counters is not None


@pytest.mark.parametrize("file", ["state.safetensors", "counters.json"])
def test_any_changed_byte_is_refused(file, tmp_path):
    saved(tmp_path / "last")
    path, rng = tmp_path / "last" / file, random.Random(3)
    original = path.read_bytes()
    for _ in range(400):
        damaged = bytearray(original)
        place = rng.randrange(len(damaged))
        match rng.choice(["flip", "cut", "zeros", "more"]):
            case "flip":
                damaged[place] ^= 1 << rng.randrange(8)
            case "cut":
                del damaged[place:]
            case "zeros":
                damaged[place : place + 16] = bytes(len(damaged[place : place + 16]))
            case "more":
                damaged += b"\0"
        if damaged == original:
            continue
        path.write_bytes(damaged)
        module, optimiser = fresh()
        before = bits(module)
        with pytest.raises(ValueError, match="last: the checkpoint is damaged"):
            checkpoint.load(tmp_path / "last", module, optimiser)
        assert bits(module) == before


def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path):
    saved(tmp_path / "last", 1)
    (tmp_path / "last").rename(tmp_path / "last.old")
    shutil.copytree(tmp_path / "last.old", tmp_path / "last")
    (tmp_path / "last" / "state.safetensors").write_bytes(b"")
    assert checkpoint.load(tmp_path / "last", *fresh())["updates"] == 1


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    saved(tmp_path / "last")
    with pytest.raises(ValueError, match="last: belongs to a model of another shape"):
        checkpoint.load(tmp_path / "last", *fresh(width=4))
