"""One daemon: where the parts meet."""
