"""Detection: the sky, the target and its neighbours, masks and noise of a cutout."""
