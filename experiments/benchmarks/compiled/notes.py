"""What stands between a row of the compiled tables and its aim, and what was tried: for GPUs, and for TPUs."""

_BY_HAND = (
    "A kernel by hand, __gpu$xla.gpu.triton, counts as its arguments and results once: what blocks of pixels read of "
    "each other's windows is taken to come from the cache, as it is for XLA's own."
)

_BY_HAND_ON_TPU = (
    "A kernel by hand, tpu_custom_call, stands with the bundles of instructions that the compiler's schedule of it "
    "has, loops times their turns, one bundle a cycle, or with the time in which memory moves its arguments and "
    "results where that is more. Copies and waits of the kernel itself are not in it, and rows that two blocks read "
    "count once. None has run on a TPU."
)

NOTES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "interpolation": (
        (
            (
                "All taps of all axes up to 64 are one sum, which is one kernel; of a sum inside a sum XLA makes two, "
                "and writes the first to memory. So it is in the gradient of Lanczos, whose 144 taps would be six "
                "times the operations: 1.4, and in bfloat16 1.8, since what is written is a sum in float32."
            ),
        ),
        (
            _BY_HAND_ON_TPU,
            (
                "Nearest by a whole factor, and its gradient, is one reduction over windows, for which there is little "
                "or no estimate: it reads and writes the need and keeps a NaN in its place, in any layout. Broadcasts "
                "came to 28 of need with 32 channels and to 245 with 3, zeros between the pixels added to the same "
                "shifted to 5.3 and 19, gathers of rows to 4.5 and 18 besides what has no estimate. In half precision "
                "it stands with 4.8, in float32 between two conversions too; by a product of matrices, which would "
                "spread a NaN, it would be 1.5, as bilinear is. By the kernel of permutations, which nearest to other "
                "sizes is, it is 2.2, and 1.5 in float32, but between convolutions, where it mostly stands, 2378 µs "
                "for 1494 (1x256x256x16), 4879 for 4197 (8x128x128x64), and 324 for 434 (8x64x64x32)."
            ),
            (
                "Methods that weigh are kernels by hand, for three layouts. Of 32 channels columns are products of "
                "matrices, whose weights are one part in half precision for factors of two and three parts for others, "
                "and rows are sums of vectors. XLA's form, a product of matrices for each axis, which is left for what "
                "no kernel takes and for several devices, is 5.0 of need at ×2 and 4.3 with the gradient, in half "
                "precision 9.3 and 6.9, at ×1.5 3.2 and 3.5, and compiles 2 to 10 s: of 507 µs 178 are a copy that "
                "puts channels back between rows and columns. The same products with the layout of the result given "
                "need no copy, 333 µs; sums of shifted rows in place of the first product came to 7.3, in place of the "
                "second to 8.3, gathers of rows to 9.2, zeros between the pixels to 12.6: every shift is written."
            ),
            (
                "For several devices, of which XLA would gather maps that they share by rows for one matrix, there are "
                "matrices for the rows of each and of its neighbors: of 1x128x128x32 at ×2 and 8 devices 80 µs for 70, "
                "at ×1.5 51 for 43; along columns too 102 and 77. With the neighbors' rows joined to the own ones, "
                "along both axes, they were 142 and 116, sums of shifted rows and columns 138 and 95."
            ),
            (
                "Averages over whole factors are sums over windows: half of 2x64x64x256 is 11 µs and, with the "
                "gradient, 41, besides 10 and 17 MB without estimate, and by matrices 43 and 79."
            ),
            (
                "Between convolutions maps have pixels outermost, and XLA's form copies them for its products. There a "
                "kernel sums whole vectors of images and channels at all taps, and nothing is copied; by XLA "
                "8x128x128x128 is 7753 µs and, with the gradient, 15323, 8x64x64x128 925 and 2277. Of 32 channels that "
                "layout moves four times the map: 4025 and 10154 µs, and 2271 of the map alone. The kernel that reads "
                "channels and columns is given copies there, and as fast as XLA's form, 3637 and 9888; on a v6e "
                "up to a tenth behind the peer, which is such products."
            ),
            (
                "Images of three colors have rows and columns in the vectors, products of matrices along both. By XLA, "
                "in blocks of axes above 256, the large image is 7.0 and 5.9 of need and compiles 21 and 104 s. On "
                "axes up to 256 XLA's form stays: after a convolution and before a loss, which its product takes in, "
                "it is 351 µs for 548 (8x64x64x21 ×2, with the gradient); on long ones, 4x128x128x21 ×4, 4024 for 3281."
            ),
        ),
    ),
    "convolution": (
        (
            (
                "cuDNN has a transposed convolution, and both of its gradients, where XLA sees a convolution of zeros "
                "between pixels with the flipped kernel, and for the kernel the gradient of the strided one: one "
                "pass, and half precision is read and written as such. The peer's kernel is not flipped, so that its "
                "zeros are written out. cuDNN pads both sides alike, which a window of 3 at stride 2 is not: a row of "
                "zeros before the input makes it so, and is written with it. With a row more of the output, which was "
                "then cut, it was 2.4 and 2.9; all phases in one convolution came to 3.0, phase by phase to 5.0."
            ),
            (
                "In groups, or dilated, the phases are one convolution and a shuffle, 2.4 and 1.3, where zeros "
                "between pixels come to 3.8."
            ),
            "The shuffle of `sub_pixel_conv` is a pass of its own, which no convolution takes in.",
        ),
        (
            (
                "From stride 4 on XLA writes the zeros between pixels out, for lax as for us. A product and a shuffle "
                "came to 29 of need there."
            ),
            (
                "Kernel 2 at stride 2 is a convolution of zeros between pixels too, as lax has it. A product and a "
                "shuffle is ahead of it alone and with few channels, 125 for 179 µs, in half precision 193 for 326; "
                "but 298 for 284 with the gradient, on v6e 139 for 95 and 215 for 135, and between two convolutions of "
                "256 and 128 channels 3648 for 2950 with gradients."
            ),
        ),
    ),
    "reassembly": (
        (
            (
                "Reassembly is by hand, in one kernel, and its gradients in one more, which visits each pair of a "
                "pixel and an output that sees it: their weight is read, and its gradient written there. By XLA the "
                "weights of the taps are taken apart by a kernel of their own, 1.48 of need, and 1.90 with the "
                "gradient, in bfloat16 1.00 and 1.66. Where the caller makes the weights by a softmax, XLA may write "
                "its exponentials apart then: with it 5×5 taps at 32 channels are 3.2 for 2.6 with the gradient, at "
                "64 2.4 for 2.3, at 256 1.5 for 1.9. `carafe` takes the logits. They have not run on a GPU."
            ),
            (
                "A fold as a loop over phases was 11 kernels and 5.2 of need; as one sum it is one kernel only behind "
                "a barrier, since XLA moves a caller's slice into each of its hundred terms."
            ),
            (
                "Attention is by hand: XLA writes the similarities, and reads them for their maximum, their sum and "
                "the window sum. Its form of `sapa` is 5 kernels and 2.29 of need, 13 and 3.42 with the gradient, in "
                "bfloat16 3.17 and 4.89; of neighborhood attention 6 and 17.5, 13 and 20.8, in bfloat16 33.7 and "
                "40.1. What is above 1 with the gradient are queries, keys and `x`, which three kernels read, and the "
                "cotangent, which two do: the gradient of keys and `x` gathers by input pixels, that of queries by "
                "output pixels. One kernel for both would have to read the values and the sums of exponentials, which "
                "the first would write: 1.5, by addition, a sixth less. They have not run on a GPU."
            ),
            _BY_HAND,
        ),
        (
            _BY_HAND_ON_TPU,
            (
                "All rows are kernels by hand. XLA's own forms, which programs for several devices hold, are 15.3 and, "
                "with the gradient, 25.7 of need for reassemble, 30.5 and 33.0 for sapa, 155 and 226 for neighborhood "
                "attention, in bfloat16 24.4 and 40.2, 57.2 and 66.5, 316 and 458, and compile 10 to 16 s with the "
                "gradient. There columns are last and shifted along rows by products with matrices of zeros and ones, "
                "and windows of more than 32 taps are a loop over their columns, with the softmax in passes through "
                "memory. Tried: shifts in place of the product, 48; one product for each column and slices of rows, "
                "25; loops over rows, 157 and, for attention, 342 and 628; tiles of the output as products of "
                "matrices, 1205 and 1431."
            ),
            (
                "In the kernels of neighborhood attention the products and sums of vectors take half of the bundles, "
                "four in each, and loads as many; the rest waits. Moving columns anew for each row of taps was 7 "
                "times the time, since the unit that permutes gives a vector every second cycle; one row of outputs "
                "at a time, and not two, 1.1 times; one sum and not several in turn, as much. Loops in place of what "
                "is written out trace two to three times as fast and are 1.1 to 1.6 times the time."
            ),
            (
                "Half precision takes the time of float32 for half the need: v5e multiplies and adds in float32 alone, "
                "beside the products of matrices."
            ),
        ),
    ),
    "sampling": (
        (
            (
                "Rows hold the branch for positions anywhere where it is dearer than the one for positions near their "
                "own pixels, which layers take, and which adds nothing up in memory. That branch is by hand: one "
                "kernel reads the values and adds at all taps. XLA's scatter for each tap read them four times: "
                "grid_sample was 3.6 with its gradient, in bfloat16 5.1, dysample 4.6 and 6.0. The kernel has not run "
                "on a GPU."
            ),
            (
                "Both gradients of positions are one kernel behind a barrier; else XLA puts one of them into the "
                "kernel of its reader, and dysample is 2.7. What is left: XLA writes positions, clipped and apart for "
                "each axis, and the four weights of each group, 0.5 of dysample's need, since a loop over channels "
                "would compute them for each. Columns first and then rows it is 1.39; in steps, "
                "a + f (b - a), one kernel and 1.20, but where f is 1, at the last pixel, the result would not be b; "
                "2.19 with the gradient in all of them. A kernel by hand would leave 1.2, by addition, less than the "
                "1.5 times that pay for one."
            ),
            (
                "In half precision the sums are in float32: zeros, what is added, and the rounding are 0.6 of need, "
                "and positions count twice."
            ),
            _BY_HAND,
        ),
        (
            (
                "Positions near their own pixels, as layers predict them, are sampled by windows of nine pixels. Rows "
                "hold the branch for positions anywhere where its estimate, without gathers and scatters, is higher. "
                "What that reads lies in memory with positions in the lanes of vectors: with channels there, which "
                "fill few, dysample was 17.9 of need and 43.5 with the gradient, in bfloat16 37.1 and 60.7, "
                "grid_sample 12.3 and 25.7, 21.5 and 50.2. With groups as images of their own dysample was 24.8 "
                "and 68.0, and with the gather of other platforms and its result turned 24.9 and 44.4. "
                "XLA sorts for each of DySample's four scatters, which compiles long."
            ),
            (
                "Of several groups the windows are kernels by hand, whose weights are written: dysample was 20.6 and "
                "42.2 by XLA. Of one group XLA's loop, which makes the weights where it takes them, is ahead: 12.3 "
                "for 15.8."
            ),
            _BY_HAND_ON_TPU,
            (
                "In half precision positions and their weights are float32 and windows are summed in float32, so that "
                "it takes nearly the time of float32 for half the need."
            ),
        ),
    ),
    "metrics": (
        (
            (
                "Rows of up to 512 pixels take the minimum over all pairs of their pixels in one reduction, which "
                "stores no pair; the first axis is three kernels of 16 shifts each. With loops whose length the data "
                "decide, which wait for the processor in every trip, the distance transform was 30 kernels and 19.5 "
                "of need with one trip each, and the Hausdorff distance 395 and 306. All pairs on both axes are 3 "
                "kernels and 3.0, but an operation for each pixel of a column where 48 shifts do. The reduction's "
                "time is that of its operations and not its traffic."
            ),
        ),
        ("The distance transform runs loops whose length the data decide: they stand here with one trip.",),
    ),
    "layers": (
        (
            (
                "The attention of SAPA, joint bilateral and NAF is by hand, and so are softmax and window sum of "
                "CARAFE and FADE, whose logits are given; no weights are written. By XLA, which reads similarities or "
                "logits for their maximum, for their sum and for the window sum, SAPA is 8 kernels and 5.9, 33 and "
                "11.0 with the gradient, joint bilateral 7 and 4.2, 15 and 6.0, NAF 85 and 72.9, 207 and 103.9, "
                "CARAFE 7 and 5.4, 22 and 8.5, FADE 10 and 6.1, 38 and 11.3. As functions of given logits CARAFE is "
                "so 1.0 for 2.6, with the gradient 1.7 for 4.0, and FADE with its gate 1.0 for 2.1 and 1.95 for 3.6: "
                "CARAFE's logits are read before they are shuffled, FADE's of both sizes before they are added up, "
                "and the gate is in the same kernel. Tried for the softmax by XLA: sums and maxima of slices, one "
                "kernel that writes a plane for each tap, the logarithm of the sum; a barrier between softmax and "
                "window sum changes nothing."
            ),
            _BY_HAND,
            (
                "What compresses and what encodes is one convolution where the first has more channels than the "
                "input, as at 32 channels, and its bias, which ends at the image's edge, is taken back there in "
                "place. Apart CARAFE is 3.2, 5.8 with the gradient, in 4 and 15 kernels, FADE 4.7 and 9.1 in 8 and "
                "32: one convolution is more kernels, of parameters, and pays for large maps. Their product is one "
                "for each tap: for one with the taps in its columns XLA copied the kernel, which was 3.1 and 5.7."
            ),
            (
                "What is left of CARAFE are its 100 logits for each pixel, 80 % of the result, and its parameters, "
                "nearly as many as x has numbers."
            ),
            "The softmax of UPLiFT's attender, 2.8 of its own need and 3.8 with the gradient, is 3 % of the layer.",
            (
                "Where SAPA's queries have more channels than the guide, as at 32, they are not written: their "
                "projection is made of the keys, and the kernel normalizes the guide, 1.8 and 3.0 for 4.4 and 8.9; in "
                "two steps of the keys, and not by one product of parameters, it is 2.6 and 5.2. At 256 channels "
                "queries are fewer than the guide's channels."
            ),
            (
                "What is left of FADE above 5 are its three kernels, 2.1, convolutions and their gradients, 1.5, and "
                "the sum of the guide's two gradients, 0.65; the logits' gradient is read for the bias and for the "
                "map's logits, 0.38. Tried: with the guide's share of the gradient written by the kernel, so that "
                "cuDNN's convolution adds to it, and the bias added to the map's logits, it was 5.03, at 256 channels, "
                "where no convolution adds, 4.24 for 4.04, and FADE-Lite 6.76 for 6.72: there is no form of its own."
            ),
            (
                "FADE-Lite's projection and its filters of each channel as one convolution are 2.76 and 5.38, but "
                "nine times the operations and in 15 and 44 kernels, and at 256 channels 1.93 for 1.88."
            ),
            (
                "What is left of joint bilateral is the guide in units of its deviation, which is written and read. "
                "By XLA joint bilateral as a loop over rows of taps was 10.1, and 58 with its gradient, which "
                "scattered; its origin is the mean of some pixels, since that of all is a pass that writes them and "
                "one that reads, 1.0 of need at 256 channels."
            ),
            (
                "What is left of IndexNet is the normalization and ReLU6, which cuDNN's convolution does not take in, "
                "and the products of its groups, each a pass of 0.8."
            ),
            (
                "JBU's windows of 49 taps are 1.6 MB beside a need of 2.4 MB, and ten passes read or write them. What "
                "compares the guide is some 4 of its 17.6, of which one kernel would leave 1.1, less than the 1.5 "
                "times of the layer that pay for one; one from the compared channels to the weights, with the products "
                "of 49 and 81 channels and the GELU between them, would leave 7, by addition, since the guide's own "
                "products, both enlarged maps with their mirrored edges, and the weights are still written. Mirrored "
                "by concatenations, which are written for each axis and side, it was 22.4, at 256 channels 8.3; with "
                "the gather that mirrors inside the window sum XLA wrote all 49 products, 48 of need. Its two inputs "
                "multiplied side by side and not apart are as much, with the gradient 24.6 for 25.5, but at 256 "
                "channels 5.4 for 4.2 and 7.6 for 7.1."
            ),
            (
                "NAF's ten convolutions of 128 channels at the high resolution are 16 of need, and before most of "
                "them a normalization reads the map for its mean, writes the deviations, reads them for the variance "
                "and once more: XLA fuses no subtraction into a sum over an image. Deviations from a first value, "
                "both sums at once, are 66 of need; the mean of plain squares is 53, but where the mean is large it "
                "rounds the variance away. Its gradient by XLA folds twice: as loops of 100 steps, since at the edges "
                "that many outputs share a center, it was 1288 kernels and 451 of need; as one sum over gathers by "
                "tables of what sees a pixel it is what stands above. With gathers that fill up in place of a mask "
                "XLA wrote all that they read, 7 of need more. What is left above 6 and 10 are the convolutions and "
                "normalizations; so it is in AnyUp, JAFAR and LoftUp, whose encoders of 128 channels and more run at "
                "the high resolution."
            ),
            (
                "JAFAR and LoftUp attend to all pixels: logits of 4096 x 1024 for each image and head, in tiles, are "
                "written, read for maximum and sum, and multiplied."
            ),
            (
                "LIIF's network of 256 channels runs for four corners of every output pixel, and each layer is a "
                "product of matrices that is written. For one corner after the other it was 199 and, with the "
                "gradient, 382."
            ),
            (
                "A2U's two filters are one kernel of the taps each; as windows of cells in four groups it was 19; the "
                "sums for the gradient of a kernel are few numbers, but two small kernels for most taps."
            ),
            (
                "XLA joins the products of the guided filter's network at both sizes and cuts their results, which "
                "was 7.8, 12.3 with the gradient; kept apart, and with a ReLU whose derivative is told from its "
                "value, each product is one kernel with bias and ReLU. Its two products are 3.3 of need at 32 "
                "channels; the filter itself is a few kernels more."
            ),
            (
                "The gradients of samplers stand with the branch for positions anywhere, where it is dearer: by "
                "scatters, which read the values once for each tap, DySample was 6.0."
            ),
        ),
        (
            _BY_HAND_ON_TPU,
            (
                "Attention, given logits and sums over windows are kernels by hand. By XLA, which several devices "
                "have, SAPA is 64.7 and, with the gradient, 116 of need, joint bilateral 49.4 and 307, CARAFE 41.0 "
                "and 57.6, FADE 44.6 and 53.9, FADE-Lite 34.9 and 56.8, DySample 45.4 and 97.4, JBU 187 and 214, NAF "
                "688 and 1008, AnyUp 320 and 460, FreqFusion 334."
            ),
            (
                "AnyUp averages the weights of its heads, and JBU's windows go through a network: their similarities "
                "and sums are kernels of their own, with weights in memory between. FreqFusion has three windows, of "
                "9, 25 and 25 taps, and the encoders of its filters. With the likeness of its neighbors by XLA, a "
                "window of every second pixel, it was 1335 µs."
            ),
            (
                "JBU was 455 µs and, with the gradient, 1063. Mirrored edges by XLA, which pads, reverses and joins, "
                "are 65 µs and 67 for their transpose, each of two maps, and 13 and 17 by a kernel of permutations; as "
                "a product for the edges alone they were 32 and 37. GELU by erfc writes where it branches, 76 µs "
                "between two products for 28 by erf. With the taps of a window's columns next to each other, and not "
                "of its rows, they were transposed before and after each kernel, 31 µs; both sums of the kernel in one "
                "pass are 23 less, and the product of its two inputs apart 14 less."
            ),
            (
                "Samplers stand with the dearer branch. With channels in the lanes of what is read anywhere, DySample "
                "of 256 channels was 79 of need and 96 with the gradient."
            ),
            (
                "The gradient of a bias before a shuffle, in DySample and `sub_pixel_conv`, is summed from what the "
                "shuffle's transpose has written: together XLA sums along axes of two in the rows of vectors, 107 of "
                "193 µs."
            ),
            (
                "A2U's two filters of cells are one grouped convolution, which reads the guide twice: with one for "
                "each filter, of 43 µs and, with the gradient, 97, the layer was 262 and 799. As windows of cells they "
                "were 215 and 512, as sums of every second pixel, each of which is written, 114 and 350. One with two "
                "results for each group is ahead, 173, but its gradient multiplies by zeros, 40275, or is 581 with one "
                "for each filter there; and v6e compiles it 64 s. Its logits are written before they are shuffled, or "
                "XLA writes the prediction for each pixel, with an axis of two next to last: 317 and 561 for 226 and "
                "475. With images, and not filters, outermost among the groups, as devices share them, it is 177 and "
                "462."
            ),
            (
                "LIIF is products of 256 channels for each of four corners, of which the gradient writes all. With "
                "pixels looked up for each corner it was 401 µs and, with the gradient, 1044; with all corners in one "
                "product, as on a GPU, 264 and 1691, in a loop 521 and 2561."
            ),
            (
                "Columns are last in windows, and the maps of these rows have 32 and 64, which fill a quarter and a "
                "half of the lanes: SAPA as a function, with 64 and 128 columns, comes to a quarter, and so do "
                "DySample's samples to less."
            ),
            (
                "The encoders of UPLiFT, NAF, AnyUp, JAFAR and LoftUp run at the high resolution, most with 128 "
                "channels, and write each map; JAFAR and LoftUp write the logits of all pairs of pixels besides, in "
                "loops over tiles."
            ),
            (
                "Convolutions have images in the rows of a vector, and two images fill a quarter. To 32 channels and "
                "fewer, and of one tap, they are sums of a product for each tap, with pixels in the rows: FADE was "
                "158 µs and, with the gradient, 334, flow alignment 197 and 731, resize_conv 67 and 161. Products "
                "to more channels too make UPLiFT 478 and 1500, but on v6e 236 and 775 for 156 and 506, and no program "
                "is told for which of them it is; of 8 images to 9 channels they are 115 for 110, with gradients 225 "
                "for 184 (64x64x64). Of gradients of kernels NAF is 4320 for 4576, UPLiFT 1534 for 1500. Results of "
                "more channels, and what the gradients of kernels read, are laid with pixels there: without either "
                "UPLiFT was 681 and 4059, FADE 456, CARAFE 201, transposed_conv 137, sub_pixel_conv 43 and 106, AnyUp "
                "2252 and 6619, JAFAR 2905 and 8566."
            ),
            (
                "The encoders of NAF, AnyUp and JAFAR normalize before each convolution, in two passes of 21 µs, and "
                "read the gradient for two sums at once. With one more, for what the variance owes to the mean, which "
                "is nothing, and groups of channels on an axis, AnyUp was 2134 and 6442 µs. NAF's encoder by parts of "
                "images, as many as fill a vector, with the rows of their neighbors, was 1423 and 4430 for 1503 and "
                "4372, both with queries averaged by matrices. What is left besides are 24 for each SiLU, 40 for each "
                "window of 3 and its mirrored edges, queries that are turned, 179 by themselves, and moved to the "
                "layout of windows, 340, and the attention, 385. Queries turned by rolled channels are 440 by "
                "themselves, with columns last 179 again. "
                "Windows as convolutions along rows, with columns as images, are 380 for 988 by themselves (two of "
                "them with what is before), but in NAF 1713, in AnyUp 2304 and in CARAFE 92 for 70."
            ),
            (
                "Seconds are those of all threads. On two cores, with tracing, layers with their gradients take 4 to "
                "9 s of time, and what takes longer are LIIF, some 17, NAF, 23, FreqFusion, 27, and other encoders. By "
                "the compiler's log it is code that is written out: of NAF's 104 different operations convolutions, "
                "products, and sums that are fused with them are 3000 to 15000 instructions each and take 1 to 4 s of "
                "all threads. Alike ones are compiled once, so that NAF's blocks in a loop take as long, 47 s for 54, "
                "and 5318 µs for 4372. 5 s more are the trace of its kernels, and of the sums that XLA drops for them."
            ),
        ),
    ),
}
