"""The first job of a volume and a table: proposed by looking at them, checked before its plan."""
