"""The CPU engine: the U-Net's layers as compiled loops. Only `inference` and `training` are imported from outside."""
