"""The child processes of the server: how they are started, and how both sides speak to each other."""
