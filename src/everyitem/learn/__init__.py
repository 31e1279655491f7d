"""From a log to a model folder. Here all rooms of learning meet."""
