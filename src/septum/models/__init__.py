"""Models that come with Septum, by name: a file and a card each."""
