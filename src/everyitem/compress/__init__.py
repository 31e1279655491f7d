"""What can be left out? Item codes."""

from typing import Literal

CodesName = Literal["dense", "hybrid", "kmeans", "svd-rank", "svd", "bpr", "random"]
"""How items get their codes: from a dense model trained first, from a wide SVD, and so on; see `assign.py`."""
