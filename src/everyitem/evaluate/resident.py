"""How much memory a model takes where it serves: asked of a fresh process, which has nothing else in it.

Linux only, as it reads /proc. Knows a model folder's path; loads nothing itself.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SERVE = """
import json, sys

def resident_mb():
    status = open("/proc/self/status").read()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6

from everyitem import load
before = resident_mb()
model = load(sys.argv[1])
history = model.items["item_id"].head(model.encoder.length).to_list()
assert len(model.answer([history], 10, exclude_seen=False).frame)
after = resident_mb()
assert "torch" not in sys.modules
print(json.dumps({"model": after - before, "process": after}))
"""


class Resident(NamedTuple):
    """Resident memory (VmRSS) in MB (1e6 bytes) after one answer."""

    model: float
    """What `load` and the answer added to `import everyitem` with its libraries: index, encoder, catalogue, buffers.
    Mapped files count as far as they were read, and verifying reads all of them."""
    process: float
    """All of the process: Python, Polars, ONNX Runtime and the model."""


def resident_mb(folder: Path) -> Resident:
    """Load a model in a fresh process without torch, answer one history of full length, and see how big it has become.

    Raises:
        RuntimeError: the process failed; its last words are in the message.
    """
    command = [sys.executable, "-c", SERVE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{folder}: measuring its resident size failed: {done.stderr.strip().splitlines()[-1:]}")
    return Resident(**json.loads(done.stdout))
