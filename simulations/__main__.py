"""`python -m simulations`: what `peernode sim` does, where that is not installed."""

import sys

from simulations.cli import main

if __name__ == "__main__":
    sys.exit(main())
