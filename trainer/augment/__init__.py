"""Changes of images on the device: spatial, gray values, defects of sections, mixing, stress."""
