"""What the harnesses of hostile inputs share: damage, documents, kinds of file, guarded children."""
