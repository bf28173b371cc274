"""Compiling for accelerators: what is read from a program, and that functions and layers compile for them.

Set UPSAMPLING_COMPILE=all to compile every function and layer, which takes two minutes, rather than some of each kind.
"""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import __main__ as command
from experiments import benchmarks
from experiments.benchmarks import compiled
from experiments.benchmarks.compiled import programs, schedule, targets
from experiments.benchmarks.compiled.program import Program

# A GPU's program in small: a loop of 5 trips, each with a kernel that reads 1 row of 8 and writes it to its place, a
# branch, and a copy.
GPU = """HloModule small, is_scheduled=true

%fused_row (p0: f32[8,16], p1: s32[], p2: f32[8,16]) -> f32[8,16] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[8,16]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,16]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,16}
  ROOT %put = f32[8,16]{1,0} dynamic-update-slice(%p2, %row, %p1, %zero)
}

%body (arg: (s32[], f32[8,16], f32[8,16])) -> (s32[], f32[8,16], f32[8,16]) {
  %arg = (s32[], f32[8,16]{1,0}, /*index=2*/f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %from = f32[8,16]{1,0} get-tuple-element(%arg), index=1
  %to = f32[8,16]{1,0} get-tuple-element(%arg), index=2
  %row_fusion = f32[8,16]{1,0} fusion(%from, %i, %to), kind=kLoop, calls=%fused_row
  ROOT %next = (s32[], f32[8,16]{1,0}, f32[8,16]{1,0}) tuple(%i, %from, %row_fusion)
}

%condition (arg.1: (s32[], f32[8,16], f32[8,16])) -> pred[] {
  %limit = s32[] constant(5)
  %arg.1 = (s32[], f32[8,16]{1,0}, f32[8,16]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

%cheap (arg.2: f32[8,16]) -> f32[8,16] {
  ROOT %arg.2 = f32[8,16]{1,0} parameter(0)
}

%dear (arg.3: f32[8,16]) -> f32[8,16] {
  %arg.3 = f32[8,16]{1,0} parameter(0)
  ROOT %call = f32[8,16]{1,0} custom-call(%arg.3), custom_call_target="__cudnn$something"
}

ENTRY %main (x: f32[8,16], flag: pred[]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %flag = pred[] parameter(1)
  %copy.1 = f32[8,16]{1,0} copy(%x), metadata={op_name="a (strange) name"}
  %start = s32[] constant(0)
  %first = (s32[], f32[8,16]{1,0}, f32[8,16]{1,0}) tuple(%start, %x, %copy.1)
  %loop = (s32[], f32[8,16]{1,0}, f32[8,16]{1,0}) while(%first), condition=%condition, body=%body
  %done = f32[8,16]{1,0} get-tuple-element(%loop), index=2
  ROOT %either = f32[8,16]{1,0} conditional(%flag, %done, %done), true_computation=%dear, false_computation=%cheap
}
"""

# A row of 8 is read, added to, and written in its place.
IN_PLACE = """HloModule small, is_scheduled=true

%fused_edge (p0: f32[8,16], p1: f32[1,16]) -> f32[8,16] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = f32[1,16]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %same = f32[8,16]{1,0} bitcast(%p0)
  %row = f32[1,16]{1,0} slice(%same), slice={[0:1], [0:16]}
  %sum = f32[1,16]{1,0} add(%row, %p1)
  ROOT %put = f32[8,16]{1,0} dynamic-update-slice(%p0, %sum, %zero, %zero)
}

ENTRY %main (x: f32[8,16], row: f32[1,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %row.1 = f32[1,16]{1,0} parameter(1)
  ROOT %edge_fusion = f32[8,16]{1,0} fusion(%x, %row.1), kind=kLoop, calls=%fused_edge
}
"""

# A TPU's: an estimated fusion, and a change of layout without an estimate, to a layout with an axis of 2 in a tile's
# place of 128.
TPU = """HloModule small, is_scheduled=true

%inner (p: bf16[8,256]) -> bf16[8,256] {
  %p = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %twice = bf16[8,256]{1,0:T(8,128)(2,1)} add(%p, %p)
}

ENTRY %main (x: bf16[8,256]) -> bf16[8,128,2] {
  %x = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(0)
  %fusion = bf16[8,256]{1,0:T(8,128)(2,1)} fusion(%x), calls=%inner, backend_config={"estimated_cycles":"90"}
  ROOT %reshape.1 = bf16[8,128,2]{2,1,0:T(8,128)(2,1)} reshape(%fusion)
}
"""


