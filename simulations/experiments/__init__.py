"""The questions, one module each: scenarios over a range, the theory beside them, a verdict."""
