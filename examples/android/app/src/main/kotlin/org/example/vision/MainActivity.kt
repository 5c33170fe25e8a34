package org.example.vision

import android.content.ActivityNotFoundException
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.net.Uri
import android.os.Bundle
import android.widget.Button
import android.widget.ImageView
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import androidx.activity.result.contract.ActivityResultContracts.TakePicture
import androidx.core.content.FileProvider
import java.io.File
import java.util.concurrent.Executors
import org.example.vision.core.pictureOf
import org.example.vision.core.sampleSize

/** A picture from the gallery or the camera, and what the model says of it. */
class MainActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor()
    private val classifier = lazy { Classifier(assets) } // opened, used and closed by the worker

    private val pick = registerForActivityResult(PickVisualMedia()) { uri -> uri?.let(::show) }
    private val take = registerForActivityResult(TakePicture()) { taken -> if (taken) show(photo) }
    private val photo: Uri by lazy {
        val folder = File(cacheDir, "photos").apply { mkdirs() }
        FileProvider.getUriForFile(this, "$packageName.files", File(folder, "photo.jpg"))
    }
    private var shown: Uri? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        findViewById<Button>(R.id.pick).setOnClickListener { pickPhoto() }
        findViewById<Button>(R.id.take).setOnClickListener { takePhoto() }
        savedInstanceState?.getString(SHOWN)?.let { show(Uri.parse(it)) }
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        outState.putString(SHOWN, shown?.toString())
    }

    override fun onDestroy() {
        worker.execute { if (classifier.isInitialized()) classifier.value.close() }
        worker.shutdown()
        super.onDestroy()
    }

    private fun pickPhoto() = pick.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly))

    private fun takePhoto() {
        try {
            take.launch(photo)
        } catch (_: ActivityNotFoundException) {
            scoresView.setText(R.string.no_camera)
        }
    }

    private fun show(uri: Uri) {
        shown = uri
        worker.execute {
            val result = runCatching {
                val bitmap = readBitmap(uri, maxOf(LEAST_SIDE, classifier.value.height, classifier.value.width))
                bitmap to describe(bitmap)
            }
            runOnUiThread {
                findViewById<ImageView>(R.id.picture).setImageBitmap(result.getOrNull()?.first)
                scoresView.text = result.fold({ it.second }, { it.message ?: it.toString() })
            }
        }
    }

    /** The picture, upright, and no larger than is of use. */
    private fun readBitmap(uri: Uri, least: Int): Bitmap =
        ImageDecoder.decodeBitmap(ImageDecoder.createSource(contentResolver, uri)) { decoder, info, _ ->
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE // whose pixels can be read
            decoder.setTargetSampleSize(sampleSize(info.size.width, info.size.height, least))
        }

    private fun describe(bitmap: Bitmap): String {
        val colors = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(colors, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        val scores = classifier.value.classify(pictureOf(bitmap.width, bitmap.height, colors), RESULTS)
        return scores.joinToString("\n") { getString(R.string.score, 100 * it.value, it.label) }
    }

    private val scoresView: TextView get() = findViewById(R.id.scores)

    private companion object {
        const val RESULTS = 3
        const val LEAST_SIDE = 720 // pixels of the shorter side, for the screen
        const val SHOWN = "shown"
    }
}
