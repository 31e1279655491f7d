"""How good, how fast? Unsampled metrics with intervals, timing, baselines."""
