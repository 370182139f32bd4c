plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "org.packqvit.example"
    compileSdk = 35

    defaultConfig {
        applicationId = "org.packqvit.example"
        minSdk = 28 // ImageDecoder; the native library asks for 26
        targetSdk = 35
        versionCode = 1
        versionName = "1.0"
        ndk { abiFilters += "arm64-v8a" }
    }

    // Copied into a file at the first start; compressing int4 weights gains next to nothing.
    androidResources { noCompress += "pte" }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }
}

dependencies {
    // ExecuTorch with our backend in its libexecutorch.so (docs/android.md). A file has no list of what it depends on:
    // the next three are the versions in ExecuTorch's extension/android/executorch_android/build.gradle.
    implementation(files("libs/executorch.aar"))
    implementation("com.facebook.fbjni:fbjni:0.7.0")
    implementation("com.facebook.soloader:nativeloader:0.10.5")
    implementation("androidx.core:core-ktx:1.13.1")
    implementation("androidx.activity:activity-ktx:1.9.3")
    implementation("androidx.lifecycle:lifecycle-runtime-ktx:2.8.7")
    implementation("org.jetbrains.kotlinx:kotlinx-coroutines-android:1.9.0")
}
