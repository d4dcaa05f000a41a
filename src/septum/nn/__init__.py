"""The network and what moves it: U-Net, loss, augmentation, device. Knows no files."""
