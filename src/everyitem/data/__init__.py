"""What happened? Logs, splits, batches. Knows no model."""

from typing import Literal

SplitName = Literal["leave-one-out", "time"]
"""How a log is split into training, validation and test; see `splits.py`."""
