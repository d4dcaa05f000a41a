"""The CPU engine: the U-Net's convolutions as fused Winograd kernels. Import only `inference` and `training`."""
