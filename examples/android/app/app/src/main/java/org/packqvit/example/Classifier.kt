package org.packqvit.example

import android.content.Context
import android.graphics.Bitmap
import java.io.File
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** One of the best classes of a picture. */
data class Guess(val name: String, val score: Float)

/** What a picture shows, and how long the steps took. */
data class Result(val guesses: List<Guess>, val prepareMilliseconds: Double, val runMilliseconds: Double)

/**
 * A program exported with `--input uint8 --top-k 5`: RGB bytes [1, SIZE, SIZE, 3] in, class indices and scores out.
 *
 * Not thread-safe: run one picture at a time.
 */
class Classifier(context: Context) : AutoCloseable {
    private val module = Module.load(copyOfAsset(context, MODEL).path, Module.LOAD_MODE_MMAP)
    private val names = context.assets.open(NAMES).bufferedReader().readLines()
    private val pixels = IntArray(SIZE * SIZE)
    private val bytes = ByteArray(CHANNELS * SIZE * SIZE)

    fun classify(picture: Bitmap): Result {
        val start = System.nanoTime()
        fillBytes(centreCrop(picture))
        val input = Tensor.fromBlobUnsigned(bytes, longArrayOf(1, SIZE.toLong(), SIZE.toLong(), CHANNELS.toLong()))
        val prepared = System.nanoTime()
        val outputs = module.forward(EValue.from(input))
        val indices = outputs[0].toTensor().dataAsIntArray
        val scores = outputs[1].toTensor().dataAsFloatArray
        val done = System.nanoTime()
        val guesses = indices.zip(scores.asIterable()) { index, score -> Guess(nameOf(index), score) }
        return Result(guesses, (prepared - start) / 1e6, (done - prepared) / 1e6)
    }

    override fun close() = module.destroy()

    private fun nameOf(index: Int) = names.getOrElse(index) { "class $index" }

    /** The middle of the picture as the model was evaluated: short side to SIZE / 0.9, then the centre. */
    private fun centreCrop(picture: Bitmap): Bitmap {
        val ratio = SIZE / CROP_FRACTION / minOf(picture.width, picture.height)
        val width = maxOf(SIZE, Math.round(picture.width * ratio))
        val height = maxOf(SIZE, Math.round(picture.height * ratio))
        val scaled = Bitmap.createScaledBitmap(picture, width, height, true)
        return Bitmap.createBitmap(scaled, (width - SIZE) / 2, (height - SIZE) / 2, SIZE, SIZE)
    }

    private fun fillBytes(image: Bitmap) {
        image.getPixels(pixels, 0, SIZE, 0, 0, SIZE, SIZE)
        var at = 0
        for (pixel in pixels) {
            bytes[at++] = (pixel shr 16).toByte()
            bytes[at++] = (pixel shr 8).toByte()
            bytes[at++] = pixel.toByte()
        }
    }

    private companion object {
        const val MODEL = "model.pte"
        const val NAMES = "class_names.txt"
        const val SIZE = 224
        const val CHANNELS = 3
        const val CROP_FRACTION = 0.9f

        /** ExecuTorch maps a file, which an asset is not. Replaced when the application is updated. */
        fun copyOfAsset(context: Context, name: String): File {
            val file = File(context.filesDir, name)
            val installed = context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime
            if (!file.exists() || file.lastModified() < installed) {
                val partial = File(context.filesDir, "$name.partial")
                context.assets.open(name).use { source -> partial.outputStream().use { source.copyTo(it) } }
                check(partial.renameTo(file)) { "cannot write $file" }
            }
            return file
        }
    }
}