def test_loops_count_every_trip_and_parts_count_as_parts():
    program = Program(GPU)
    array, row = 8 * 16 * 4, 16 * 4
    assert program.loops == [5]
    assert program.custom_calls == {"__cudnn$something": 1}
    assert program.costs.kernels == 1 + 5 + 1
    assert program.costs.traffic == 2 * array + 5 * (row + row + 4) + 2 * array
    assert program.costs.apart == {"copy": 1, "__cudnn$something": 1}
    assert program.written("f32") == 3 * array  # the copy, the loop's, the call's
    assert program.written("bf16") == 0


def test_of_what_is_written_in_place_slices_are_read():
    assert Program(IN_PLACE).costs.traffic == 3 * 16 * 4


def test_what_has_no_estimate_is_told_with_the_padding_of_its_layout():
    costs = Program(TPU).costs
    assert costs.cycles == 90
    assert costs.unestimated == 8 * 256 * 2 + 8 * 128 * 128 * 2
    assert costs.apart == {"reshape": 1}


def test_what_nothing_compiles_for_is_refused(capsys):
    assert command.main(["benchmark", "--group", "interpolation", "--compiled", "abacus"]) == 2
    assert "--compiled 'abacus' is not known" in capsys.readouterr().out
    assert command.main(["benchmark", "--group", "nothing", "--compiled", "v5e"]) == 2


@pytest.mark.parametrize("target", ["h100", "v5e"])
def test_tables_hold_every_program_and_the_peers(target, tmp_path, monkeypatch):
    kinds = {"apart": {"copy": 2}, "custom_calls": {}, "collectives": {"all-gather": 1}}
    figures = kinds | {"need": 8, "temporaries": 3_000_000, "compile_seconds": 1.0, "kernels": 3, "loops": [4, None]}
    figures |= {"gathers": 5, "scatters": 0, "float32": 0, "traffic": 12, "ratio": 1.5}
    figures |= {"microseconds": 7.0, "unestimated": 0}
    monkeypatch.setattr(targets, "missing", lambda target: None)
    monkeypatch.setattr(targets, "versions", lambda target: {"compiler": "1.2"})

    def compile_for(target, function, *specs):
        if len(specs) == 2 and specs[1].shape == (8, 8, 64, 32) and "lax_transposed" in str(function):
            raise jax.errors.JaxRuntimeError("no tile fits")
        return figures

    monkeypatch.setattr(targets, "compile_for", compile_for)
    options = ["benchmark", "--group", "convolution", "--compiled", target, "--out", str(tmp_path)]
    assert command.main(options) == 0
    text = (tmp_path / f"convolution-compiled-{target}.md").read_text()
    assert "compiler 1.2" in text
    row = "3 | 1.50 |" if target == "h100" else "7 | 1.5 | 0.0 |"
    name = "transposed_conv 4/2 8x64x64x64 to 32, bfloat16, with gradient, the peer"
    assert f"| {name} | {row} 3.00 | 0.00 | 5 | 0 | 4 ? | 2 copy, 1 all-gather | 1.0 |" in text
    assert "| transposed_conv 8/4 8x64x64x64 to 32, the peer | does not compile |" in text


def test_a_part_takes_the_place_of_its_own_rows(tmp_path, monkeypatch):
    compiler = {"compiler": "1"}
    monkeypatch.setattr(targets, "missing", lambda target: None)
    monkeypatch.setattr(targets, "versions", lambda target: dict(compiler))
    told = {"collectives": {"all-reduce": 1}, "exchanged": 1000}
    monkeypatch.setattr(
        targets, "collectives_for", lambda *specs, shared, **cut: dict(told, shared=[*shared, cut["axis"]])
    )

    def run(*only):
        options = [
            "benchmark",
            "--group",
            "sharding",
            "--compiled",
            "h100",
            "--out",
            str(tmp_path),
            "--methods",
            "fade",
        ]
        assert command.main([*options, "--only", *only]) == 0
        return json.loads((tmp_path / "sharding-compiled-h100.json").read_text())["rows"]

    # The cotangent, the map, the parameters; and the axis that is cut.
    assert [row["figures"]["shared"] for row in run("fade")] == [[2, 0], [2, 1]]
    told["exchanged"] = 2000
    rows = {row["name"].split()[0]: row["figures"]["exchanged"] for row in run("distance_transform")}
    assert rows == {"fade": 1000, "distance_transform": 2000}
    assert (
        "| distance_transform 8x16x16 | 1 all-reduce | 2.00 |" in (tmp_path / "sharding-compiled-h100.md").read_text()
    )
    compiler["compiler"] = "2"
    assert len(run("fade")) == 2
    assert command.main(["benchmark", "--group", "sharding"]) == 2


