"""Transposed convolutions against PyTorch, ONNX Runtime and sums written from the definition."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from onnx import TensorProto, helper

from tests.compiling import planned_as_for_users
from tests.optional import F, torch
from upsampling.convolution import (
    deconv,
    pixel_shuffle,
    pixel_unshuffle,
    sub_pixel_conv,
    transposed_conv,
    transposed_conv_size,
)
from upsampling.primitives import _common
from upsampling.primitives import transposed_conv as primitive

TORCH_CONV = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def torch_kernel(kernel, groups):
    """(*window, in // groups, out) -> PyTorch's (in, out // groups, *window)."""
    *window, inner, out = kernel.shape
    blocks = np.asarray(kernel).reshape(*window, inner, groups, out // groups)
    return np.ascontiguousarray(np.moveaxis(blocks, [-2, -3, -1], [0, 1, 2]).reshape(groups * inner, -1, *window))


def channels_first(x):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def random_cases(count, seed):
    """Transposed convolutions drawn over all that PyTorch has: (shape of x, shape of kernel, arguments)."""
    rng = np.random.default_rng(seed)
    cases = []
    while len(cases) < count:
        rank = int(rng.integers(1, 4))
        pick = lambda low, high, rank=rank: tuple(int(n) for n in rng.integers(low, high + 1, rank))  # noqa: E731
        strides, window, dilation = pick(1, 4), pick(1, (7, 7, 4)[rank - 1]), pick(1, 3)
        if rng.random() < 0.5:
            dilation = (1,) * rank
        size = pick(1, (17, 17, 5)[rank - 1])
        output_padding = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(strides, dilation, strict=True))
        padding = pick(0, 3)
        groups, inner, outer = (int(n) for n in rng.integers(1, 4, 3))
        if rng.random() < 0.2:
            inner = 1
        full = [
            (n - 1) * s + d * (k - 1) + 1 - 2 * p + o
            for n, s, d, k, p, o in zip(size, strides, dilation, window, padding, output_padding, strict=True)
        ]
        if min(full) < 1:
            continue
        arguments = {
            "strides": strides,
            "padding": padding,
            "output_padding": output_padding,
            "dilation": dilation,
            "groups": groups,
        }
        cases.append(((int(rng.integers(1, 3)), *size, inner * groups), (*window, inner, outer * groups), arguments))
    return cases


def close(actual, expected, tolerance=1e-4):
    """Equal to `tolerance` relative to the largest value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1e-3, np.abs(expected).max(initial=0)))


def by_definition(x, kernel, strides, dilation, groups, low, size):
    """The transposed convolution written from its definition, in float64."""
    window, inner, out = kernel.shape[:-2], kernel.shape[-2], kernel.shape[-1]
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    spatial = x.shape[1:-1]
    full = [
        max((n - 1) * s + d * (k - 1) + 1, lo + m)
        for n, s, d, k, lo, m in zip(spatial, strides, dilation, window, low, size, strict=True)
    ]
    y = np.zeros((x.shape[0], *full, out))
    for pixel in np.ndindex(*spatial):
        for tap in np.ndindex(*window):
            where = tuple(i * s + j * d for i, s, j, d in zip(pixel, strides, tap, dilation, strict=True))
            value = x[(slice(None), *pixel)].reshape(-1, groups, inner)
            weight = kernel[tap].reshape(inner, groups, out // groups)
            y[(slice(None), *where)] += np.einsum("ngi,igo->ngo", value, weight).reshape(-1, out)
    return y[(slice(None), *(slice(lo, lo + m) for lo, m in zip(low, size, strict=True)))]


@pytest.mark.parametrize("seed", range(6))
def test_output_and_gradients_are_pytorchs(seed):
    cases, arrays = random_cases(6, seed), []
    rng = np.random.default_rng(seed)
    for x_shape, kernel_shape, arguments in cases:
        spacing = {k: v for k, v in arguments.items() if k != "groups"}
        size = transposed_conv_size(x_shape[1:-1], kernel_shape[:-2], **spacing)
        shapes = (x_shape, kernel_shape, kernel_shape[-1:], (x_shape[0], *size, kernel_shape[-1]))
        arrays.append([rng.standard_normal(shape).astype(np.float32) for shape in shapes])

    @jax.jit  # all cases in one program: most of the time goes into compiling
    def outputs_and_gradients(arrays):
        results = []
        for (*operands, g), (_, _, arguments) in zip(arrays, cases, strict=True):
            y, pull = jax.vjp(functools.partial(transposed_conv, **arguments), *operands)
            results.append((y, pull(g)))
        return results

    found = zip(outputs_and_gradients(arrays), arrays, cases, strict=True)
    for (y, gradients), (x, kernel, bias, g), (_, _, arguments) in found:
        groups = arguments["groups"]
        theirs = [channels_first(x), torch.tensor(torch_kernel(kernel, groups)), torch.tensor(bias)]
        for t in theirs:
            t.requires_grad_()
        torch_arguments = {"stride" if k == "strides" else k: v for k, v in arguments.items()}
        expected = TORCH_CONV[kernel.ndim - 2](*theirs, **torch_arguments)
        close(y, np.moveaxis(expected.detach().numpy(), 1, -1))
        expected = torch.autograd.grad(expected, theirs, channels_first(g))
        close(gradients[0], np.moveaxis(expected[0].numpy(), 1, -1))
        close(torch_kernel(gradients[1], groups), expected[1].numpy())
        close(gradients[2], expected[2].numpy())


# Window, strides, dilation, groups, size of the input, crop, size of the output. Together they reach every form's
# branches: kernels longer and shorter than the stride, equal to it, phases without taps, crops beyond the result.
FORMS = [
    ((4, 3), (2, 2), (1, 1), 1, (6, 4), (1, 0), (12, 8)),
    ((5, 2), (2, 3), (1, 1), 2, (4, 3), (2, 0), (8, 9)),
    ((3, 3), (2, 4), (3, 2), 1, (6, 3), (2, 1), (12, 12)),
    ((7,), (1,), (2,), 3, (6,), (4,), (6,)),
    ((2, 2), (2, 2), (1, 1), 2, (3, 4), (0, 0), (6, 8)),
    ((1, 6), (3, 2), (1, 1), 1, (4, 4), (1, 2), (9, 12)),
    ((8, 1), (4, 4), (1, 1), 1, (4, 1), (2, 0), (16, 4)),
    ((2,), (3,), (1,), 1, (2,), (4,), (5,)),
    ((5,), (3,), (1,), 2, (4,), (1,), (13,)),
]


def outputs_and_gradients(forms, geometry, x, kernel, g):
    """Of each form, by its name."""

    @jax.jit
    def compute(x, kernel, g):
        found = {}
        for name, form in forms.items():
            y, pull = jax.vjp(functools.partial(form, geometry), x, kernel)
            found[name] = y, pull(g)
        return found

    return compute(x, kernel, g)


@pytest.mark.parametrize("block_bytes", [1, 1 << 30])
@pytest.mark.parametrize(("window", "strides", "dilation", "groups", "spatial", "low", "size"), FORMS)
def test_every_form_is_the_definition(monkeypatch, block_bytes, window, strides, dilation, groups, spatial, low, size):
    """In one block and in as many as there can be; and the gradients of all forms are those of one."""
    monkeypatch.setattr(_common, "BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *spatial, 3 * groups)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((*window, 3, 2 * groups)), jnp.float32)
    geometry = primitive.Geometry(strides, dilation, low, size, groups)
    expected = by_definition(x, kernel, strides, dilation, groups, low, size)
    g = jnp.asarray(rng.standard_normal(expected.shape), jnp.float32)
    forms = {
        "chosen": primitive.transposed_conv,
        "dilation": primitive._by_dilation,
        "taps": primitive._by_taps,
        "phases": primitive._by_convolutions,
        "all phases": primitive._by_one_convolution,
        "columns": primitive._by_columns,
    }
    found = outputs_and_gradients(forms, geometry, x, kernel, g)
    for y, gradients in found.values():
        close(y, expected, 1e-5)
        close(gradients[0], found["dilation"][1][0], 1e-5)
        close(gradients[1], found["dilation"][1][1], 1e-5)


def test_large_images_are_computed_in_blocks_of_rows():
    """Of at most `BLOCK_BYTES`, read off the loop over them: matrices of whole images would not fit the caches."""
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 64, 256, 32), (4, 4, 32, 32)))
    geometry = primitive.Geometry((2, 2), (1, 1), (1, 1), (128, 512), 1)
    # A row's products with all taps are 256 * 16 * 32 floats, 512 kB; a block of the output is 512 * 32 floats a row.
    for form, blocks in ((primitive._by_taps, 16), (primitive._by_columns, 4)):
        text = str(jax.make_jaxpr(functools.partial(form, geometry))(x, kernel))
        assert f"length={blocks}\n" in text, form


@pytest.mark.parametrize(
    ("window", "dilation", "spatial", "low", "size"),
    [
        ((3, 2), (1, 3), (5, 4), (1, 0), (6, 5)),
        ((5,), (2,), (4,), (11,), (3,)),
        ((1, 3, 2), (1, 1, 1), (2, 3, 4), (0, 1, 0), (2, 3, 4)),
    ],
)
def test_channels_by_themselves_at_stride_one_are_sums_of_shifts(window, dilation, spatial, low, size):
    rng, rank = np.random.default_rng(0), len(window)
    x = jnp.asarray(rng.standard_normal((2, *spatial, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((*window, 1, 3)), jnp.float32)
    geometry = primitive.Geometry((1,) * rank, dilation, low, size, 3)
    assert primitive._is_sum_of_shifts(geometry, kernel)
    expected = by_definition(x, kernel, (1,) * rank, dilation, 3, low, size)
    g = jnp.asarray(rng.standard_normal(expected.shape), jnp.float32)
    forms = {"chosen": primitive.transposed_conv, "dilation": primitive._by_dilation}
    found = outputs_and_gradients(forms, geometry, x, kernel, g)
    close(found["chosen"][0], expected, 1e-5)
    for ours, theirs in zip(found["chosen"][1], found["dilation"][1], strict=True):
        close(ours, theirs, 1e-5)
    assert not primitive._is_sum_of_shifts(geometry, jnp.zeros((*(129,) * rank, 1, 3)))


@pytest.mark.parametrize(
    ("window", "pads", "dilation", "groups"),
    [((3, 2), ((1, 1), (0, 3)), (1, 2), 1), ((5,), ((0, 0),), (1,), 6), ((1, 3, 2), ((0, 1),) * 3, (3, 1, 2), 2)],
)
def test_convolve_is_xlas_convolution(window, pads, dilation, groups):
    rng, rank = np.random.default_rng(0), len(window)
    x = rng.standard_normal((2, *(7, 6, 5)[:rank], 6), np.float32)
    kernel = rng.standard_normal((*window, 6 // groups, 12), np.float32)

    @jax.jit
    def compute(x, kernel):
        ours = primitive.convolve(x, kernel, pads=pads, dilation=dilation, groups=groups)
        return ours, convolution(x, kernel, (1,) * rank, pads, dilation, groups)

    ours, xlas = compute(x, kernel)
    close(ours, xlas, 1e-5)


def onnx_run(operator, inputs, opset=18, **attributes):
    """Runs one operator on NumPy arrays."""
    names = [f"input{i}" for i in range(len(inputs))]
    node = helper.make_node(operator, names, ["output"], **attributes)
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    values = [helper.make_tensor_value_info(n, kinds[a.dtype], a.shape) for n, a in zip(names, inputs, strict=True)]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


@pytest.mark.parametrize("seed", range(3))
def test_is_onnxs_conv_transpose(seed):
    for x_shape, kernel_shape, a in random_cases(4, 100 + seed):
        rng = np.random.default_rng(seed)
        x, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, kernel_shape))
        bias = rng.standard_normal(kernel_shape[-1]).astype(np.float32)
        # ONNX Runtime takes no output padding as large as the stride.
        a["output_padding"] = tuple(min(o, s - 1) for o, s in zip(a["output_padding"], a["strides"], strict=True))
        # Pads that differ on the two sides are ONNX's but not PyTorch's.
        high = tuple(max(0, p - 1) for p in a["padding"])
        expected = onnx_run(
            "ConvTranspose",
            [np.moveaxis(x, -1, 1), torch_kernel(kernel, a["groups"]), bias],
            strides=a["strides"],
            dilations=a["dilation"],
            group=a["groups"],
            pads=(*a["padding"], *high),
            output_padding=a["output_padding"],
        )
        a["padding"] = tuple(zip(a["padding"], high, strict=True))
        close(transposed_conv(x, kernel, bias, **a), np.moveaxis(expected, 1, -1))


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize(
    ("size", "window", "stride"), [(8, 4, 2), (8, 3, 1), (3, 4, 2), (5, 2, 2), (2, 7, 1), (4, 1, 2), (4, 5, 2)]
)
def test_circular_and_same_are_flaxs(size, window, stride, transpose_kernel):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, size, size + 1, 3), np.float32)
    kernel = rng.standard_normal((window, window, 3, 2), np.float32)
    # Where window and stride differ by an odd number, Flax shifts "CIRCULAR" with `transpose_kernel` by one pixel.
    for padding in ("SAME",) if transpose_kernel and (window - stride) % 2 else ("SAME", "CIRCULAR"):
        theirs = nnx.ConvTranspose(
            3, 2, (window,) * 2, (stride,) * 2, padding=padding, transpose_kernel=transpose_kernel, rngs=nnx.Rngs(0)
        )
        theirs.kernel[...] = kernel.swapaxes(2, 3) if transpose_kernel else kernel[::-1, ::-1]
        ours = jax.jit(functools.partial(transposed_conv, strides=stride, padding=padding))
        close(ours(x, kernel), nnx.jit(theirs)(x), 1e-5)


def convolution(x, kernel, strides, padding, dilation, groups):
    """The convolution that `deconv` is the adjoint of, by XLA."""
    rank = kernel.ndim - 2
    if padding == "CIRCULAR":
        reach = [d * (k - 1) for k, d in zip(kernel.shape, dilation, strict=False)]
        x = jnp.pad(x, ((0, 0), *((r // 2, r - r // 2) for r in reach), (0, 0)), mode="wrap")
        padding = "VALID"
    elif not isinstance(padding, str):
        padding = [(p, p) if isinstance(p, int) else p for p in padding]
    axes = "DHW"[-rank:]
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )


ADJOINTS = [
    ((9,), (4,), (2,), (1,), 1),
    ((1,), (3,), (2,), (1,), 1),
    ((7, 10), (3, 4), (2, 3), (1, 1), 1),
    ((8, 6), (5, 2), (1, 2), (1, 2), 2),
    ((11, 9), (3, 3), (2, 2), (2, 3), 4),
    ((5, 4, 6), (3, 2, 4), (2, 1, 2), (1, 1, 1), 2),
]


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR", 1, ((1, 0), (2, 1), (0, 2))])
@pytest.mark.parametrize(("size", "window", "strides", "dilation", "groups"), ADJOINTS)
def test_deconv_is_the_adjoint(size, window, strides, dilation, groups, padding):
    rank = len(size)
    if isinstance(padding, int):
        padding = (padding,) * rank
    elif not isinstance(padding, str):
        padding = padding[:rank]
    rng, inner, out = np.random.default_rng(0), 4, 8
    kernel = rng.standard_normal((*window, inner // groups, out), np.float32)
    arguments = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    forward = functools.partial(convolution, **arguments)
    # Every size that the convolution maps to the same one.
    cases = []
    for more in itertools.product(*(range(s) for s in strides)):
        x = rng.standard_normal((2, *(n + m for n, m in zip(size, more, strict=True)), inner), np.float32)
        shape = jax.eval_shape(forward, x, kernel).shape
        if min(shape) >= 1:
            cases.append((x, rng.standard_normal(shape, np.float32)))
    assert cases or size == (1,)

    @jax.jit
    def compute(kernel, cases):
        results = []
        for x, y in cases:
            there, pull = jax.vjp(lambda x: forward(x, kernel), x)
            results.append((there, pull(y)[0], deconv(y, kernel, **arguments, output_size=x.shape[1:-1])))
        return results

    for (x, y), (there, expected, back) in zip(cases, compute(kernel, cases), strict=True):
        close(back, expected, 1e-5)
        left, right = np.vdot(there, y), np.vdot(x, back)
        scale = np.linalg.norm(there) * np.linalg.norm(y)
        assert abs(left - right) < 1e-5 * scale


def test_deconv_without_output_size():
    kernel = jnp.ones((3, 2, 5))
    y = jnp.ones((4, 5))
    sizes = {p: deconv(y, kernel, strides=3, padding=p).shape[0] for p in ("SAME", "CIRCULAR", "VALID", 1)}
    assert sizes == {"SAME": 12, "CIRCULAR": 12, "VALID": 12, 1: 10}
    # With this padding an image of no pixels and one of one pixel give one window each; the default is one pixel.
    assert deconv(y[:1], kernel[:2], strides=2, padding=1).shape == (1, 2)


@pytest.mark.parametrize("window", [(3, 4), (2, 2)])
def test_derivatives_of_derivatives(window):
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 2))
    kernel = jax.random.normal(jax.random.key(1), (*window, 2, 3))
    geometry = primitive.Geometry((2, 2), (1, 1), tuple((k - 2) // 2 for k in window), (8, 6), 1)

    def ours(x, kernel):
        return transposed_conv(jnp.sin(x), jnp.cos(kernel))

    def reference(x, kernel):
        return primitive._by_dilation(geometry, jnp.sin(x), jnp.cos(kernel))

    def penalty(f):
        """The gradient of squared gradients, as a gradient penalty has it: reverse over reverse."""

        def inner(x, kernel):
            gradients = jax.grad(lambda x, kernel: (f(x, kernel) ** 2).sum(), argnums=(0, 1))(x, kernel)
            return sum((g**2).mean() for g in gradients)

        return jax.grad(inner, argnums=(0, 1))(x, kernel)

    def curvature(f):
        """A Hessian times a vector: forward over reverse."""
        loss = jax.grad(lambda x, kernel: (f(x, kernel) ** 2).sum(), argnums=(0, 1))
        return jax.jvp(loss, (x, kernel), (jnp.ones_like(x), kernel))[1]

    def tangent(f):
        return jax.jvp(f, (x, kernel), (jnp.ones_like(x), kernel))

    for derivative in (tangent, curvature, penalty):
        a, b = jax.jit(lambda derivative=derivative: (derivative(ours), derivative(reference)))()
        jax.tree.map(close, a, b)


@pytest.mark.parametrize("kernel_shape", [(4, 4, 3, 2), (2, 2, 3, 2), (3, 3, 1, 3)])
def test_vmap_over_kernels(kernel_shape):
    groups = 3 // kernel_shape[2]
    x = jax.random.normal(jax.random.key(0), (3, 2, 5, 4, 3))
    kernels = jax.random.normal(jax.random.key(1), (3, *kernel_shape))

    def f(x, kernel):
        return transposed_conv(x, kernel, groups=groups)

    def loss(x, kernel):
        return (f(x, kernel) ** 2).sum()

    gradient = jax.grad(loss, argnums=(0, 1))

    def one_by_one(f, *arguments):
        return jax.lax.map(lambda a: f(*a), arguments)

    @jax.jit
    def pairs(x, kernels):
        gradients = one_by_one(gradient, x, kernels)
        return [
            (jax.vmap(f)(x, kernels), one_by_one(f, x, kernels)),
            (jax.vmap(f, (None, 0))(x[0], kernels), one_by_one(lambda kernel: f(x[0], kernel), kernels)),
            (jax.vmap(gradient)(x, kernels), gradients),
            (jax.grad(lambda *a: jax.vmap(loss)(*a).sum(), argnums=(0, 1))(x, kernels), gradients),
        ]

    for actual, expected in pairs(x, kernels):
        jax.tree.map(functools.partial(close, tolerance=1e-5), actual, expected)


def test_kernel_equal_to_stride_is_a_matrix_product():
    x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((2, 2, 16, 8))
    step = jax.jit(lambda x, kernel, g: jax.vjp(transposed_conv, x, kernel)[1](g))
    for text in (
        jax.jit(transposed_conv).lower(x, kernel).as_text(),
        step.lower(x, kernel, jnp.ones((2, 16, 16, 8))).as_text(),
    ):
        assert "convolution" not in text
        assert "dot_general" in text


def test_gradients_multiply_no_zeros():
    """No convolution in forward or gradient has an input with zeros between its pixels, nor a window like an image."""
    x, kernel = jnp.ones((2, 16, 16, 4)), jnp.ones((4, 4, 4, 4))
    step = planned_as_for_users(lambda x, kernel, g: jax.vjp(transposed_conv, x, kernel)[1](g))
    for text in (
        planned_as_for_users(transposed_conv).lower(x, kernel).compile().as_text(),
        step.lower(x, kernel, jnp.ones((2, 32, 32, 4))).compile().as_text(),
    ):
        windows = [line for line in text.splitlines() if "window={" in line]
        assert windows
        assert not any("lhs_dilate" in line or "size=16x16" in line for line in windows)


@pytest.mark.parametrize(
    ("window", "strides", "dilation", "low", "groups"),
    [
        ((4, 3), (2, 2), (1, 1), (1, 0), 1),
        ((2, 3), (2, 3), (1, 1), (0, 0), 1),
        ((3, 2), (2, 1), (2, 1), (1, 0), 1),
        ((3, 4), (2, 2), (1, 1), (0, 1), 2),
        ((3, 6), (2, 4), (1, 1), (0, 4), 1),
        ((3, 2), (1, 1), (1, 1), (-2, 1), 1),
        ((1, 3), (1, 1), (1, 2), (0, 3), 1),
    ],
)
def test_forms_for_gpus_and_tpus(window, strides, dilation, low, groups):
    """The map, and its gradients, against those of a CPU."""
    rng, spatial = np.random.default_rng(0), (4, 5)
    geometry = primitive.Geometry(
        strides, dilation, low, tuple(n * s for n, s in zip(spatial, strides, strict=True)), groups
    )
    sizes = primitive._Sizes(geometry, spatial, window)
    x, y = (rng.standard_normal((2, *n, 4)).astype(np.float32) for n in (spatial, geometry.size))
    kernel = rng.standard_normal((*window, 4 // groups, 4)).astype(np.float32)
    for given, wanted, others in (
        (
            (x, kernel),
            primitive._transposed_conv_p,
            ("_transposed_conv_on_gpu", "_transposed_conv_on_tpu", "_transposed_conv_on_one_tpu"),
        ),
        (
            (y, kernel),
            primitive._input_gradient_p,
            ("_input_gradient_on_gpu", "_input_gradient_on_tpu", "_input_gradient_on_one_tpu"),
        ),
        ((x, y), primitive._kernel_gradient_p, ("_kernel_gradient_on_gpu",)),
    ):
        expected = wanted.bind(*given, sizes=sizes)
        for name in others:
            actual = jax.jit(functools.partial(getattr(primitive, name), sizes=sizes))(*given)
            np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5, err_msg=name)


def _for_a_tpu(images, channels, window=3, *, dtype=jnp.float32, export=False):
    """The text of a convolution to four times the channels and its gradients, for a TPU."""
    x, kernel = jnp.zeros((images, 4, 4, channels), dtype), jnp.zeros((window, window, channels, 4 * channels), dtype)

    @jax.jit
    def both(x, kernel):
        y, pull = jax.vjp(functools.partial(sub_pixel_conv, scale=2), x, kernel)
        return y, *pull(y)

    if export:
        return str(jax.export.export(both, platforms=("tpu",))(x, kernel).mlir_module())
    return both.trace(x, kernel).lower(lowering_platforms=("tpu",)).as_text()


def test_few_images_lie_with_pixels_in_the_rows_of_a_tpus_vectors():
    """The result, the cotangent for the kernel's gradient and that of the input; of as many channels as pay for it."""
    assert _for_a_tpu(2, 64).count("@LayoutConstraint") == 3
    assert _for_a_tpu(2, 32).count("@LayoutConstraint") == 2
    assert _for_a_tpu(8, 64).count("@LayoutConstraint") == 0
    assert _for_a_tpu(2, 4).count("@LayoutConstraint") == 0
    # What is exported is to run on compilers to come.
    assert _for_a_tpu(2, 64, export=True).count("@LayoutConstraint") == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_few_images_and_channels_are_products_on_a_tpu(dtype):
    """One for each tap, and the gradient of the input; that of the kernel is a convolution."""

    def made(*sizes):
        text = _for_a_tpu(*sizes, dtype=dtype)
        return text.count("stablehlo.dot_general"), text.count("stablehlo.convolution")

    assert made(2, 8) == (18, 1)
    assert made(2, 32) == (9, 2)
    assert made(2, 64) == (0, 3)
    assert made(2, 64, 1) == (2, 1)
    assert made(8, 8) == (0, 3)


def test_several_tpus_convolve():
    """Where space is cut the products would have them exchange most rows."""

    def made(sharding):
        x = jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.float32, sharding=sharding)
        kernel = jax.ShapeDtypeStruct((3, 3, 8, 8), jnp.float32)
        convolve = functools.partial(primitive.convolve, pads=((1, 1),) * 2, dilation=(1, 1), groups=1)
        text = str(jax.export.export(jax.jit(convolve), platforms=("tpu",))(x, kernel).mlir_module())
        return text.count("stablehlo.dot_general"), text.count("stablehlo.convolution")

    rows = PartitionSpec(None, "rows")
    assert made(NamedSharding(AbstractMesh((8,), ("rows",)), rows)) == (0, 1)
    assert made(None) == (9, 0)


