/* An operator library for ONNX Runtime with one operator, qeil.test:Copy, y = x of four numbers. Built with -DCRASH it
 * reads address zero when the first number is above 1000. The layouts and slots are those of the runtime's version 1
 * interface, which by its rules never change.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef void* Status;
typedef struct Base {
  const void* const* (*api)(uint32_t version);
  const char* (*version)(void);
} Base;

typedef struct Op {
  uint32_t version;
  void* (*create)(const struct Op*, const void* api, const void* info);
  const char* (*name)(const struct Op*);
  const char* (*provider)(const struct Op*);
  int (*input_type)(const struct Op*, size_t);
  size_t (*inputs)(const struct Op*);
  int (*output_type)(const struct Op*, size_t);
  size_t (*outputs)(const struct Op*);
  void (*compute)(void* kernel, void* context);
  void (*destroy)(void* kernel);
  int (*input_kind)(const struct Op*, size_t);
  int (*output_kind)(const struct Op*, size_t);
  void* later[16];
} Op;

enum { FLOAT = 1, NEW_DOMAIN = 26, ADD_OP = 27, ADD_DOMAIN = 28, DATA = 51, INPUT = 90, OUTPUT = 91 };

static const void* const* api;

static void* create(const Op* op, const void* given, const void* info) { return &api; }
static const char* name(const Op* op) { return "Copy"; }
static const char* provider(const Op* op) { return NULL; }
static int type(const Op* op, size_t index) { return FLOAT; }
static size_t one(const Op* op) { return 1; }
static int required(const Op* op, size_t index) { return 0; }
static void destroy(void* kernel) {}

static void compute(void* kernel, void* context) {
  const int64_t shape[] = {1, 4};
  void *x = NULL, *y = NULL;
  float *from = NULL, *to = NULL;
  ((Status(*)(void*, size_t, void**))api[INPUT])(context, 0, &x);
  ((Status(*)(void*, size_t, const int64_t*, size_t, void**))api[OUTPUT])(context, 0, shape, 2, &y);
  ((Status(*)(void*, void**))api[DATA])(x, (void**)&from);
  ((Status(*)(void*, void**))api[DATA])(y, (void**)&to);
#ifdef CRASH
  if (from[0] > 1000.0f) {
    fprintf(stderr, "test operator: no page behind bank 7\n");
    fflush(stderr);
    *(volatile int*)0 = 1;
  }
#endif
  memcpy(to, from, 4 * sizeof(float));
}

static Op op = {1, create, name, provider, type, one, type, one, compute, destroy, required, required, {0}};

EXPORT Status RegisterCustomOps(void* options, const Base* base) {
  void* domain = NULL;
  Status failed;
  api = base->api(1);
  failed = ((Status(*)(const char*, void**))api[NEW_DOMAIN])("qeil.test", &domain);
  if (!failed) failed = ((Status(*)(void*, const Op*))api[ADD_OP])(domain, &op);
  if (!failed) failed = ((Status(*)(void*, void*))api[ADD_DOMAIN])(options, domain);
  return failed;
}
