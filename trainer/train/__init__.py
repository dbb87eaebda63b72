"""The training loop: start, steps, validation, stopping, logs."""
