"""The Kotlin code of `examples/android`: what needs no Android is run, and compared with Pillow, LiteRT and NumPy.

Android's own classes cannot be had here. What uses them is compiled against declarations of what it uses.
"""

import importlib.util
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from conftest import fit_statistics
from conftest import randomize_statistics
from conftest import tiny_network
from PIL import Image
from PIL import ImageOps

from keras_mnv4 import export
from keras_mnv4 import qat

SOURCES = pathlib.Path(__file__).parent.parent.parent / "examples/android/app/src/main/kotlin/org/example/vision"
KERNEL = importlib.util.find_spec("run_kotlin_kernel")  # of the package kotlin-jupyter-kernel
LABELS = [f"class {index}" for index in range(38)] + ["naïve dog", "第三"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tensorflow,
    pytest.mark.skipif(KERNEL is None, reason="no Kotlin compiler: pip install kotlin-jupyter-kernel"),
    pytest.mark.skipif(shutil.which("java") is None, reason="no Java: apt-get install openjdk-17-jdk-headless"),
]

# A command line for the plain functions.
MAIN = """
import java.io.File
import org.example.vision.core.*

fun main(arguments: Array<String>) {
    fun bytes(index: Int) = File(arguments[index]).readBytes()
    fun number(index: Int) = arguments[index].toInt()
    when (arguments[0]) {
        "labels" -> println(runCatching { readLabels(bytes(1)).joinToString("\\n") }.getOrElse { it.message })
        "sampleSize" -> println(sampleSize(number(1), number(2), number(3)))
        "top" -> topScores(bytes(2), Quantization(arguments[3].toFloat(), number(4)), readLabels(bytes(1)), number(5))
            .forEach { println("${it.label}\\t${it.value}") }
        "fit" -> {
            val colors = bytes(1).toList().chunked(3) { (red, green, blue) ->
                (0x7f shl 24) or (red.toUByte().toInt() shl 16) or (green.toUByte().toInt() shl 8) or
                    blue.toUByte().toInt()
            }
            val picture = pictureOf(number(2), number(3), colors.toIntArray()).fit(number(4), number(5))
            File(arguments[6]).writeBytes(picture.bytes)
        }
    }
}
"""

