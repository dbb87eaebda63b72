"""Checks to read beside a score: baselines, and the audit of splits for leaks."""
