"""Before the first step: launcher, devices, classes, trial steps, and the start of a run."""
