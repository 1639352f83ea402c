"""From image folders to batches on the device. Imports nothing from regnet/."""
