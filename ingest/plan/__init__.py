"""Tables into a plan: who is labeled, which split, which block, and what reading will cost."""
