"""What a score must be read beside: baselines, and the audit of splits for leaks."""
