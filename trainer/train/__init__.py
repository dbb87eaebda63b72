"""The training loop: start, steps, validation, end, logs."""
