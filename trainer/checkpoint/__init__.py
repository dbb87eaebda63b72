"""Checkpoints and run folders: trained weights and their states on disk, and exported models."""
