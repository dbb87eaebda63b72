"""Weights from elsewhere: files, URLs and torchvision, fitted to our models."""
