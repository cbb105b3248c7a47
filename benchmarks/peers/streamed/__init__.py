"""Products that stream a decoder that lies in device memory, by XLA and by Pallas kernels: what the
package's tiles are compared with."""
