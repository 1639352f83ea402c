"""What a GPU spends the passes of a training step on, layer by layer: see __main__."""
