// A plugin for qemu-user (6.0 or later) that counts the AArch64 instructions a guest executes between `hint #96` and
// `hint #97`, which every CPU executes as NOP. backend_cpp/runner/region.h places them around each inference.
//
//   qemu-aarch64 -d plugin -plugin ./libinstruction_counter.so,out=counts.json PROGRAM
//
// out: a JSON file {"regions": N, "instructions": N, "classes": {"sdot": N, ...}}. All threads of the guest count.
// QEMU's plugin interface is declared here as far as it is used, so that no header of QEMU is needed.

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*translation_callback)(qemu_plugin_id_t, struct qemu_plugin_tb*);
typedef void (*execution_callback)(unsigned cpu, void* data);
typedef void (*exit_callback)(qemu_plugin_id_t, void* data);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translation_callback);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn*, execution_callback, enum qemu_plugin_cb_flags,
                                            void*);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, exit_callback, void*);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn*);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

// ---- classes: the first match counts. Encodings: Arm Architecture Reference Manual, C4.1.

enum Class {
  kSdot,
  kSmmla,
  kSmlal,
  kSmull,
  kSadalp,
  kMla,
  kMul,
  kSqrdmulh,
  kTbl,
  kFmla,
  kScalarFloat,
  kOtherSimd,
  kSimdLoad,
  kSimdStore,
  kLoad,
  kStore,
  kBranch,
  kSve,
  kOther,
  kClassCount
};

static const char* const kNames[kClassCount] = {
    "sdot",         "smmla",      "smlal",     "smull",      "sadalp", "mla",   "mul",    "sqrdmulh", "tbl",  "fmla",
    "scalar float", "other simd", "simd load", "simd store", "load",   "store", "branch", "sve",      "other"};

struct Encoding {
  uint32_t mask;
  uint32_t value;
  enum Class class;
};

static const struct Encoding kEncodings[] = {
    {0x9fe0fc00, 0x0e809400, kSdot},   // SDOT, UDOT
    {0x9fc0f400, 0x0f80e000, kSdot},   // by element
    {0xdfe0fc00, 0x4e80a400, kSmmla},  // SMMLA, UMMLA
    {0x9f20fc00, 0x0e208000, kSmlal},  // SMLAL, UMLAL, and their second halves
    {0x9f00f400, 0x0f002000, kSmlal},     {0x9f20fc00, 0x0e20c000, kSmull},
    {0x9f00f400, 0x0f00a000, kSmull},     {0x9f3ffc00, 0x0e206800, kSadalp},
    {0xbf20fc00, 0x0e209400, kMla},       {0xbf00f400, 0x2f000000, kMla},
    {0xbf20fc00, 0x0e209c00, kMul},       {0xbf00f400, 0x0f008000, kMul},
    {0xbf20fc00, 0x2e20b400, kSqrdmulh},  {0xbf00f400, 0x0f00d000, kSqrdmulh},
    {0xbfe08c00, 0x0e000000, kTbl},   // TBL, TBX
    {0xbf20fc00, 0x0e20cc00, kFmla},  // FMLA, FMLS
    {0xbf80b400, 0x0f801000, kFmla},      {0x9e000000, 0x1e000000, kScalarFloat},
    {0x0e000000, 0x0e000000, kOtherSimd}, {0xbe400000, 0x0c400000, kSimdLoad},  // LD1 ... LD4
    {0xbe400000, 0x0c000000, kSimdStore}, {0x3f000000, 0x1c000000, kSimdLoad},  // literal
    {0x3f000000, 0x18000000, kLoad},      {0x3e400000, 0x2c400000, kSimdLoad},  // pair
    {0x3e400000, 0x2c000000, kSimdStore}, {0x3e400000, 0x28400000, kLoad},
    {0x3e400000, 0x28000000, kStore},     {0x3e400000, 0x3c400000, kSimdLoad},  // one register
    {0x3e400000, 0x3c000000, kSimdStore}, {0x3ec00000, 0x38000000, kStore},
    {0x3e000000, 0x38000000, kLoad},      {0x3f400000, 0x08400000, kLoad},  // exclusive and ordered
    {0x3f400000, 0x08000000, kStore},     {0x1c000000, 0x14000000, kBranch},
    {0x1e000000, 0x04000000, kSve},       {0, 0, kOther},
};

