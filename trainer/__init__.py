"""Training and prediction of 2D and 3D synapse classifiers with Accelerate."""
