"""``python -m liveavatar``: the command ``liveavatar``."""

import sys

from liveavatar.cli import main

if __name__ == "__main__":
    sys.exit(main())
