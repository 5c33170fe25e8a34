// What a TFLite file takes, read from its FlatBuffer (tensorflow/compiler/mlir/lite/schema/schema.fbs).

const TYPES = { 0: "float32", 3: "uint8", 9: "int8" };

/** Height, width and type of the first input, of an ArrayBuffer with a TFLite file. Throws an Error on other files. */
export function readInput(buffer) {
  const view = new DataView(buffer);
  // A vector of scalars or tables begins behind its length; `at` follows an offset.
  const at = (position) => position + view.getUint32(position, true);
  const field = (table, index) => {
    const fields = table - view.getInt32(table, true);
    const entry = 4 + 2 * index;
    const offset = entry < view.getUint16(fields, true) ? view.getUint16(fields + entry, true) : 0;
    return offset ? table + offset : null;
  };
  const item = (vector, index) => vector + 4 + 4 * index;

  try {
    if (String.fromCharCode(...new Uint8Array(buffer, 4, 4)) !== "TFL3") throw new RangeError("identifier");
    const graph = at(item(at(field(at(0), 2)), 0));
    const input = view.getInt32(item(at(field(graph, 1)), 0), true);
    const tensor = at(item(at(field(graph, 0)), input));
    const shape = at(field(tensor, 0));
    const type = field(tensor, 1);
    return {
      height: view.getInt32(item(shape, 1), true),
      width: view.getInt32(item(shape, 2), true),
      type: TYPES[type === null ? 0 : view.getUint8(type)] ?? "unknown",
    };
  } catch {
    throw new Error("It is not a TFLite file.");
  }
}
