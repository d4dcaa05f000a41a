"""Score predictions against truth."""
