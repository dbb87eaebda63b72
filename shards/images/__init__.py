"""Image files and arrays into 8-bit voxels: TIFF, PNG, JPEG, npy; which channels hold EM."""
