"""Samples, from a folder of images to batches on the device. Nothing here knows what they train."""
