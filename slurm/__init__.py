"""Slurm jobs for every other command: rendered purely, submitted in one place."""
