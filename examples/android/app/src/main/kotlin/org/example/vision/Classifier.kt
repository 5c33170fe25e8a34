package org.example.vision

import android.content.res.AssetManager
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.example.vision.core.Picture
import org.example.vision.core.Quantization
import org.example.vision.core.Score
import org.example.vision.core.fit
import org.example.vision.core.readLabels
import org.example.vision.core.topScores
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter

/** The `app` file among the app's assets, run by LiteRT on the CPU. Not for several threads at once. */
class Classifier(assets: AssetManager) : AutoCloseable {
    private val labels: List<String>
    private val interpreter: Interpreter
    private val quantization: Quantization

    /** Height and width of the pictures that the model takes; others are cropped and resized. */
    val height: Int
    val width: Int

    init {
        val file = assets.open(MODEL_FILE).use { it.readBytes() }
        labels = readLabels(file)
        interpreter = Interpreter(ByteBuffer.allocateDirect(file.size).order(ByteOrder.nativeOrder()).put(file))
        val input = interpreter.getInputTensor(0)
        val output = interpreter.getOutputTensor(0)
        check(input.dataType() == DataType.UINT8 && output.dataType() == DataType.UINT8) {
            "$MODEL_FILE takes ${input.dataType()} and gives ${output.dataType()}: export it for the target app."
        }
        height = input.shape()[1]
        width = input.shape()[2]
        quantization = output.quantizationParams().let { Quantization(it.scale, it.zeroPoint) }
    }

    /** The `count` classes that the picture most likely shows. */
    fun classify(picture: Picture, count: Int): List<Score> {
        val codes = ByteArray(labels.size)
        interpreter.run(ByteBuffer.wrap(picture.fit(width, height).bytes), ByteBuffer.wrap(codes))
        return topScores(codes, quantization, labels, count)
    }

    override fun close() = interpreter.close()

    companion object {
        const val MODEL_FILE = "vision.tflite"
    }
}
