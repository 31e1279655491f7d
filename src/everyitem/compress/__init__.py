"""What can be left out? Item codes and clusters; heads, dimensions, neurons and layers of a language model."""

from typing import Literal

CodesName = Literal["dense", "hybrid", "kmeans", "svd-rank", "svd", "bpr", "random", "text", "given"]
"""How items get their codes: from a dense model trained first, from a wide SVD, and so on; see `assign.py`. The last
two are for semantic ids: from the words of titles, or as they stand in a column; see `semantic_ids.py`."""
QuantiserName = Literal["residual-kmeans", "balanced", "rq-vae"]
"""How vectors become semantic ids: residual k-means, the same with equally full codes, or learned codes."""
ClustersName = Literal["kmeans", "spectral", "frequency", "random"]
"""How items are put into clusters for a two-level softmax; see `clusters.py`."""
MethodName = Literal["prunerec", "random", "magnitude", "wanda", "taylor", "shortgpt"]
"""How it is measured what a language model needs: PruneRec (`importance.py`) or its rivals (`rivals.py`)."""
KeyValuesName = Literal["balanced", "groups", "expand"]
"""What happens to grouped key-value heads; see `plan.Plan`."""
DivergenceName = Literal["forward", "reverse", "js", "skewed-forward", "skewed-reverse"]
"""How far a cut model's answers are from the uncut one's; see `distil.divergence`."""
