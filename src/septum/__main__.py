"""``python -m septum`` is the command ``septum``."""

from septum.cli.main import command

if __name__ == "__main__":
    command()
