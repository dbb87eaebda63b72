"""Volumes stored as arrays: OME-Zarr, zarr v2 and v3, N5 and HDF5."""
