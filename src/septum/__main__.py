"""``python -m septum`` is the command ``septum``."""

from septum.app.cli import command

if __name__ == "__main__":
    command()