# What the app uses of Android, AndroidX and LiteRT, package by package.
DECLARATIONS = {
    "android.content": """
open class Context {
    val assets: android.content.res.AssetManager get() = TODO()
    val contentResolver: ContentResolver get() = TODO()
    val packageName: String get() = TODO()
    val cacheDir: java.io.File get() = TODO()
    fun getString(id: Int, vararg values: Any): String = TODO()
}
class ContentResolver
class ActivityNotFoundException : RuntimeException()
""",
    "android.content.res": "class AssetManager { fun open(name: String): java.io.InputStream = TODO() }",
    "android.net": "class Uri { companion object { fun parse(text: String): Uri = TODO() } }",
    "android.os": """
class Bundle { fun getString(key: String): String? = TODO(); fun putString(key: String, value: String?) {} }
""",
    "android.graphics": """
class Bitmap {
    val width: Int get() = TODO()
    val height: Int get() = TODO()
    fun getPixels(to: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {}
}
class ImageDecoder {
    class Source
    class Size { val width: Int get() = TODO(); val height: Int get() = TODO() }
    class ImageInfo { val size: Size get() = TODO() }
    fun interface Listener { fun onHeaderDecoded(decoder: ImageDecoder, info: ImageInfo, source: Source) }
    var allocator: Int = 0
    fun setTargetSampleSize(size: Int) {}
    companion object {
        const val ALLOCATOR_SOFTWARE = 1
        fun createSource(resolver: android.content.ContentResolver, uri: android.net.Uri): Source = TODO()
        fun decodeBitmap(source: Source, listener: Listener): Bitmap = TODO()
    }
}
""",
    "android.widget": """
open class View { fun setOnClickListener(listener: (View) -> Unit) {} }
class ImageView : View() { fun setImageBitmap(bitmap: android.graphics.Bitmap?) {} }
open class TextView : View() { var text: CharSequence = ""; fun setText(id: Int) {} }
class Button : TextView()
""",
    "androidx.activity": """
import androidx.activity.result.*
import androidx.activity.result.contract.Contract
open class ComponentActivity : android.content.Context() {
    protected open fun onCreate(savedInstanceState: android.os.Bundle?) {}
    protected open fun onSaveInstanceState(outState: android.os.Bundle) {}
    protected open fun onDestroy() {}
    fun setContentView(id: Int) {}
    fun <T : android.widget.View> findViewById(id: Int): T = TODO()
    fun runOnUiThread(action: Runnable) {}
    fun <I, O> registerForActivityResult(contract: Contract<I, O>, callback: Callback<O>): Launcher<I> = TODO()
}
""",
    "androidx.activity.result": """
fun interface Callback<O> { fun onActivityResult(result: O) }
class Launcher<I> { fun launch(input: I) {} }
class PickVisualMediaRequest(kind: Any)
""",
    "androidx.activity.result.contract": """
open class Contract<I, O>
class ActivityResultContracts {
    class PickVisualMedia : Contract<androidx.activity.result.PickVisualMediaRequest, android.net.Uri?>() {
        object ImageOnly
    }
    class TakePicture : Contract<android.net.Uri, Boolean>()
}
""",
    "androidx.core.content": """
class FileProvider {
    companion object {
        fun getUriForFile(context: android.content.Context, authority: String, file: java.io.File): android.net.Uri =
            TODO()
    }
}
""",
    "org.tensorflow.lite": """
enum class DataType { UINT8 }
interface Tensor {
    fun dataType(): DataType
    fun shape(): IntArray
    fun quantizationParams(): Params
    class Params { val scale: Float get() = TODO(); val zeroPoint: Int get() = TODO() }
}
class Interpreter(model: java.nio.ByteBuffer) : AutoCloseable {
    fun getInputTensor(index: Int): Tensor = TODO()
    fun getOutputTensor(index: Int): Tensor = TODO()
    fun run(input: Any, output: Any) {}
    override fun close() {}
}
""",
    "org.example.vision": """
object R {
    object layout { const val main = 1 }
    object id { const val picture = 1; const val scores = 2; const val pick = 3; const val take = 4 }
    object string { const val no_camera = 1; const val score = 2 }
}
""",
}


def jars(pattern="*"):
    """The jars of the Kotlin compiler, joined as Java wants them."""
    folder = pathlib.Path(KERNEL.submodule_search_locations[0]) / "jars"
    return ":".join(sorted(map(str, folder.glob(f"{pattern}.jar"))))


