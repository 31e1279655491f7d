"""What comes next? Backbones, item embeddings, losses, training. Knows no index."""