def test_products_on_a_tpu_are_added_up_in_float32():
    x, kernel = jnp.ones((1, 3, 3, 1)), jnp.full((3, 3, 1, 1), 2.0**-9).at[1, 1].set(1.0)
    sizes = primitive._Sizes(primitive.Geometry((1, 1), (1, 1), (1, 1), (3, 3), 1), (3, 3), (3, 3))
    y = primitive._transposed_conv_on_one_tpu(*(a.astype(jnp.bfloat16) for a in (x, kernel)), sizes=sizes)
    assert y.dtype == jnp.bfloat16
    # The last four would be rounded away where each is added to one.
    assert y[0, 1, 1, 0] == 1 + 8 * 2.0**-9


def test_what_a_bias_is_summed_from_is_written_before_the_shuffle_on_a_tpu():
    """The value, and its cotangent."""

    def both(x, kernel, bias):
        y, pull = jax.vjp(functools.partial(sub_pixel_conv, scale=2), x, kernel, bias)
        return y, *pull(y)

    arrays = jnp.zeros((8, 4, 4, 2)), jnp.zeros((3, 3, 2, 8)), jnp.zeros(8)
    for platform, count in {"tpu": 2, "cpu": 0}.items():
        text = jax.jit(both).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("optimization_barrier") == count


