"""What should be known about a detector on a machine before traffic comes: `dyndet verify`."""
