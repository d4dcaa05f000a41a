"""Files: images, pairs of image and mask, models, checkpoints. Knows no network."""