def test_committed_tables_are_what_is_stored_beside_them():
    """With the text of today: what was tried does not go stale unseen."""
    stored = sorted((Path(benchmarks.__file__).parent / "results").glob("*-compiled-*.json"))
    assert len(stored) > 15
    for path in stored:
        group, _, target = path.stem.split("-")
        found = json.loads(path.read_text(encoding="utf-8"))
        made = compiled.table(group, target, found["compilers"], found["rows"])
        assert path.with_suffix(".md").read_text(encoding="utf-8") == made, path.name


# Where the data say which pixels are written: a scatter. On samplers it is the branch for positions far from their own;
# for a GPU that is a kernel by hand.
SCATTERS = ("max_unpool", "confusion_matrix", "boundary_iou", "distance_transform", "hausdorff_distance")
SAMPLERS = ("grid_sample", "dysample", "flow_alignment")
SOME = (
    "bilinear ×2",
    "transposed_conv 4/2",
    "reassemble",
    "grid_sample",
    "distance_transform",
    "carafe",
    "resize_conv",
)


@pytest.mark.parametrize("target", ["h100", "v5e"])
def test_functions_and_layers_compile_and_do_not_scatter(target):
    """With their gradients, in half precision; in one test, since libtpu serves one process at a time."""
    reason = targets.missing(target)
    if reason is not None:
        pytest.skip(reason)
    every = os.environ.get("UPSAMPLING_COMPILE") == "all"
    compiled = 0
    for group in programs.GROUPS:
        for program in programs.programs(group, shape=programs.SMALL):
            if not every and not program.name.startswith(SOME):
                continue
            half = program.in_dtype(jnp.bfloat16)
            call, arguments = half.with_gradient(half.function) if half.wanted else (half.function, half.arguments)
            figures = targets.compile_for(target, call, *arguments)
            assert figures["kernels"] > 0, half.name
            assert figures["need"] >= sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(half.arguments))
            scatters = SCATTERS if target == "h100" and jax.__version_info__ < (0, 11) else SCATTERS + SAMPLERS
            assert not figures["scatters"] or half.name.startswith(scatters), half.name
            compiled += 1
    assert compiled >= len(SOME)


# Two blocks of rows, in each of which a loop of three turns, and one whose turns the data decide, which is asked for in
# the last turn of a loop of two inside.
SCHEDULE = """\
     0   :  { %s1_s0 = smov.u32 0 }
   0x1 LB: > { %s2_s0 = sphi %s1_s0, %s3_s0 /* phi copy :: iteration index, stage = 0 */ } /* Start region 9 */
   0x2 LB: >> { %v1_v0 = vld [vmem:[#allocation2] sm:$0xff] } /* Start region 5 :: Start region 6 */
   0x3   : >> { %p4_p1 = scmp.ge.s32.totalorder %s9_s1, 3 /* loop exit test */ }
   0x4   : >> { %7 = sbr.rel (!%p4_p1) target = $region5 } /* End region 6 */
   0x5   : >> {} /* End region 5 */
   0x6 LB: >> { %s7_s2 = smov.u32 0 } /* Start region 7 */
   0x7 LB: >>> {} /* Start region 8 */
   0x8   : >>> { %p5_p2 = scmp.ge.s32.totalorder %s8_s2, 2 /* loop exit test */ }
   0x9   : >>> { %p6_p3 = scmp.ge.s32.totalorder (%p5_p2), %s7_s2, %s70_s5 /* loop exit test */ }
   0xa   : >>> { %8 = sbr.rel (!%p5_p2) target = $region8 } /* End region 8 */
   0xb   : >> { %9 = sbr.rel (!%p6_p3) target = $region7 } /* End region 7 */
   0xc   : > { %p7_p0 = scmp.ge.s32.totalorder %s3_s0, 4 /* loop exit test */ }
   0xd   :  { %10 = sbr.rel (!%p7_p0) target = $region9 } /* End region 9 */
   0xe   :  {}
"""


