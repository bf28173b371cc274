"""Interpolation by hand on a TPU: interpreted here, against matrices in float64; test_compiled compiles it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import upsampling as up
from upsampling import conventions
from upsampling.primitives import _common, resample_on_tpu, taps, window_sum

# In the vectors: images and channels (few, many, odd, images alone); channels and columns (several of each); rows and
# columns (batch axes, none, channels first, rows that fill no vector).
BY_TAPS = [((8, 9, 10, 96), (13, 15)), ((4, 7, 5, 128), (3, 10)), ((16, 1, 3, 256), (4, 1)), ((250, 5, 6, 7), (10, 12))]
CHANNELS_FIRST = (2, 3, 17, 300)
BY_COLUMNS = [((2, 9, 40, 8), (18, 80)), ((1, 12, 300, 16), (5, 411)), ((3, 1, 130, 24), (7, 60))]
OF_PLANES = [
    ((2, 41, 90, 5), (61, 270)),
    ((140, 100, 3), (21, 120)),
    (CHANNELS_FIRST, (33, 100)),
    ((1, 64, 99, 3), (7, 99)),
]


def operators_of(shape, size, method="cubic"):
    first = len(shape) - (2 if shape == CHANNELS_FIRST else 3)
    axes = tuple(map(taps.Axis, shape[first : first + 2], size))
    return tuple(zip((first, first + 1), taps.operators(axes, method, conventions.torch, True), strict=True))


def image(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def in_float64(x, operators):
    for axis, operator in operators:
        x = np.moveaxis(np.tensordot(np.asarray(x, np.float64), operator.matrix(), (axis, 1)), -1, axis)
    return x


def interpreted(kernel, x, operators):
    return jax.jit(functools.partial(kernel, operators=operators, interpret=True))(x)


@pytest.mark.parametrize("rows", ["all", "blocks"])
@pytest.mark.parametrize(
    ("kernel", "shape", "size"),
    [
        *(("by_taps", *given) for given in BY_TAPS),
        *(("by_columns", *given) for given in BY_COLUMNS),
        *(("of_planes", *given) for given in OF_PLANES),
    ],
)
def test_kernels_are_the_taps_and_their_transpose(kernel, shape, size, rows, monkeypatch):
    if rows == "blocks":  # of which the last is not whole
        monkeypatch.setattr(resample_on_tpu, "_plan", lambda taps, _, unit=1, longest=0: plan_of(taps, 3 * unit, unit))
    forward = operators_of(shape, size)
    backward = tuple((axis, operator.transpose) for axis, operator in forward)
    for operators, dtype in itertools.product((forward, backward), (jnp.float32, jnp.bfloat16)):
        sizes = {axis: operator.size for axis, operator in operators}
        x = jnp.asarray(image(*(sizes.get(axis, n) for axis, n in enumerate(shape))), dtype)
        chosen = resample_on_tpu.choose(x, operators, dense=1)
        assert chosen is getattr(resample_on_tpu, kernel)
        y, expected = interpreted(chosen, x, operators), in_float64(x, operators)
        assert y.dtype == dtype
        # A number of half precision is rounded once, from sums of which 16 bits count.
        own, of_sums = (0, 3e-7) if dtype == jnp.float32 else (float(jnp.finfo(dtype).eps) / 2, 4e-6)
        atol = of_sums * np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=own, atol=atol)


def plan_of(operator, rows, unit=1):
    read = [operator.indices[i : i + rows] for i in range(0, operator.outputs, rows)]
    first = np.asarray([block.min() // unit * unit for block in read])
    span = max(-(-int(block.max() + 1 - at) // unit) * unit for block, at in zip(read, first, strict=True))
    return resample_on_tpu._Plan(rows, np.minimum(first, operator.size - span), span, bytes=0)


def test_blocks_are_as_large_as_the_chip_holds_and_read_few_rows_twice():
    ((_, operator), _) = operators_of((1, 64, 64, 1), (128, 128), "linear")
    usual, most = resample_on_tpu._BLOCK_BYTES, resample_on_tpu._MOST_BYTES
    for bytes_of_row, largest in ((1, usual), (1 << 20, usual), (most // 5, most), (most // 3, most)):
        plan = resample_on_tpu._plan(operator, lambda rows, span, each=bytes_of_row: each * (rows + span))
        assert plan is not None
        assert plan.bytes == bytes_of_row * (plan.rows + plan.span) <= largest
        for block, first in enumerate(plan.first):
            read = operator.indices[block * plan.rows : (block + 1) * plan.rows]
            assert first <= read.min()
            assert read.max() < first + plan.span <= operator.size
        np.testing.assert_array_equal(plan.first, plan_of(operator, plan.rows).first)
        if largest == usual:  # at most twice the half of its rows that a block reads
            assert plan.span <= plan.rows
    wide = resample_on_tpu._plan(operator, lambda rows, span: usual // 3 * (rows + span))
    assert wide is not None
    assert (wide.rows, wide.span) == (2, 3)  # one row, which would be held as usual, reads each of its rows twice
    assert resample_on_tpu._plan(operator, lambda rows, span: most * rows + span) is None
    short = resample_on_tpu._plan(operator, lambda rows, span: 1, unit=8, longest=16)
    assert short is not None
    assert (short.rows, short.span) == (8, 16)  # 6 rows, in two eights; of 16 they are in three


def test_what_is_no_number_stays_in_its_place_where_taps_are_summed():
    x = image(8, 6, 7, 96)
    x[3, 2, 4, 5] = np.nan
    operators = operators_of(x.shape, (12, 10), "linear")
    rows, columns = (operator.matrix() for _, operator in operators)
    y = np.isnan(interpreted(resample_on_tpu.by_taps, jnp.asarray(x, jnp.float32), operators))
    np.testing.assert_array_equal(y[3, :, :, 5], (rows[:, 2:3] != 0) & (columns[:, 4] != 0))
    assert y.sum() == y[3, :, :, 5].sum()


def test_programs_for_a_tpu_hold_one_kernel_and_one_for_the_gradient(monkeypatch):
    def kernels(shape, dtype=jnp.float32, method=up.bilinear, gradient=False, **sizes):
        function = functools.partial(method, **(sizes or {"scale": 2}))
        call = (lambda x: jax.vjp(function, x)[1](function(x))) if gradient else lambda x: function(x)
        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            program = jax.jit(call).trace(jax.ShapeDtypeStruct(shape, dtype)).lower(lowering_platforms=("tpu",))
        return program.as_text().count('kernel_name = "resample_')

    assert kernels((8, 16, 16, 128)) == kernels((2, 8, 40, 16)) == 1
    assert kernels((8, 16, 16, 128), gradient=True) == kernels((2, 8, 40, 16), jnp.bfloat16, gradient=True) == 2
    with jax.enable_x64(True):
        assert kernels((8, 16, 16, 128), method=up.bicubic) == 1
        assert kernels((8, 16, 16, 128), jnp.float64) == 0
    assert kernels((1, 200, 300, 3)) == kernels((200, 300, 3), jnp.bfloat16) == 1
    assert kernels((1, 3, 150, 260), axes=(2, 3), scale=2) == 1
    assert kernels((1, 200, 300, 3), gradient=True) == 2
    assert kernels((2, 8, 40, 16), method=up.nearest, size=(11, 57), gradient=True) == 2
    windows = lambda x, **_: up.reassemble(x, jnp.ones((8, 40, 1, 3, 3)), scale=1, edge="reflect")  # noqa: E731
    assert kernels((8, 40, 16), method=windows, gradient=True) == 2
    mesh, axis = Mesh(np.array(jax.devices()[:1]), ("devices",)), PartitionSpec("devices")
    by_shards = jax.shard_map(functools.partial(up.bilinear, scale=2), mesh=mesh, in_specs=axis, out_specs=axis)
    assert kernels((8, 16, 16, 128), method=lambda x, **_: by_shards(x), gradient=True) == 2
    # Which have none: few images of few channels, small images, other dtypes, one axis or three, copies, rows too long
    # for the chip, more taps than are written out.
    assert kernels((2, 16, 16, 64)) == kernels((8, 64, 64, 3)) == kernels((8, 16, 16, 128), jnp.float16) == 0
    assert kernels((8, 16, 128), scale=(2,)) == kernels((2, 8, 8, 8, 128), scale=(2, 2, 2)) == 0
    assert kernels((8, 16, 16, 128), method=up.nearest) == 0
    assert kernels((8, 16, 16, 128), method=up.nearest, gradient=True) == 0
    assert kernels((1, 200, 300, 3), method=up.nearest, size=(300, 400)) == 0  # products would spread a NaN
    assert kernels((8, 2, 9000, 128)) == kernels((8, 300, 2, 128), size=(2, 3), antialias=True) == 0
    monkeypatch.setenv(_common.SWITCH_ON_TPU, "0")
    assert kernels((8, 16, 16, 128)) == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("shape", "reach", "mode"),
    [
        ((2, 9, 40, 16), (2, 3), "reflect"),  # in one vector
        ((1, 5, 130, 24), (0, 3), "edge"),  # from two into two
        ((1, 3, 4, 8), (4, 5), "reflect"),  # an image that is mirrored again and again
        ((2, 4, 126, 8), (1, 3), "symmetric"),  # from one into two
    ],
)
def test_edges_are_copied_and_added_up_by_permutations(shape, reach, mode, dtype):
    """With a NaN in its place alone, where products would spread it."""
    x, operators = jnp.asarray(image(*shape), dtype), window_sum._edge_taps(shape, reach, mode)
    margins = [(0, 0), *((r, r) for r in reach), (0, 0)]
    assert resample_on_tpu.takes_by_columns(x, operators)
    y = interpreted(resample_on_tpu.by_columns, x.at[0, 0, 0, 0].set(jnp.nan), operators)
    copied = np.pad(np.asarray(x.at[0, 0, 0, 0].set(jnp.nan), np.float32), margins, mode=mode)
    np.testing.assert_array_equal(np.asarray(y, np.float32), copied)
    backward = [(axis, operator.transpose) for axis, operator in operators]
    cotangent = jnp.asarray(image(*y.shape), dtype)
    given = interpreted(resample_on_tpu.by_columns, cotangent, backward)
    expected = in_float64(cotangent, backward)
    own = 0 if dtype == jnp.float32 else float(jnp.finfo(dtype).eps) / 2
    np.testing.assert_allclose(np.asarray(given, np.float64), expected, rtol=own, atol=2e-7 * np.abs(expected).max())
    with_nan = cotangent.at[0, 1, 1, 0].set(jnp.nan)
    stays = np.isnan(interpreted(resample_on_tpu.by_columns, with_nan, backward))
    reads = [operator.matrix()[:, 1] != 0 for _, operator in backward]
    np.testing.assert_array_equal(stays[0, :, :, 0], reads[0][:, None] & reads[1])
    assert stays.sum() == stays[0, :, :, 0].sum()


def test_nearest_at_any_factor_is_a_kernel_that_copies():
    x = jnp.asarray(image(2, 8, 140, 8), jnp.float32)
    operators = operators_of(x.shape, (11, 300), "nearest")
    y = interpreted(resample_on_tpu.choose(x, operators, dense=1), x, operators)
    np.testing.assert_array_equal(y, up.nearest(x, (11, 300)))


@pytest.mark.parametrize("kernel", ["by_columns", "of_planes"])
def test_products_spread_what_is_no_number_over_the_columns_of_their_blocks(kernel):
    """As the page on accelerators says: over the blocks of 128 columns that read its 128; and over the rows that read
    it, or all of a block."""
    x = image(1, 12, 300, 8)
    x[0, 5, 270, 3] = np.nan
    operators = operators_of(x.shape, (24, 411), "linear")
    y = np.isnan(interpreted(getattr(resample_on_tpu, kernel), jnp.asarray(x, jnp.float32), operators))
    rows = operators[0][1].matrix()[:, 5] != 0 if kernel == "by_columns" else np.ones(24, bool)
    np.testing.assert_array_equal(y[0, :, :, 3], rows[:, None] & (np.arange(411) >= 256))
    assert y.sum() == y[0, :, :, 3].sum()
