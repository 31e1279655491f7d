"""What comes next? Backbones, item embeddings, losses, training. Knows no index."""

from typing import Literal

PrecisionName = Literal["float32", "int8", "bf16"]
"""What a served encoder computes in; see `encode.py`."""
