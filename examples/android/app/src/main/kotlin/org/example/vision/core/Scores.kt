package org.example.vision.core

/** What the codes of a quantised tensor stand for: `scale * (code - zeroPoint)`, with codes 0 to 255. */
data class Quantization(val scale: Float, val zeroPoint: Int) {
    fun dequantize(code: Byte): Float = scale * (code.toUByte().toInt() - zeroPoint)
}

/** A class and how sure the model is of it. */
data class Score(val label: String, val value: Float)

/** The `count` best classes, best first; of equal ones, the first first. `codes` are a model's uint8 outputs. */
fun topScores(codes: ByteArray, quantization: Quantization, labels: List<String>, count: Int): List<Score> {
    require(codes.size == labels.size) { "The model has ${codes.size} outputs and ${labels.size} labels." }
    return codes.indices
        .sortedByDescending { codes[it].toUByte() }
        .take(count)
        .map { Score(labels[it], quantization.dequantize(codes[it])) }
}
