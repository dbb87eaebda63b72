"""Synapse, label and proofreading tables from files, web servers and CAVE, in our columns."""
