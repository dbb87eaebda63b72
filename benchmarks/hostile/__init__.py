"""What the harnesses of hostile inputs share: damage, kinds of file, guarded children."""
