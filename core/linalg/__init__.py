"""What numerics share: tiles of long rows, Gram matrices, orthonormal bases, memory that runs out."""
