"""Training state on disk: parameters, optimiser and random state as safetensors beside a JSON of counters. No pickle.

A checkpoint is written to a temporary folder, synced and renamed: a kill at any moment leaves the old or the new one.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer


def save(folder: Path, module: nn.Module, optimiser: Optimizer, counters: dict[str, Any]) -> None:
    """Write a checkpoint; the one before it stays as `<folder>.old` until the new one is complete."""
    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in _own_tensors(module).items()}
    tensors |= {f"adam.{name}": value for name, value in _optimiser_tensors(optimiser).items()}
    tensors["rng"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng_cuda"] = torch.cuda.get_rng_state()
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_file(tensors, new / "state.safetensors")
    document = counters | {"sha256": _sha256(new / "state.safetensors", counters)}
    (new / "counters.json").write_text(json.dumps(document))
    for path in (*new.iterdir(), new):
        _sync(path)
    old = folder.with_name(folder.name + ".old")
    if folder.exists():  # else a kill fell between the renames, and the old one is all there is
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, module: nn.Module, optimiser: Optimizer) -> dict[str, Any] | None:
    """Restore the newest complete checkpoint in place; returns its counters, or None where there is none.

    Raises:
        ValueError: every checkpoint there is damaged, or belongs to a model of another shape.
    """
    candidates = [path for path in (folder, folder.with_name(folder.name + ".old")) if path.is_dir()]
    for path in candidates:
        tensors, counters = _read(path)
        if counters is not None:
            _restore(path, tensors, module, optimiser)
            return counters
    if candidates:
        raise ValueError(f"{folder}: the checkpoint is damaged (checksum); delete the folder and train anew")
    return None


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: no frozen parameters, which are as they were built, and tied ones by their first name."""
    frozen = {name for name, value in module.named_parameters(remove_duplicate=False) if not value.requires_grad}
    first: dict[tuple[int, torch.Size], str] = {}
    return {
        name: value
        for name, value in module.state_dict().items()
        if name not in frozen and first.setdefault((value.data_ptr(), value.shape), name) == name
    }


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    try:
        counters: dict[str, Any] = json.loads((path / "counters.json").read_text())
        if counters.pop("sha256") != _sha256(path / "state.safetensors", counters):
            return {}, None
        return load_file(path / "state.safetensors"), counters
    except (OSError, ValueError, KeyError, SafetensorError):
        return {}, None


def _restore(path: Path, tensors: dict[str, Tensor], module: nn.Module, optimiser: Optimizer) -> None:
    try:
        stored = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        module.load_state_dict(stored, strict=stored.keys() != _own_tensors(module).keys())
    except RuntimeError:
        raise ValueError(
            f"{path}: belongs to a model of another shape; use the same settings or another folder"
        ) from None
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng"])
    if "rng_cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng_cuda"])


def _optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {
        f"{n}.{key}": value.detach().cpu().contiguous() for n, entry in state.items() for key, value in entry.items()
    }


def _sha256(path: Path, counters: dict[str, Any]) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(counters).encode())
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
