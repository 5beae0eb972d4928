"""The absolute parts of comparisons of floats, and why they are so large.

A relative tolerance alone fails where a value happens to lie near 0, and there on one processor or
version of a library only: sums are taken in another order with other vector widths (AVX2, AVX-512,
none), threads, sizes of a batch. ``test_tolerances.py`` sees to it that each comparison has one.
"""

# Numbers of order 1 to 1000, read from text or moved by a few operations of float64: these round
# at 1e-16 of the number, decimals at what was printed.
TEXT = 1e-9

# The same formula in float64 in another order: some hundred roundings of 1e-16.
DOUBLE = 1e-12

# Numbers of order 1 that were float32 on their way: each rounds at 6e-8, some ten operations.
SINGLE = 1e-6

# Numbers of order 1 that came through hundreds of operations of float32: a fit, a flow, an FFT, a
# sum over the pixels of a stamp.
CHAIN = 1e-5

# Draws, and all else that comes out of the network and its flow of float32 with widths of order 1:
# a batch of another size multiplies its matrices in another order. A hundredth of a percent of a
# width, far below the Monte Carlo noise of any number of draws.
NETWORK = 1e-4
