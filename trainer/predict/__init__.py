"""Predictions of trained models, with test-time augmentation, into a table."""
