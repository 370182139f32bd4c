// What libc++ asks of bionic and musl does not declare; the portability check only (docs/android.md).
#pragma once
#include <locale.h>
#include <stdlib.h>
static inline long long strtoll_l(const char* s, char** end, int base, locale_t) { return strtoll(s, end, base); }
static inline unsigned long long strtoull_l(const char* s, char** end, int base, locale_t) {
  return strtoull(s, end, base);
}
