"""The small networks in which only the upsampler changes."""
