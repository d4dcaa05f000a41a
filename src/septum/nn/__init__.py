"""The network in PyTorch: layers, losses, augmentation on the device, devices."""