def test_what_is_not_a_number_stays_in_its_window():
    """A window of 3 at stride 2 is 9 outputs, of a phase of one tap and three of more; on every platform."""
    rng, spatial = np.random.default_rng(0), (5, 4)
    forms = [
        (primitive._transposed_conv, primitive._input_gradient),
        (primitive._transposed_conv_on_cpus, primitive._for_input_gradient_on_cpus),
        (primitive._transposed_conv_on_one_cpu, primitive._for_input_gradient_on_one_cpu),
        (primitive._transposed_conv_on_tpu, primitive._input_gradient_on_tpu),
        (primitive._transposed_conv_on_gpu, primitive._input_gradient_on_gpu),
    ]

    def computed(x, y, kernel, sizes):
        made = []
        for forward, backward in forms:
            if "for" in backward.__name__:
                backward = functools.partial(primitive._input_gradient, other=backward)
            made.append((forward(x, kernel, sizes=sizes), backward(y, kernel, sizes=sizes)))
        return made

    for window, strides, inner, out in (((3, 3), (2, 2), 2, 3), ((3, 5), (2, 3), 16, 16), ((3, 4), (2, 4), 2, 16)):
        size = tuple(n * s for n, s in zip(spatial, strides, strict=True))
        geometry = primitive.Geometry(strides, (1, 1), (0, 0), size, 1)
        sizes = primitive._Sizes(geometry, spatial, window)
        kernel = rng.uniform(1, 2, (*window, inner, out)).astype(np.float32)
        x, y = np.zeros((1, *spatial, inner), np.float32), np.zeros((1, *size, out), np.float32)
        x[0, 2, 1, 0], y[0, 4, 3, 0] = np.nan, np.nan
        reached, reaching = np.zeros(size, bool), np.zeros(spatial, bool)
        reached[2 * strides[0] :, strides[1] :][: window[0], : window[1]] = True
        for i, j in np.ndindex(spatial):
            reaching[i, j] = 0 <= 4 - i * strides[0] < window[0] and 0 <= 3 - j * strides[1] < window[1]

        for forward, backward in jax.jit(functools.partial(computed, sizes=sizes))(x, y, kernel):
            np.testing.assert_array_equal(np.isnan(forward[0]).any(-1), reached)
            np.testing.assert_array_equal(np.isnan(backward[0]).any(-1), reaching)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_any_batch_axes(batch):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((*batch, 3, 4, 5), np.float32), rng.standard_normal((4, 4, 5, 2), np.float32)
    y, expected = jax.jit(lambda x, k: (transposed_conv(x, k), transposed_conv(x.reshape(-1, 3, 4, 5), k)))(x, kernel)
    assert y.shape == (*batch, 6, 8, 2)
    close(y.reshape(-1, 6, 8, 2), expected, 1e-6)
    assert jax.eval_shape(deconv, y, kernel).shape == (*batch, 12, 16, 5)
    assert transposed_conv(jnp.zeros((0, 3, 4, 5)), kernel).shape == (0, 6, 8, 2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_accumulates_in_float32(dtype):
    # Ones over 4096 channels: a half-precision sum would stop growing at 256 or 2048.
    x, kernel = jnp.ones((4, 4096), dtype), jnp.ones((2, 4096, 1), dtype)

    @jax.jit
    def outputs(x, kernel):
        return (
            transposed_conv(x, kernel),
            transposed_conv(x, jnp.ones((3, 4096, 1), dtype))[2:3],
            sub_pixel_conv(x, kernel[:1], scale=1),
            deconv(x, kernel.swapaxes(1, 2)),
        )

    for y in outputs(x, kernel):
        assert y.dtype == dtype
        assert (np.asarray(y, np.float32) >= 4096).all()
    x, kernel = jnp.ones((4096, 1), dtype), jnp.ones((2, 1, 1), dtype)
    gradient = jax.jit(jax.grad(lambda kernel: transposed_conv(x, kernel).sum().astype(jnp.float32)))(kernel)
    assert gradient.dtype == dtype
    assert (gradient == 4096).all()


def test_float64():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel = rng.standard_normal((2, 5, 4, 3)), rng.standard_normal((4, 3, 3, 2))
        y, pull = jax.vjp(lambda x, kernel: transposed_conv(x, kernel, strides=(2, 3), padding=1), x, kernel)
        assert y.dtype == jnp.float64
        theirs = [channels_first(x).requires_grad_(), torch.tensor(torch_kernel(kernel, 1)).requires_grad_()]
        expected = F.conv_transpose2d(*theirs, stride=(2, 3), padding=1)
        close(y, np.moveaxis(expected.detach().numpy(), 1, -1), 1e-13)
        g = rng.standard_normal(y.shape)
        dx, dkernel = torch.autograd.grad(expected, theirs, channels_first(g))
        ours = pull(g)
        close(ours[0], np.moveaxis(dx.numpy(), 1, -1), 1e-13)
        close(torch_kernel(ours[1], 1), dkernel.numpy(), 1e-13)


def test_worked_example():
    """2×2, stride 2, no padding, window 3."""
    assert transposed_conv_size((2, 2), 3, 2, padding=0) == (5, 5)
    assert transposed_conv_size(2, 3, 2, padding="VALID") == (5,)
    assert transposed_conv_size((2, 2), 3, 2, "SAME") == (4, 4)
    assert transposed_conv_size((2, 2), 3, 2, padding=1) == (3, 3)
    assert torch.nn.ConvTranspose2d(3, 3, 3, stride=2, padding=1)(torch.ones(1, 3, 2, 2)).shape[2:] == (3, 3)


def test_the_size_function_has_the_defaults_of_the_function():
    ours, sizes = (inspect.signature(f).parameters for f in (transposed_conv, transposed_conv_size))
    for name in ("strides", "padding", "output_padding", "dilation"):
        assert sizes[name].default == ours[name].default, name
    for window in ((3, 4), (1, 7)):
        y = jax.eval_shape(transposed_conv, np.ones((5, 6, 1), np.float32), np.ones((*window, 1, 1), np.float32))
        assert y.shape[:-1] == transposed_conv_size((5, 6), window)


@pytest.mark.parametrize(("mode", "order"), [("CRD", "CRD"), ("DCR", "DCR")])
def test_pixel_shuffle_is_onnxs(mode, order):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5 * 9)).astype(np.float32)
    expected = np.moveaxis(onnx_run("DepthToSpace", [np.moveaxis(x, -1, 1)], blocksize=3, mode=mode), 1, -1)
    y = pixel_shuffle(x, 3, order=order)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(pixel_unshuffle(y, 3, order=order), x)


