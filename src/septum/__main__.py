"""``python -m septum`` is the command ``septum``."""

from septum.app.cli import main

if __name__ == "__main__":
    main()
