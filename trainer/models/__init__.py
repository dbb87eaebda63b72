"""2D and 3D networks, their norms and memory formats, behind one classifier, and its inference."""
