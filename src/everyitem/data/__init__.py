"""What happened? Logs, splits, batches. Knows no model."""