def java(*command):
    done = subprocess.run(["java", *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def compile_kotlin(sources, output):
    """Compiles Kotlin files, warnings being errors."""
    compiler = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
    options = ["-no-stdlib", "-no-reflect", "-Werror", "-cp", jars("kotlin-stdlib-*")]
    java("-cp", jars(), compiler, *options, *sources, "-d", output)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs one of the commands of `MAIN`, and returns what it printed, line by line."""
    folder = tmp_path_factory.mktemp("kotlin")
    (folder / "Main.kt").write_text(MAIN)
    compile_kotlin([*(SOURCES / "core").glob("*.kt"), folder / "Main.kt"], folder / "core.jar")
    classes = f"{folder / 'core.jar'}:{jars('kotlin-stdlib-*')}"
    return lambda *arguments: java("-Dstdout.encoding=UTF-8", "-cp", classes, "MainKt", *arguments).splitlines()


@pytest.fixture(scope="module")
def app_file(real_photos, tmp_path_factory):
    """A file of the target `app` with 40 classes, of a network that tells photos apart."""
    path = tmp_path_factory.mktemp("files") / "app.tflite"
    photos = real_photos(16, 32).astype("float32")
    model = qat.quantize_model(fit_statistics(randomize_statistics(tiny_network(classes=len(LABELS))), photos))
    qat.calibrate(model, photos)
    export.to_litert(model, path, target="app", class_names=LABELS, samples=photos)
    return path


def photo(width, height):
    """A part of one of scikit-learn's photos."""
    from sklearn.datasets import load_sample_image

    return np.ascontiguousarray(load_sample_image("china.jpg")[:height, :width])


def fit(run, picture, width, height, folder):
    """`picture` as the app prepares it."""
    (folder / "picture").write_bytes(picture.tobytes())
    run("fit", folder / "picture", picture.shape[1], picture.shape[0], width, height, folder / "fitted")
    return np.frombuffer((folder / "fitted").read_bytes(), "uint8").reshape(height, width, 3)


def best(codes, scale, zero_point, count):
    """The labels and scores of the best `count` codes, by NumPy."""
    order = np.argsort(-codes.astype(int), kind="stable")[:count]
    return [(LABELS[index], float(np.float32(scale) * np.float32(int(codes[index]) - zero_point))) for index in order]


def top(run, app_file, codes, scale, zero_point, count, folder):
    (folder / "codes").write_bytes(codes.tobytes())
    lines = run("top", app_file, folder / "codes", np.float32(scale), zero_point, count)
    return [(label, float(np.float32(value))) for label, value in (line.split("\t") for line in lines)]


def test_only_the_core_does_without_android():
    for path in (SOURCES / "core").glob("*.kt"):
        text = path.read_text()
        assert not [name for name in ("import android", "import org.tensorflow") if name in text], path


def test_labels_are_read_as_they_were_written(run, app_file):
    assert run("labels", app_file) == LABELS


def test_files_without_labels_are_errors_that_say_what_to_do(run, app_file, tmp_path):
    content = app_file.read_bytes()
    for name, wrong in {
        "cut": content[: content.index(b"PK\x03\x04")],
        "renamed": content.replace(b"labels.txt", b"others.txt"),
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(wrong)
        (message,) = run("labels", tmp_path / name)
        assert message.endswith("in the model file: export it for the target app."), name


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((640, 427), (224, 224)),  # landscape
        ((301, 427), (96, 96)),  # portrait, half a pixel beside the middle
        ((50, 40), (96, 96)),  # enlarged
        ((97, 97), (97, 97)),  # as it is
        ((333, 211), (64, 48)),  # not square
    ],
)
def test_pictures_are_prepared_as_for_training(run, source, target, tmp_path):
    picture = photo(*source)
    expected = ImageOps.fit(Image.fromarray(picture), target, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(fit(run, picture, *target, tmp_path), np.asarray(expected))


@pytest.mark.parametrize(("scale", "zero_point"), [(1 / 256, 0), (0.043, 131)])
def test_scores_are_those_of_numpy(run, app_file, scale, zero_point, tmp_path):
    codes = np.random.default_rng(0).choice([0, 1, 127, 128, 200, 255], len(LABELS)).astype("uint8")  # many ties
    for count in (1, 7, 100):
        expected = best(codes, scale, zero_point, count)
        assert top(run, app_file, codes, scale, zero_point, count, tmp_path) == expected


def test_a_photo_gets_the_labels_that_litert_gives_in_python(run, app_file, tmp_path):
    """From the bytes of the photo to labels, all but the network in Kotlin."""
    model = export.LiteRTModel(app_file)
    picture = photo(640, 427)
    (codes,) = model.predict_codes(fit(run, picture, 32, 32, tmp_path)[None])
    scores = model.predict(np.asarray(ImageOps.fit(Image.fromarray(picture), (32, 32), Image.Resampling.BICUBIC))[None])
    order = np.argsort(-scores[0], kind="stable")[:3]
    expected = [(LABELS[index], float(scores[0, index])) for index in order]
    assert top(run, app_file, codes, *model.outputs[0]["quantization"], 3, tmp_path) == expected
    assert len(set(codes.tolist())) > 3


@pytest.mark.parametrize(("size", "expected"), [((4000, 3000), "4"), ((719, 5000), "1"), ((1440, 1440), "2")])
def test_photos_are_read_no_larger_than_needed(run, size, expected):
    assert run("sampleSize", *size, 720) == [expected]


def test_the_app_compiles_against_declarations_of_android(tmp_path):
    for package, text in DECLARATIONS.items():
        package_file = tmp_path / f"{package}.kt"
        package_file.write_text(f'@file:Suppress("UNUSED_PARAMETER", "unused")\npackage {package}\n{text}')
    compile_kotlin([*SOURCES.rglob("*.kt"), *tmp_path.glob("*.kt")], tmp_path / "app.jar")
