"""What talks to a person. No logic: flags become settings, records become progress, results become pictures."""
