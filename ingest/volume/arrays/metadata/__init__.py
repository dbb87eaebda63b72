"""The metadata of array volumes: arrays, scales, voxel sizes and places, by format."""
