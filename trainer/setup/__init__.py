"""Before the first step: launcher, devices, ranks, classes, and errors with a cure."""
