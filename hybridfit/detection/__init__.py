"""Detection: sky, target, neighbours, masks and noise of a cutout."""
