"""TFLite metadata for an image classifier: what MediaPipe and the Task Library read.

Source: TensorFlow Lite metadata schema, `metadata_schema.fbs`, version 1.5. Only the tables that an image classifier
needs are written, straight with `flatbuffers`; the labels go beside them as a zip archive appended to the model.
"""

import io
import zipfile

import flatbuffers

METADATA_NAME = b"TFLITE_METADATA"
IDENTIFIER = b"M001"
MIN_PARSER_VERSION = "1.0.0"
LABELS_FILE = "labels.txt"

# Of the schema's enumerations and unions:
TENSOR_AXIS_LABELS = 2
RGB = 1
FEATURE_PROPERTIES, IMAGE_PROPERTIES = 1, 2
NORMALIZATION_OPTIONS = 1


def add_classifier_metadata(content, name, class_names, mean, std):
    """Adds class names and normalisation to the bytes of a classifier's TFLite file.

    Args:
        content: the model file.
        name: name of the model.
        class_names: in the order of the outputs.
        mean: what is taken from a byte of the picture,
        std: and what the result is divided by, to give the network's input.

    Returns:
        The bytes of the file with metadata.

    Raises:
        ValueError: if a name contains a line break or is empty.
    """
    for each in class_names:
        if not each.strip() or "\n" in each or "\r" in each:
            raise ValueError(f"`class_names` must be non-empty and of one line each. Received: {each!r}")
    content = _embed(content, _metadata(name, mean, std))
    archive = io.BytesIO(content)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as file:
        # A fixed time stamp: the same model gives the same file.
        file.writestr(zipfile.ZipInfo(LABELS_FILE), "\n".join(class_names) + "\n")
    return archive.getvalue()


def read_class_names(content):
    """The class names in the bytes of a TFLite file with metadata, or an empty list."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return []
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return file.read(LABELS_FILE).decode().splitlines() if LABELS_FILE in file.namelist() else []


def _embed(content, metadata):
    """Puts `metadata` into a buffer of the model, where readers look for it by name."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    buffer = schema.BufferT()
    buffer.data = list(metadata)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _metadata(name, mean, std):
    builder = flatbuffers.Builder(1024)
    normalization = _table(builder, mean=(0, _floats(builder, [mean])), std=(1, _floats(builder, [std])), fields=2)
    unit = _union_table(builder, NORMALIZATION_OPTIONS, normalization)
    picture = _tensor(
        builder,
        name="image",
        description="RGB picture",
        content=_union_table(builder, IMAGE_PROPERTIES, _color_space(builder)),
        process_units=_vector(builder, [unit]),
    )
    label_file = _label_file(builder)
    score = _tensor(
        builder,
        name="probability",
        description="One score for each label",
        content=_union_table(builder, FEATURE_PROPERTIES, _table(builder, fields=0)),
        associated_files=_vector(builder, [label_file]),
    )
    graph = _table(
        builder,
        input_tensors=(2, _vector(builder, [picture])),
        output_tensors=(3, _vector(builder, [score])),
        fields=10,
    )
    root = _table(
        builder,
        name=(0, builder.CreateString(name)),
        graphs=(3, _vector(builder, [graph])),
        min_parser_version=(7, builder.CreateString(MIN_PARSER_VERSION)),
        fields=8,
    )
    builder.Finish(root, file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _tensor(builder, name, description, content, process_units=None, associated_files=None):
    return _table(
        builder,
        name=(0, builder.CreateString(name)),
        description=(1, builder.CreateString(description)),
        content=(3, content),
        process_units=(4, process_units),
        associated_files=(6, associated_files),
        fields=7,
    )


def _label_file(builder):
    name = builder.CreateString(LABELS_FILE)
    description = builder.CreateString("Class names, one a line")
    builder.StartObject(5)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUOffsetTRelativeSlot(1, description, 0)
    builder.PrependInt8Slot(2, TENSOR_AXIS_LABELS, 0)
    return builder.EndObject()


def _color_space(builder):
    builder.StartObject(2)
    builder.PrependInt8Slot(0, RGB, 0)
    return builder.EndObject()


def _union_table(builder, kind, table):
    """A table whose first two fields are a union: its type, and the table itself."""
    builder.StartObject(2)
    builder.PrependUint8Slot(0, kind, 0)
    builder.PrependUOffsetTRelativeSlot(1, table, 0)
    return builder.EndObject()


def _table(builder, fields, **offsets):
    """A table of `fields` fields; each keyword is a `(slot, offset)`, its name only for the reader."""
    builder.StartObject(fields)
    for slot, offset in offsets.values():
        if offset is not None:
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return builder.EndObject()


def _vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _floats(builder, values):
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return builder.EndVector()