def test_pixel_shuffle_is_pytorchs():
    x = np.random.default_rng(0).standard_normal((2, 3, 1, 5 * 4)).astype(np.float32)
    y = pixel_shuffle(x, 2)
    np.testing.assert_array_equal(y, np.moveaxis(F.pixel_shuffle(channels_first(x), 2).numpy(), 1, -1))
    back = pixel_unshuffle(y, 2)
    np.testing.assert_array_equal(back, np.moveaxis(F.pixel_unshuffle(channels_first(y), 2).numpy(), 1, -1))


@pytest.mark.parametrize("order", ["CRD", "DCR"])
@pytest.mark.parametrize("scale", [(3,), (2, 3), (2, 1, 3)])
def test_pixel_shuffle_from_its_definition(scale, order):
    rank, channels = len(scale), 2
    x = np.arange(2 * 4**rank * channels * np.prod(scale)).reshape(2, *(4,) * rank, -1)
    y = np.asarray(pixel_shuffle(x, scale, order=order))
    for pixel in np.ndindex(*y.shape[1:-1]):
        corner, block = zip(*(divmod(p, s) for p, s in zip(pixel, scale, strict=True)), strict=True)
        number = np.ravel_multi_index(block, scale)
        for c in range(channels):
            channel = c * np.prod(scale) + number if order == "CRD" else number * channels + c
            assert (y[(slice(None), *pixel, c)] == x[(slice(None), *corner, channel)]).all()
    np.testing.assert_array_equal(pixel_unshuffle(y, scale, order=order), x)


