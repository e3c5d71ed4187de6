"""A run on its way out of the program: one file a format, and the gate that each passes."""