static enum Class classify(uint32_t instruction) {
  size_t i = 0;
  while ((instruction & kEncodings[i].mask) != kEncodings[i].value) ++i;
  return kEncodings[i].class;
}

// ---- counting: a run is a sequence of instructions that are always executed together.

struct Run {
  struct Run* next;
  uint64_t executions;  // within a region
  uint32_t instructions;
  uint32_t classes[kClassCount];
};

static struct Run* all_runs;
static uint64_t regions;
static bool in_region;
static const char* output_path;

static struct Run* new_run(void) {
  struct Run* run = calloc(1, sizeof(*run));
  if (run == NULL) abort();
  run->next = __atomic_load_n(&all_runs, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(&all_runs, &run->next, run, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
  }
  return run;
}

static void on_run(unsigned cpu, void* run) {
  (void)cpu;
  if (__atomic_load_n(&in_region, __ATOMIC_RELAXED)) {
    __atomic_fetch_add(&((struct Run*)run)->executions, 1, __ATOMIC_RELAXED);
  }
}

static void on_begin(unsigned cpu, void* data) {
  (void)cpu;
  (void)data;
  __atomic_fetch_add(&regions, 1, __ATOMIC_RELAXED);
  __atomic_store_n(&in_region, true, __ATOMIC_RELAXED);
}

static void on_end(unsigned cpu, void* data) {
  (void)cpu;
  (void)data;
  __atomic_store_n(&in_region, false, __ATOMIC_RELAXED);
}

static uint32_t hint(uint32_t number) { return 0xd503201fu | number << 5; }

// A marker ends a run, so that the instructions before and behind it in a block are counted apart.
static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
  (void)id;
  struct Run* run = NULL;
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); ++i) {
    struct qemu_plugin_insn* instruction = qemu_plugin_tb_get_insn(block, i);
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(instruction), sizeof(word));
    if (word == hint(96) || word == hint(97)) {
      qemu_plugin_register_vcpu_insn_exec_cb(instruction, word == hint(96) ? on_begin : on_end, QEMU_PLUGIN_CB_NO_REGS,
                                             NULL);
      run = NULL;
      continue;
    }
    if (run == NULL) {
      run = new_run();
      qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_run, QEMU_PLUGIN_CB_NO_REGS, run);
    }
    ++run->instructions;
    ++run->classes[classify(word)];
  }
}

static void write_counts(qemu_plugin_id_t id, void* data) {
  (void)id;
  (void)data;
  uint64_t total = 0;
  uint64_t classes[kClassCount] = {0};
  for (const struct Run* run = all_runs; run != NULL; run = run->next) {
    total += run->executions * run->instructions;
    for (size_t i = 0; i < kClassCount; ++i) classes[i] += run->executions * run->classes[i];
  }
  FILE* file = fopen(output_path, "w");
  if (file == NULL) {
    perror(output_path);
    return;
  }
  fprintf(file, "{\"regions\": %" PRIu64 ", \"instructions\": %" PRIu64 ", \"classes\": {", regions, total);
  const char* separator = "";
  for (size_t i = 0; i < kClassCount; ++i) {
    if (classes[i] == 0) continue;
    fprintf(file, "%s\"%s\": %" PRIu64, separator, kNames[i], classes[i]);
    separator = ", ";
  }
  fprintf(file, "}}\n");
  fclose(file);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int count, char** arguments) {
  (void)info;
  for (int i = 0; i < count; ++i) {
    if (strncmp(arguments[i], "out=", 4) == 0) output_path = arguments[i] + 4;
  }
  if (output_path == NULL) {
    fprintf(stderr, "instruction_counter: out=FILE is missing\n");
    return -1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_atexit_cb(id, write_counts, NULL);
  return 0;
}
