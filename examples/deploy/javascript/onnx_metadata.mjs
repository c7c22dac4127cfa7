// The metadata of an ONNX file, which ONNX Runtime's JavaScript does not show.
//
// An ONNX file is a protobuf message: fields one after the other, each a key (number × 8 + kind) and a value. Those of
// kind 2 say how long they are, so that all others can be passed over without knowing what they mean.

const METADATA = 14; // ModelProto.metadata_props: messages of field 1, the key, and field 2, the value

/** Every field of a message that has a length: its number and its bytes. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; at < bytes.length; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor; // not <<, which stops at 31 bits
      if (byte < 128) return value;
    }
    throw new Error("it is cut off, or no ONNX file.");
  };
  while (at < bytes.length) {
    const key = varint();
    const kind = key % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      if (at + length > bytes.length) throw new Error("it is cut off, or no ONNX file.");
      yield [Math.floor(key / 8), bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error("it is no ONNX file.");
  }
}

/**
 * @param {Uint8Array} model the bytes of an ONNX file
 * @returns {Map<string, string>}
 */
export function metadataOf(model) {
  const metadata = new Map();
  for (const [number, entry] of fields(model)) {
    if (number !== METADATA) continue;
    const texts = new Map(fields(entry));
    const [key, value] = [1, 2].map((part) => new TextDecoder().decode(texts.get(part)));
    metadata.set(key, value);
  }
  return metadata;
}
