"""The command line: flags become settings, events become progress."""