@pytest.mark.parametrize(
    ("padding", "torch_padding"), [("SAME", "constant"), ("VALID", 0), (2, 2), ("CIRCULAR", "circular")]
)
def test_sub_pixel_conv_is_pytorchs(padding, torch_padding):
    rng = np.random.default_rng(0)
    x, kernel, bias = (rng.standard_normal(s).astype(np.float32) for s in ((2, 5, 4, 3), (3, 4, 3, 8), (8,)))
    theirs = [channels_first(x), torch.tensor(kernel.transpose(3, 2, 0, 1).copy()), torch.tensor(bias)]
    for t in theirs:
        t.requires_grad_()
    padded = theirs[0]
    if isinstance(torch_padding, str):
        padded, torch_padding = F.pad(padded, (1, 2, 1, 1), mode=torch_padding), 0
    expected = F.pixel_shuffle(F.conv2d(padded, *theirs[1:], padding=torch_padding), 2)
    g = rng.standard_normal(expected.movedim(1, -1).shape, np.float32)

    @jax.jit
    def compute(arrays, g):
        y, pull = jax.vjp(lambda *a: sub_pixel_conv(*a, padding=padding), *arrays)
        return y, pull(g)

    y, ours = compute((x, kernel, bias), g)
    close(y, np.moveaxis(expected.detach().numpy(), 1, -1))
    dx, dkernel, dbias = torch.autograd.grad(expected, theirs, channels_first(g))
    close(ours[0], np.moveaxis(dx.numpy(), 1, -1))
    close(ours[1], dkernel.numpy().transpose(2, 3, 1, 0))
    close(ours[2], dbias.numpy())


