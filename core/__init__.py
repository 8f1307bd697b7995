"""Everything that works without a server: curvature, spectra, overlap, problems, results."""

import os

# Vectors of millions of numbers are made and dropped all the time, and the system hands out their memory page
# by page: with pages of 2 MiB instead of 4 KiB that takes a third of the time. torch reads this once, when it
# makes its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
