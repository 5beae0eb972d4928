"""Training of the network: recipe, data, loop, fine-tuning."""
