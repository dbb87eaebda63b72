"""Changes of images on the device: spatial, intensity, defects of sections, mixing, stress."""
