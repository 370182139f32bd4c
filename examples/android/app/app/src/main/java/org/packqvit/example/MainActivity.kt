package org.packqvit.example

import android.content.ActivityNotFoundException
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.net.Uri
import android.os.Bundle
import android.widget.Button
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import androidx.activity.result.contract.ActivityResultContracts.TakePicture
import androidx.core.content.FileProvider
import androidx.lifecycle.lifecycleScope
import java.io.File
import java.util.concurrent.Executors
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** Picks or takes a picture and shows its best classes with the time they took. */
class MainActivity : ComponentActivity() {
    // One thread for the model: the delegate spreads the work over ExecuTorch's own pool.
    private val worker = Executors.newSingleThreadExecutor().asCoroutineDispatcher()
    private var classifier: Classifier? = null
    private lateinit var picture: ImageView
    private lateinit var text: TextView
    private lateinit var buttons: List<Button>

    private val pick =
        registerForActivityResult(PickVisualMedia()) { uri -> if (uri != null) show { read(uri) } }
    private val take =
        registerForActivityResult(TakePicture()) { taken -> if (taken) show { read(photo) } }

    /** Where the camera application puts its picture. */
    private val photo: Uri by lazy {
        FileProvider.getUriForFile(this, "$packageName.pictures", File(cacheDir, "photo.jpg"))
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        buildViews()
        lifecycleScope.launch {
            attempt {
                classifier = withContext(worker) { Classifier(applicationContext) }
                buttons.forEach { it.isEnabled = true }
                getString(R.string.ready)
            }
        }
    }

    override fun onDestroy() {
        super.onDestroy()
        val loaded = classifier
        worker.executor.execute { loaded?.close() }
        worker.close() // what was handed in before still runs
    }

    private fun buildViews() {
        picture = ImageView(this).apply { adjustViewBounds = true }
        text = TextView(this).apply { setText(R.string.loading) }
        val pickButton = Button(this).apply {
            setText(R.string.pick)
            setOnClickListener { pick.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly)) }
        }
        val takeButton = Button(this).apply {
            setText(R.string.take)
            setOnClickListener { takePicture() }
        }
        buttons = listOf(pickButton, takeButton).onEach { it.isEnabled = false }
        val root = LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            fitsSystemWindows = true
            for (view in buttons + text + picture) addView(view)
        }
        setContentView(root)
    }

    private fun takePicture() {
        try {
            take.launch(photo)
        } catch (error: ActivityNotFoundException) {
            text.setText(R.string.no_camera)
        }
    }

    private fun show(source: () -> Bitmap) {
        val model = classifier ?: return
        lifecycleScope.launch {
            attempt {
                val (bitmap, result) = withContext(worker) { source().let { it to model.classify(it) } }
                picture.setImageBitmap(bitmap)
                describe(result)
            }
        }
    }

    /** Shows what the block gives, or why it failed. */
    private suspend fun attempt(block: suspend () -> String) {
        text.text =
            try {
                block()
            } catch (error: CancellationException) {
                throw error
            } catch (error: Exception) {
                error.toString()
            }
    }

    private fun describe(result: Result): String {
        val lines = result.guesses.map { "%7.3f  %s".format(it.score, it.name) }
        val times = "%.1f ms to prepare, %.1f ms in the model".format(result.prepareMilliseconds, result.runMilliseconds)
        return (lines + times).joinToString("\n")
    }

    /** The picture, upright, and not much larger than a model needs. */
    private fun read(uri: Uri): Bitmap =
        ImageDecoder.decodeBitmap(ImageDecoder.createSource(contentResolver, uri)) { decoder, info, _ ->
            decoder.setTargetSampleSize(maxOf(1, minOf(info.size.width, info.size.height) / SHORT_SIDE))
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE // a hardware bitmap has no pixels for the CPU
        }

    private companion object {
        /** At least, in pixels. A camera's whole picture can take more memory than an application gets. */
        const val SHORT_SIDE = 512
    }
}
