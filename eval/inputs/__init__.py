"""Inputs of an evaluation: predictions of any tool, their columns and rows, and their run."""
