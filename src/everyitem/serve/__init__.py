"""Who is asking? Batch files now; HTTP later. Torch-free."""
