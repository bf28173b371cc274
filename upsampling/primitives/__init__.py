"""The cores that the public functions are made of, one file for each, named after the function that it serves.

A file holds every form of its primitive side by side, and one place that chooses between them: by platform where JAX
lowers the program, or by shape. Cores check nothing: the public functions do that, once, at the door.

| file | core | its adjoints |
| --- | --- | --- |
| `taps` | 1-D interpolation as taps (indices and weights), in NumPy | the transposed taps |
| `resample` | taps applied along axes | itself, with the transposed taps |
| `transposed_conv` | the transposed convolution | convolutions |
| `window_sum` | weighted sum over the window of each output pixel | window correlation, fold |
| `grid_sample` | sampling at positions | splatting, position gradient |

What they share is in `_common`: the dtype to accumulate in, blocks of rows, and how a primitive is made. `_kernels` is
what kernels by hand are written with.
"""
