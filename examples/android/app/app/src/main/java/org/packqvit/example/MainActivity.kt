package org.packqvit.example

import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.net.Uri
import android.os.Build
import android.os.Bundle
import android.provider.MediaStore
import android.widget.Button
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import androidx.activity.result.contract.ActivityResultContracts.TakePicturePreview
import androidx.lifecycle.lifecycleScope
import java.util.concurrent.Executors
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
        registerForActivityResult(TakePicturePreview()) { bitmap -> if (bitmap != null) show { bitmap } }

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
            setOnClickListener { take.launch(null) }
        }
        buttons = listOf(pickButton, takeButton).onEach { it.isEnabled = false }
        val root = LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            fitsSystemWindows = true
            (buttons + text + picture).forEach(::addView)
        }
        setContentView(root)
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
            } catch (error: Exception) {
                if (error is kotlinx.coroutines.CancellationException) throw error
                error.toString()
            }
    }

    private fun describe(result: Result): String {
        val lines = result.guesses.map { "%7.3f  %s".format(it.score, it.name) }
        val times = "%.1f ms to prepare, %.1f ms in the model".format(result.prepareMilliseconds, result.runMilliseconds)
        return (lines + times).joinToString("\n")
    }

    private fun read(uri: Uri): Bitmap {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.P) {
            @Suppress("DEPRECATION") return MediaStore.Images.Media.getBitmap(contentResolver, uri)
        }
        // Pixels are read on the CPU: a hardware bitmap has none.
        return ImageDecoder.decodeBitmap(ImageDecoder.createSource(contentResolver, uri)) { decoder, _, _ ->
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
        }
    }
}
