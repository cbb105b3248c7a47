"""Products that stream a decoder that lies in device memory: by XLA, and by Pallas kernels."""
