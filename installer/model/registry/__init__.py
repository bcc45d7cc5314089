"""Which registry, where its data is, and how it is spoken to."""
