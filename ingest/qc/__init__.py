"""Image quality: what is measured of each sample, and the pictures that show it."""
