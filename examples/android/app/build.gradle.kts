plugins {
    alias(libs.plugins.android.application)
}

android {
    namespace = "org.example.vision"
    compileSdk = 37

    defaultConfig {
        applicationId = "org.example.vision"
        minSdk = 28 // ImageDecoder, which turns photos upright
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    androidResources {
        noCompress += "tflite" // weights hardly shrink, and an uncompressed file opens faster
    }
}

dependencies {
    implementation(libs.activity)
    implementation(libs.core)
    implementation(libs.litert)
}