X, K = np.ones((2, 4, 4, 6), np.float32), np.ones((3, 3, 6, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: transposed_conv("x", K), TypeError, "transposed_conv: x must be an array; got str"),
        (lambda: transposed_conv(X.astype(int), K), TypeError, "transposed_conv: x must be floating"),
        (lambda: transposed_conv(X, K.astype(int)), TypeError, "transposed_conv: kernel must be floating"),
        (lambda: transposed_conv(X, K[0, 0]), ValueError, "kernel must be .* 1, 2 or 3 window axes"),
        (lambda: transposed_conv(X, np.ones((1,) * 6)), ValueError, "kernel must be .* 1, 2 or 3 window axes"),
        (lambda: transposed_conv(X, K[:0]), ValueError, "none empty; got"),
        (lambda: transposed_conv(X[0, 0], K), ValueError, r"x must be \(\*batch, \*spatial, channels\) with 2"),
        (lambda: transposed_conv(X[:, :0], K), ValueError, "none empty; got shape"),
        (lambda: transposed_conv(X[..., :5], K), ValueError, "x must have 6 channels"),
        (lambda: transposed_conv(X, K, groups=3), ValueError, "transposed_conv: groups=3 must divide out=4"),
        (lambda: transposed_conv(X, K, groups=2), ValueError, "x must have 12 channels, 6 in each of groups=2"),
        (lambda: transposed_conv(X, K, groups=0), ValueError, "groups must be at least 1"),
        (lambda: transposed_conv(X, K, np.ones(3, np.float32)), ValueError, r"bias must have shape \(4,\)"),
        (lambda: transposed_conv(X, K, np.ones(4, int)), TypeError, "bias must be floating"),
        (lambda: transposed_conv(X, K, strides=0), ValueError, "strides must be at least 1; got 0"),
        (lambda: transposed_conv(X, K, strides=(2, 2, 2)), ValueError, "strides must be one number or 2 of them"),
        (lambda: transposed_conv(X, K, strides=1.5), TypeError, "strides must be whole numbers"),
        (lambda: transposed_conv(X, K, dilation=0), ValueError, "dilation must be at least 1"),
        (lambda: transposed_conv(X, K, padding="same"), ValueError, "padding='same' is not known.*'SAME'"),
        (lambda: transposed_conv(X, K, padding=-1), ValueError, "padding must be at least 0"),
        (lambda: transposed_conv(X, K, padding=((1, 1),)), ValueError, r"padding must be .* 2 \(low, high\) pairs"),
        (lambda: transposed_conv(X, K, padding=((1, 1), 2)), ValueError, r"padding must be .* 2 \(low, high\) pairs"),
        (lambda: transposed_conv(X, K, padding=((1, 1, 1), (1, 1))), ValueError, "padding must be one number or 2"),
        (
            lambda: transposed_conv(X, K, padding=5),
            ValueError,
            r"padding=.* leaves nothing of the full result of size \(9, 9\)",
        ),
        (
            lambda: transposed_conv(X, K, output_padding=1),
            ValueError,
            "output_padding must be 0 with padding='SAME'",
        ),
        (
            lambda: transposed_conv(X, K, padding=0, output_padding=2),
            ValueError,
            "output_padding must be below the larger of stride and dilation",
        ),
        (lambda: transposed_conv_size((4, 4), (3,), 2), ValueError, "transposed_conv_size: kernel_size must be"),
        (lambda: transposed_conv_size((0, 4), 3, 2), ValueError, "transposed_conv_size: size must be at least 1"),
        (lambda: deconv(X, K), ValueError, "deconv: y must have 4 channels, as the convolution with"),
        (lambda: deconv(X[..., :4], K, groups=3), ValueError, "deconv: groups=3 must divide"),
        (lambda: deconv(X[..., :4], K, padding="valid"), ValueError, "deconv: padding='valid' is not known"),
        (
            lambda: deconv(X[..., :4], K, output_size=9),
            ValueError,
            r"deconv: output_size must be one that .* maps to \(4, 4\), from \(7, 7\) to \(8, 8\); got \(9, 9\)",
        ),
        (
            lambda: deconv(X[:, :1, :1, :4], K, padding=9),
            ValueError,
            r"deconv: no convolution with padding=.* puts out \(1, 1\)",
        ),
        (lambda: pixel_shuffle(X, 4), ValueError, "pixel_shuffle: x must have a multiple of 16 channels"),
        (lambda: pixel_shuffle(X, 2, order="RCD"), ValueError, "pixel_shuffle: order='RCD' is not known"),
        (lambda: pixel_shuffle(X[0, 0], (2, 2)), ValueError, "pixel_shuffle: x must be"),
        (lambda: pixel_shuffle(X, (1, 1, 1, 1)), ValueError, "pixel_shuffle: x must be"),
        (lambda: pixel_unshuffle(X, 3), ValueError, r"pixel_unshuffle: scale=\(3, 3\) must divide the spatial size"),
        (lambda: sub_pixel_conv(X, K, scale=3), ValueError, "sub_pixel_conv: kernel must have a multiple of 9 output"),
        (lambda: sub_pixel_conv(X, K[:, :, :5]), ValueError, "sub_pixel_conv: x must have 5 channels"),
        (lambda: sub_pixel_conv(X, K, np.ones(1, np.float32)), ValueError, "sub_pixel_conv: bias must have shape"),
        (lambda: sub_pixel_conv(X[:, :1], K, padding="VALID"), ValueError, r"window \(3, 3\) is larger than the input"),
    ],
)
def test_errors_explain(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_geometry_must_be_static():
    with pytest.raises(TypeError, match="strides must be static"):
        jax.jit(lambda s: transposed_conv(X, K, strides=s))(2)


def test_transposed_convolution_to_an_explicit_size():
    """With pixels as padding it is PyTorch's output size; with "SAME" the adjoint of the convolution from that size."""
    generator = np.random.default_rng(0)
    x, kernel = (generator.standard_normal(shape).astype(np.float32) for shape in ((1, 5, 4, 2), (4, 3, 2, 3)))
    weight = torch.from_numpy(kernel.transpose(2, 3, 0, 1).copy())
    layer = torch.nn.ConvTranspose2d(2, 3, (4, 3), stride=(3, 2), padding=1, bias=False)
    layer.weight = torch.nn.Parameter(weight)
    for size in ((14, 7), (16, 8)):
        expected = layer(torch.from_numpy(x).movedim(-1, 1), output_size=size).movedim(1, -1).detach()
        actual = transposed_conv(x, kernel, strides=(3, 2), padding=1, output_size=size)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    dimensions = ("NHWC", "HWIO", "NHWC")

    def conv(image):
        return jax.lax.conv_general_dilated(image, kernel.swapaxes(2, 3), (3, 2), "SAME", dimension_numbers=dimensions)

    for size in ((13, 7), (15, 8)):
        (expected,) = jax.linear_transpose(conv, jnp.zeros((1, *size, 3)))(jnp.asarray(x))
        actual = transposed_conv(x, kernel, strides=(3, 2), output_size=size)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    # Keras' output_padding=0 with an even kernel: a size that no convolution maps to this one.
    full = transposed_conv(x, kernel, strides=(3, 2), padding="VALID")
    np.testing.assert_allclose(
        transposed_conv(x, kernel, strides=(3, 2), output_size=(12, 8)), full[:, 2:14, :8], rtol=0, atol=1e-5
    )
    with pytest.raises(
        ValueError, match=r"output_size must be from \(12, 6\) to \(15, 8\) for x of size \(5, 4\); got"
    ):
        transposed_conv(x, kernel, strides=(3, 2), output_size=(16, 8))
    with pytest.raises(ValueError, match="give one of output_padding and output_size"):
        transposed_conv(x, kernel, strides=(3, 2), padding=1, output_padding=1, output_size=(16, 8))
