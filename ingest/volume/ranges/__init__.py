"""Cutouts of a precomputed volume: boxes to chunks, chunks to byte ranges, ranges to images."""