def test_cycles_of_a_schedule():
    outside, block, first, second, inner = 2, 3, 4 * 3, 2, 4 * 2
    for turns in (1, 2.5):
        assert schedule.counted(SCHEDULE, turns) == outside + 2 * (block + first + turns * (second + inner))


def test_kernels_by_hand_are_counted_on_a_tpu(monkeypatch):
    reason = targets.missing("v5e")
    if reason is not None:
        pytest.skip(reason)
    counted, of_kernel = [], schedule.cycles
    monkeypatch.setattr(schedule, "cycles", lambda *given: counted.append(of_kernel(*given)) or counted[-1])
    program = next(p for p in programs.programs("reassembly", shape=programs.SMALL) if p.name.startswith("sapa"))
    figures = targets.compile_for("v5e", program.function, *program.arguments)
    assert figures["custom_calls"] == {schedule.TARGET: 1}
    (cycles,) = counted
    # Eight images of 16 rows, each of 128 x 8 vectors' products and sums and as many loads.
    assert 8 * 16 * 25 * 2 / 4 < cycles < 1e6
    assert figures["microseconds"] > 1e6 * cycles / targets.TARGETS["v5e"].clock


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="this JAX compiles Pallas only with a GPU at hand")
def test_kernels_by_hand_compile_for_a_gpu():
    reason = targets.missing("h100")
    if reason is not None:
        pytest.skip(reason)
    methods = [
        p for p in programs.programs("reassembly", shape=programs.SMALL) if p.name.startswith(("sapa", "neighborhood"))
    ]
    methods += programs.programs("layers", ("joint_bilateral", "carafe", "fade"), shape=programs.SMALL)
    methods += [p for p in programs.programs("sampling", shape=programs.SMALL) if p.name.startswith("grid_sample")]
    counts = {"grid_sample": 1}  # and else one and two for the gradient
    dtypes = (jnp.bfloat16, jnp.float32, jnp.float16, jnp.float16, jnp.bfloat16, jnp.float16)
    for dtype, program in zip(dtypes, methods, strict=True):
        made = program.in_dtype(dtype)
        call, arguments = made.with_gradient(made.function)
        calls = targets.compile_for("h100", call, *arguments)["custom_calls"]
        own = {name: n for name, n in calls.items() if not name.startswith("__cudnn$conv")}
        assert own == {"__gpu$xla.gpu.triton": counts.get(made.name.split()[0], 3)}, made.name
        assert own == calls or made.name.startswith(("carafe", "fade")), made.name  # which predict by convolutions


@pytest.mark.parametrize(
    ("target", "names"),
    [("h100", ("distance_transform", "joint_bilateral", "dysample", "confusion_matrix")), ("v5e", ("a2u", "dysample"))],
)
def test_devices_exchange_no_maps_of_images(target, names):
    """Those that have forms of their own there: a GPU's partitioner gathers what a condition returns."""
    reason = targets.missing(target)
    if reason is not None:
        pytest.skip(reason)
    rows = [row for name in names for row in compiled._sharding_rows(target, (name,), ())]
    assert len(rows) >= len(names)
    of_images = [row for row in rows if "rows cut" not in row["name"]]
    assert len(of_images) == len(rows) / 2
    for row in of_images:
        assert set(row["figures"]["collectives"]) <= {"all-reduce"}, row["name"]


@pytest.mark.parametrize("target", ["h100", "v5e"])
def test_devices_that_share_rows_exchange_what_windows_reach_over_a_cut(target):
    reason = targets.missing(target)
    if reason is not None:
        pytest.skip(reason)
    names = (
        "bilinear ×1.5",
        "transposed_conv 4/2",
        "reassemble",
        "neighborhood",
        "joint_bilateral",
        "guided_filter",
        "a2u",
    )
    rows = [row for name in names for row in compiled._sharding_rows(target, (name, "rows cut"), ())]
    assert len(rows) >= len(names)
    for row in rows:
        assert set(row["figures"]["collectives"]) <= {"collective-permute", "all-reduce"}, row["name"]
