"""Golden checkpoints of the model families that transformers computes. See ../README.md."""
