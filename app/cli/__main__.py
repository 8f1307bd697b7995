"""``python -m seigh.app.cli``."""

from seigh.app.cli import main

if __name__ == "__main__":
    main()
