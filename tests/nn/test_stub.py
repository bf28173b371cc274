"""What type checkers know of `create` is what the registry has. tests/typing has what they make of it."""

import ast

import upsampling as up
from tests.nn import make_stub


def test_the_committed_stub_is_the_generators():
    assert make_stub.STUB.read_text(encoding="utf-8") == make_stub.stub(), "run: python tests/nn/make_stub.py"


def test_the_stub_has_each_method_its_options_and_its_class():
    body = ast.parse(make_stub.stub()).body
    overloads = {node.args.args[0].annotation.slice.value: node for node in body if isinstance(node, ast.FunctionDef)}
    names = next(node.value.slice for node in body if isinstance(node, ast.Assign))
    assert list(overloads) == [name.value for name in names.elts] == list(up.nn.available())
    for name, method in up.nn.available().items():
        arguments = overloads[name].args
        options = {argument.arg for argument in arguments.kwonlyargs} - {"rngs", "variant"}
        assert options == set(method.options) - {"features", "rngs"}
        assert [argument.arg for argument in arguments.args] == ["name", "features", "scale"]
        variant = next(a.annotation for a in arguments.kwonlyargs if a.arg == "variant")
        assert all(repr(v) in ast.unparse(variant) for v in method.variants)
        assert overloads[name].returns.id == method.build.__name__
