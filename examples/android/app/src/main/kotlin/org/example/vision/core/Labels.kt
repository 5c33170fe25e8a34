package org.example.vision.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.zip.ZipInputStream

/** Name of the label file in the zip archive at the end of an `app` file: one class name a line. */
const val LABELS_FILE = "labels.txt"

/** The class names in the bytes of an `app` file, in the order of the model's outputs. */
fun readLabels(file: ByteArray): List<String> {
    val start = archiveStart(file)
    ZipInputStream(file.inputStream(start, file.size - start)).use { archive ->
        generateSequence { archive.nextEntry }.firstOrNull { it.name == LABELS_FILE }
            ?: throw IllegalArgumentException("No $LABELS_FILE in the model file: export it for the target app.")
        return archive.bufferedReader().readLines()
    }
}

/**
 * Where the first entry of the archive begins.
 *
 * A zip archive is found from its end: a last record says where the directory lies, and the first line of the
 * directory where the first entry does. Offsets count from the start of the file, or of the archive in it.
 */
private fun archiveStart(file: ByteArray): Int {
    val bytes = ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN)
    val end = (file.size - END_BYTES downTo 0).firstOrNull { bytes.getInt(it) == END_SIGNATURE }
        ?: throw IllegalArgumentException("No labels in the model file: export it for the target app.")
    val directorySize = bytes.getInt(end + 12)
    val directoryOffset = bytes.getInt(end + 16)
    val directory = end - directorySize
    return bytes.getInt(directory + 42) + (directory - directoryOffset)
}

private const val END_SIGNATURE = 0x06054b50
private const val END_BYTES = 22 // the last record, where no comment follows
