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
 * A program exported with `--input uint8 --top-k 5`: RGB bytes [1, size, size, 3] in, class indices and scores out.
 *
 * The size, the crop and the names of the classes are the program's own: it tells them by its constant methods.
 *
 * Not thread-safe: run one picture at a time.
 */
class Classifier(context: Context) : AutoCloseable {
    private val module = Module.load(copyOfAsset(context, MODEL).path, Module.LOAD_MODE_MMAP)
    private val methods = module.getMethods().toSet()
    private val size = constant("image_size").toInt().toInt()
    private val cropFraction = constant("image_crop_fraction").toDouble()
    private val squashes = constant("image_crop").toStr() == "squash"
    private val names = if ("class_names" in methods) constant("class_names").toStr().split("\n") else emptyList()
    private val pixels = IntArray(size * size)
    private val bytes = ByteArray(CHANNELS * size * size)

    init {
        check(constant("image_layout").toStr() == "hwc" && "top_k" in methods) {
            "$MODEL has to be exported with --input uint8 --top-k 5"
        }
    }

    fun classify(picture: Bitmap): Result {
        val start = System.nanoTime()
        fillBytes(crop(picture))
        val input = Tensor.fromBlobUnsigned(bytes, longArrayOf(1, size.toLong(), size.toLong(), CHANNELS.toLong()))
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

    private fun constant(name: String): EValue {
        check(name in methods) { "$MODEL does not tell its $name: export it with packqvit export" }
        return module.execute(name)[0]
    }

    /** The picture as the model was evaluated: short side (or both) to size / fraction, then the centre. */
    private fun crop(picture: Bitmap): Bitmap {
        val short = (size / cropFraction).toInt()
        val ratio = short.toDouble() / minOf(picture.width, picture.height)
        val width = if (squashes) short else maxOf(size, Math.round(picture.width * ratio).toInt())
        val height = if (squashes) short else maxOf(size, Math.round(picture.height * ratio).toInt())
        val scaled = Bitmap.createScaledBitmap(picture, width, height, true)
        return Bitmap.createBitmap(scaled, (width - size) / 2, (height - size) / 2, size, size)
    }

    private fun fillBytes(image: Bitmap) {
        image.getPixels(pixels, 0, size, 0, 0, size, size)
        var at = 0
        for (pixel in pixels) {
            bytes[at++] = (pixel shr 16).toByte()
            bytes[at++] = (pixel shr 8).toByte()
            bytes[at++] = pixel.toByte()
        }
    }

    private companion object {
        const val MODEL = "model.pte"
        const val CHANNELS = 3

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
