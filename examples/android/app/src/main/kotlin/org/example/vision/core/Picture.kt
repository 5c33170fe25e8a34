package org.example.vision.core

import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt

private const val CHANNELS = 3

/** A picture: bytes of red, green and blue, row by row, as the input tensor of an `app` file wants them. */
class Picture(val width: Int, val height: Int, val bytes: ByteArray = ByteArray(CHANNELS * width * height)) {
    init {
        require(bytes.size == CHANNELS * width * height) { "${bytes.size} bytes are no picture of $width x $height." }
    }
}

/** A picture from Android's colours: one number a pixel, in it alpha, red, green and blue. Alpha is left out. */
fun pictureOf(width: Int, height: Int, colors: IntArray): Picture {
    val bytes = ByteArray(CHANNELS * colors.size)
    colors.forEachIndexed { index, color ->
        bytes[CHANNELS * index] = (color shr 16).toByte()
        bytes[CHANNELS * index + 1] = (color shr 8).toByte()
        bytes[CHANNELS * index + 2] = color.toByte()
    }
    return Picture(width, height, bytes)
}

/** Every how many pixels a photo may be read, for its shorter side to keep at least `least` of them. */
fun sampleSize(width: Int, height: Int, least: Int): Int = max(1, min(width, height) / least)

/**
 * The largest middle part of the wanted aspect ratio, resized with antialiased bicubic interpolation.
 *
 * These are the pictures that `keras_mnv4` trains on: `ImageOps.fit` of Pillow, byte for byte.
 */
fun Picture.fit(width: Int, height: Int): Picture {
    val scale = min(this.width.toDouble() / width, this.height.toDouble() / height)
    return resampleRows(width, scale).resampleRows(height, scale)
}

/** Resamples the middle of each row to `size` pixels and transposes the result: done twice, it stands upright. */
private fun Picture.resampleRows(size: Int, scale: Double): Picture {
    val start = (width - size * scale) / 2
    val result = Picture(height, size)
    for (x in 0 until size) {
        val taps = Taps(start + (x + 0.5) * scale, scale, width)
        for (y in 0 until height) {
            for (channel in 0 until CHANNELS) {
                var sum = ONE / 2 // so that the shift below rounds
                for ((tap, weight) in taps.weights.withIndex()) {
                    sum += weight * bytes[CHANNELS * (y * width + taps.first + tap) + channel].toUByte().toInt()
                }
                result.bytes[CHANNELS * (x * height + y) + channel] = (sum shr BITS).coerceIn(0, 255).toByte()
            }
        }
    }
    return result
}

/** The pixels around `center` from which a new one is made, and their weights in units of `1 / ONE`. */
private class Taps(center: Double, scale: Double, length: Int) {
    private val stretch = max(scale, 1.0) // where a picture shrinks, the kernel grows: that is the antialiasing
    val first = max((center - RADIUS * stretch + 0.5).toInt(), 0)
    private val last = min((center + RADIUS * stretch + 0.5).toInt(), length)
    val weights: IntArray

    init {
        val exact = DoubleArray(last - first) { cubic((first + it + 0.5 - center) / stretch) }
        val sum = exact.sum()
        weights = IntArray(exact.size) { (exact[it] / sum * ONE).roundToInt() }
    }
}

/** Keys's cubic convolution kernel with a = -1/2. */
private fun cubic(offset: Double): Double {
    val x = abs(offset)
    return when {
        x < 1 -> (1.5 * x - 2.5) * x * x + 1
        x < 2 -> ((-0.5 * x + 2.5) * x - 4) * x + 2
        else -> 0.0
    }
}

private const val RADIUS = 2.0
private const val BITS = 22 // weights below two, times bytes, with a sign: 32 bits
private const val ONE = 1 shl BITS
