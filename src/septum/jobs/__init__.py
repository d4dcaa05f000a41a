"""One verb a file. The only rooms that compose others; long jobs are generators of small frozen records."""
