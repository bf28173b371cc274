"""Log files: lines of JSON that go on where a run goes on, and TensorBoard's event files as readers see them."""

import json
import struct

import pytest

from experiments import logs


def entries(*steps, training="unet/nearest/seed0"):
    return [logs.Entry(training, step, {"loss": 1 / step, "seconds": 0.5}) for step in steps]


def write(sink, *found):
    for entry in found:
        sink(entry)
    sink.close()


def test_json_lines_go_on_from_a_checkpoint_without_steps_told_twice(tmp_path):
    path = tmp_path / "unet/nearest/seed0/steps.jsonl"
    write(logs.JsonLines(tmp_path), *entries(1, 2, 3, 4, 5))
    path.write_bytes(path.read_bytes() + b'{"step": 6, "lo')  # killed while it wrote
    write(logs.JsonLines(tmp_path), *entries(4, 5, 6))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[3] == {"step": 4, "loss": 0.25, "seconds": 0.5}


def test_each_training_has_its_own_lines_and_what_is_not_finite_is_null(tmp_path):
    sink = logs.JsonLines(tmp_path)
    other = logs.Entry("trunks/seed0", 1, {"loss": float("nan")})
    write(sink, *entries(1), other, *entries(2))
    assert (tmp_path / "trunks/seed0/steps.jsonl").read_text() == '{"step": 1, "loss": null}\n'
    assert len((tmp_path / "unet/nearest/seed0/steps.jsonl").read_text().splitlines()) == 2


def message():
    """The part of tensorflow.Event that is written, declared to protobuf's own reader."""
    protobuf = pytest.importorskip("google.protobuf")
    assert protobuf
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def declare(name, *fields):
        declared = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            label = kinds.LABEL_REPEATED if field == "value" else kinds.LABEL_OPTIONAL
            declared.field.add(name=field, number=number, type=kind, label=label, type_name=of)

    declare("Value", ("tag", 1, kinds.TYPE_STRING, None), ("simple_value", 2, kinds.TYPE_FLOAT, None))
    declare("Summary", ("value", 1, kinds.TYPE_MESSAGE, ".t.Value"))
    declare("SessionLog", ("status", 1, kinds.TYPE_INT32, None))
    declare(
        "Event",
        ("wall_time", 1, kinds.TYPE_DOUBLE, None),
        ("step", 2, kinds.TYPE_INT64, None),
        ("file_version", 3, kinds.TYPE_STRING, None),
        ("summary", 5, kinds.TYPE_MESSAGE, ".t.Summary"),
        ("session_log", 7, kinds.TYPE_MESSAGE, ".t.SessionLog"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Event"))


def test_event_files_are_read_by_protobuf(tmp_path):
    write(logs.TensorBoard(tmp_path), *entries(299, 300))
    (path,) = (tmp_path / "unet/nearest/seed0").iterdir()
    assert path.name.startswith("events.out.tfevents.")
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(message()())
        events[-1].ParseFromString(data[12 : 12 + length])
        assert logs._checksum(data[:8]) == data[8:12]
        assert logs._checksum(data[12 : 12 + length]) == data[12 + length : 16 + length]
        data = data[16 + length :]
    version, start, first, second = events
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (299, 1)
    assert first.wall_time > 1.6e9
    assert (first.step, second.step) == (299, 300)
    assert {v.tag: v.simple_value for v in second.summary.value} == pytest.approx({"loss": 1 / 300, "seconds": 0.5})
