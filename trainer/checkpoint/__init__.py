"""Weights and states on disk: checkpoints, run folders, pretrained weights, exported models."""
