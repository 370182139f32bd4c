// Of the NDK's header of this name only what libc++ reads; the portability check only (docs/android.md).
#pragma once
#ifndef __ANDROID_API__
#define __ANDROID_API__ __ANDROID_MIN_SDK_VERSION__
#endif
