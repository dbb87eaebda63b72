"""Images from files: TIFF stacks, folders of sections, folders of one image per sample."""
