"""Execution of a plan: the self-test before it, its blocks, and the finished data set."""
