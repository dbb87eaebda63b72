"""Inference over a shard set, with test-time augmentation, into a predictions table."""
